"""How a sentence calls what the person at this end may change: an option of a command, or a parameter of a function.

Sentences are made where neither is known, so they mark what has to be called by its name, and whoever shows them says
which name that is. The marks are control characters, which `escape` lets through from nobody else.
"""

from __future__ import annotations

import re
from typing import Final

PEER_PROGRAM: Final = "python -m p2p.peer"  # how another machine's person is told to call it: it is so in every install

# Each option that a transfer's sentences name, and the parameter of `p2p.send` and `p2p.receive` in its place.
PARAMETERS: Final = {
    "--server": "`server`",
    "--server (or P2P_SERVER)": "`server`",
    "--stun": "`stun`",
    "--no-relay": "`relay=False`",
    "--code": "`code`",
    "--no-code": "`no_code`",
    "--remember": "`remember`",
    "--out": "`out`",
    "--out FOLDER": "`out`",
    "send --from-command 'tar c FOLDER'": "the output of `tar` as a `stream`",
    "--out -": "`into`",
    "recv --discard": "`python -m p2p.peer recv --discard`",
}
_MARKED: Final = re.compile("\x0e([^\x0e\x0f]*)\x0f")


def option(words: str) -> str:
    """One of PARAMETERS, in a sentence."""
    if words not in PARAMETERS:
        raise KeyError(words)
    return f"\x0e{words}\x0f"


def command(words: str) -> str:
    """A command of this program, to be run on this machine, in a sentence."""
    return f"\x0e{PEER_PROGRAM} {words}\x0f"


def spoken(sentence: str, program: str = PEER_PROGRAM) -> str:
    """For who runs `program`."""
    return _MARKED.sub(lambda found: found[1].replace(PEER_PROGRAM, program), sentence)


def as_parameters(sentence: str) -> str:
    """For who calls the functions. What no function does remains a command."""
    return _MARKED.sub(lambda found: PARAMETERS.get(found[1], found[1]), sentence)
