"""Errors that name who is to blame, and the failures that reach a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class P2PError(Exception):
    """Base of every error raised by this package."""


class CallerError(P2PError):
    """Our own caller broke the rules of an interface."""


class InternalError(P2PError):
    """This program made a mistake; what was raised is the cause."""


class RemoteError(P2PError):
    """The other peer, or whoever sends in its name, broke the protocol."""


class DecodeError(RemoteError):
    """Bytes that are not a message. Decoders raise this and nothing else, whatever the bytes."""


class VersionError(DecodeError):
    """A well-formed header of a protocol version that this program does not speak."""

    def __init__(self, version: int) -> None:
        super().__init__(f"protocol version {version} is not spoken here: please update")
        self.version = version


class ExitCode(IntEnum):
    """Exit status of `python -m p2p.peer`; scripts rely on these numbers."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    NO_PEER = 3
    WRONG_CODE = 4
    REFUSED = 5
    NO_PATH = 6
    INTERRUPTED = 7
    INTEGRITY = 8
    STORAGE = 9
    CANCELLED = 130


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run ended without success: what happened, to which file or address, what to do next."""

    code: ExitCode
    message: str
