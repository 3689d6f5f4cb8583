"""How a run ends on the screen that did not come to its end: in one sentence, and in the last event of --json."""

from __future__ import annotations

import sys
import traceback

from p2p.core.errors import ExitCode, Failure, InternalError
from p2p.core.peer import events, explain
from p2p.core.text import escape
from p2p.io.terminal.screen import Screen


def stop(screen: Screen, code: ExitCode, message: str) -> ExitCode:
    screen.handle_event(events.Failed(Failure(code, message)), 0.0)
    return code


def break_down(screen: Screen, error: Exception) -> ExitCode:
    """Nobody expected it. The other side, if there was one, has been told by the loop."""
    if isinstance(error, OSError):
        message = explain.system_refuses(error)
    else:
        message = explain.internal_error(error) + ("" if screen.is_verbose else ", with what --verbose shows")
    try:
        origin = error.__cause__ if isinstance(error, InternalError) else error
        for line in "".join(traceback.format_exception(origin)).splitlines():
            screen.note(escape(line))
        return stop(screen, ExitCode.INTERNAL, message)
    except Exception:  # it is the screen that is broken
        print(f"{message}.", file=sys.stderr)
        return ExitCode.INTERNAL
