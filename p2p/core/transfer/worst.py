"""Which of several things that did not cross decides the exit code."""

from __future__ import annotations

from p2p.core.errors import ExitCode


def worse(one: ExitCode, other: ExitCode) -> ExitCode:
    """Of two reasons why something did not cross: content that changed, then anything, then none."""
    order = (ExitCode.INTEGRITY, ExitCode.STORAGE)
    return next((code for code in order if code in (one, other)), one if one is not ExitCode.DONE else other)
