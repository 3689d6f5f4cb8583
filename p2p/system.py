"""Whether this system has what transfers are made of. Imports nothing that another system may not have."""

from __future__ import annotations

import os
import signal
import socket
import sys
from importlib.util import find_spec

# What stands below the promises of docs/threat-model.md, and cannot be done without: that no link is followed, that no
# path is resolved twice, that two runs do not write into one folder, that a closed terminal ends a run in order.
_NEEDED = (
    (os, ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "geteuid", "statvfs")),
    (signal, ("SIGHUP",)),
    (socket, ("SO_REUSEPORT",)),
)
_MODULES = ("fcntl", "resource")
_CALLED = {"win32": "Windows", "emscripten": "a browser", "wasi": "WASI"}


def what_is_missing() -> str | None:
    """A sentence for the person; None: p2p can run here."""
    lacking = [f"{module.__name__}.{name}" for module, names in _NEEDED for name in names if not hasattr(module, name)]
    lacking += [name for name in _MODULES if not _is_there(name)]
    if not lacking and os.open in os.supports_dir_fd:
        return None
    advice = "; on Windows it runs in the Windows Subsystem for Linux (WSL)" if sys.platform == "win32" else ""
    return (
        f"p2p runs on Linux and on macOS, and not on {_CALLED.get(sys.platform, sys.platform)}, "
        f"which has no {lacking[0] if lacking else 'openat'}{advice}."
    )


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
    except ValueError:  # it is loaded already, in a way that leaves no specification
        return module in sys.modules
