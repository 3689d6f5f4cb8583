"""How a transfer fails: one class, and one below it for each end that a program would want to catch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from p2p.core.calling import as_parameters
from p2p.core.errors import ExitCode, Failure, P2PError

if TYPE_CHECKING:
    from p2p.api.results import Result


class TransferError(P2PError):
    """A transfer that did not succeed. str() is a sentence for a person: what happened, and what to do next.

    `exit_code` is the one with which the command would end.
    """

    code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, exit_code: ExitCode | None = None) -> None:
        super().__init__(as_parameters(message))
        self.exit_code = self.code if exit_code is None else exit_code


class ArgumentError(TransferError, ValueError):
    """The arguments make no sense, together or each. Nothing was begun."""

    code = ExitCode.USAGE


class NoPeerError(TransferError):
    """The other side, or the server, was not there in time."""

    code = ExitCode.NO_PEER


class WrongCodeError(TransferError):
    """The two codes were not the same, or too many tried others."""

    code = ExitCode.WRONG_CODE


class RefusedError(TransferError):
    """The receiver did not want it."""

    code = ExitCode.REFUSED


class NoPathError(TransferError):
    """The two found each other, and no way between their networks."""

    code = ExitCode.NO_PATH


class BrokenOffError(TransferError):
    """The other side ended, or was lost for good. The same two calls go on with what has arrived."""

    code = ExitCode.INTERRUPTED


class IntegrityError(TransferError):
    """What arrived, or was read, is not what it has to be."""

    code = ExitCode.INTEGRITY


class StorageError(TransferError):
    """Something cannot be read here, or stored there."""

    code = ExitCode.STORAGE


class CancelledError(TransferError):
    """Ended by `Cancel.cancel`."""

    code = ExitCode.CANCELLED


class IncompleteError(TransferError):
    """The transfer is done, but some of it did not cross: `result.missed` says what, and why."""

    def __init__(self, result: Result, exit_code: ExitCode) -> None:
        count = result.missed_count
        first = f" The first: {result.missed[0]}" if result.missed else ""
        super().__init__(f"Not everything arrived: {count:,} left out.{first}", exit_code)
        self.result = result


def error_of(failure: Failure) -> TransferError:
    """The class that fits."""
    return _BY_CODE.get(failure.code, TransferError)(failure.message, failure.code)


_BY_CODE: dict[ExitCode, type[TransferError]] = {
    each.code: each
    for each in (
        ArgumentError,
        NoPeerError,
        WrongCodeError,
        RefusedError,
        NoPathError,
        BrokenOffError,
        IntegrityError,
        StorageError,
        CancelledError,
    )
}
