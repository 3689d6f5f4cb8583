"""Send files straight from one person's machine to another's: docs/python.md.

    import p2p

    with p2p.Server(port=0) as server:
        p2p.send("holiday.jpg", server=server.address, on_code=print)
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name, and importing it takes longer than all the rest here
if TYPE_CHECKING:
    from p2p.api import events as events
    from p2p.api.cancel import Cancel as Cancel
    from p2p.api.errors import ArgumentError as ArgumentError
    from p2p.api.errors import BrokenOffError as BrokenOffError
    from p2p.api.errors import CancelledError as CancelledError
    from p2p.api.errors import IncompleteError as IncompleteError
    from p2p.api.errors import IntegrityError as IntegrityError
    from p2p.api.errors import NoPathError as NoPathError
    from p2p.api.errors import NoPeerError as NoPeerError
    from p2p.api.errors import RefusedError as RefusedError
    from p2p.api.errors import StorageError as StorageError
    from p2p.api.errors import TransferError as TransferError
    from p2p.api.errors import WrongCodeError as WrongCodeError
    from p2p.api.many import receive_many as receive_many
    from p2p.api.results import File as File
    from p2p.api.results import Missed as Missed
    from p2p.api.results import Offer as Offer
    from p2p.api.results import Offered as Offered
    from p2p.api.results import Progress as Progress
    from p2p.api.results import Result as Result
    from p2p.api.server import Server as Server
    from p2p.api.transfers import receive as receive
    from p2p.api.transfers import send as send
    from p2p.core.errors import ExitCode as ExitCode

__version__ = "0.1.0"

_HOMES = {
    "p2p.api": ("events",),
    "p2p.api.cancel": ("Cancel",),
    "p2p.api.errors": (
        "ArgumentError",
        "BrokenOffError",
        "CancelledError",
        "IncompleteError",
        "IntegrityError",
        "NoPathError",
        "NoPeerError",
        "RefusedError",
        "StorageError",
        "TransferError",
        "WrongCodeError",
    ),
    "p2p.api.many": ("receive_many",),
    "p2p.api.results": ("File", "Missed", "Offer", "Offered", "Progress", "Result"),
    "p2p.api.server": ("Server",),
    "p2p.api.transfers": ("receive", "send"),
    "p2p.core.errors": ("ExitCode",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604  (they are names)


def __getattr__(name: str) -> object:
    """Loaded when it is asked for: `import p2p` costs nothing, and so the commands answer at once."""
    if (home := _HOME.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if (missing := import_module("p2p.system").what_is_missing()) is not None:
        raise ImportError(missing)
    module = import_module(f"{home}.{name}" if home == "p2p.api" else home)
    found: object = module if home == "p2p.api" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
