"""The programs `p2p` and `p2p-server`, from their first moment: a signal ends them in one line, whatever is imported.

This is loaded before all the rest, so it is light. Before it, Python itself starts, and is interrupted in its own way.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType

FAILED = 1
CANCELLED = 130
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one is missing on some systems


def peer() -> int:
    """Returns the exit code."""
    return _run("p2p.peer", CANCELLED, b"Stopped.\n")


def server() -> int:
    """Returns the exit code: 0 where a signal ended it, also one that came before it listened."""
    return _run("p2p.server", 0, b"")


def called(module: str) -> str:
    """The program as the person has called it: `p2p`, or `python3 -m p2p.peer`."""
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:  # by -m
        return f"{_stem(sys.orig_argv[0])} -m {module}"
    return _stem(sys.argv[0])


def _run(module: str, stopped: int, word: bytes) -> int:
    """`stopped`: the exit code where a signal ends it before anything was begun; `word` is said then."""
    _catch(lambda _, __: _leave(stopped, word))
    missing: str | None = import_module("p2p.system").what_is_missing()
    if missing is not None:
        print(missing, file=sys.stderr)
        return FAILED
    main: Callable[[list[str], str], int] = import_module(module).main
    code = stopped
    try:
        _catch(_interrupt)
        code = main(sys.argv[1:], called(module))
    except KeyboardInterrupt:  # between two lines of our own
        os.write(2, word)
    finally:
        _catch(lambda _, __: _leave(code, b""))  # all is done: what is left is that Python ends
    return code


def _catch(handler: Callable[[int, FrameType | None], object]) -> None:
    """What whoever started us has switched off stays so: Ctrl-C in the background, SIGHUP by nohup."""
    for name in _SIGNALS:
        number: int | None = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _leave(code: int, word: bytes) -> None:
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.write(2, word)
    except (OSError, RuntimeError, ValueError, AttributeError):
        pass  # closed, never there, or just being written to
    os._exit(code)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".exe").removesuffix("-script.pyw") or path
