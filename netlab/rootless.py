"""A lab without root: a user namespace of our own, in which we have every capability.

Our user id stays what it is (files keep their owner), and the capabilities are made ambient, so
that every program we start has them too. Being uid 0 inside would be the usual way, but a program
that finds itself root tries to become somebody else: tcpdump ends with "Couldn't change to 'root'",
for in a namespace of one user there is nobody else to become.

    python -m netlab.rootless COMMAND ARGUMENT...      runs a command in such a namespace
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

CLONE_NEWUSER = 0x10000000  # linux/sched.h
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2  # linux/prctl.h
CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: two words of 32 bits for each set
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21  # linux/capability.h
LAST_CAPABILITY = 63  # all that two words can hold

CHOICE = "NETLAB_ROOTLESS"  # environment: 1 forces the namespace, 0 forbids it, unset: where it is needed
STATE = "NETLAB_USER_NAMESPACE"  # environment, ours: the namespace's inode, or why there is none
STAND_IN = 1000  # what root is called inside, when it asks for the namespace: not 0, see above

_libc = ctypes.CDLL(None, use_errno=True)


class Choice(Enum):
    """What the environment says about a user namespace."""

    WHERE_NEEDED = ""
    NEVER = "0"
    ALWAYS = "1"


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """One word of each set."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def choice() -> Choice:
    """Raises ``ValueError`` for a value that means nothing."""
    value = os.environ.get(CHOICE, "")
    if value not in {each.value for each in Choice}:
        raise ValueError(f"{CHOICE} is {value!r}: set it to 1 (always), to 0 (never), or not at all (where needed)")
    return Choice(value)


def active() -> bool:
    """Whether this process is in a user namespace that this module made, itself or by an ancestor."""
    return os.environ.get(STATE) == str(Path("/proc/self/ns/user").stat().st_ino)


def refusal() -> str:
    """Why there is no user namespace although one was needed; empty when nothing was refused."""
    state = os.environ.get(STATE, "")
    return "" if state.isdigit() else state


def enter_where_needed() -> bool:
    """Enter a user namespace if the environment says so, or if labs cannot be built without; whether it did.

    A refusal is no error here: what cannot be done then says so itself, with :func:`refusal`.
    Raises ``ValueError`` for a choice that means nothing.
    """
    wanted = choice()
    if active() or wanted is Choice.NEVER or (wanted is Choice.WHERE_NEEDED and _privileged()):
        return False
    try:
        enter()
    except OSError as error:
        os.environ[STATE] = f"no user namespace can be entered: {error.strerror}"
        return False
    return True


def enter() -> None:
    """Move this process into a user namespace of its own; what it starts inherits all capabilities.

    Raises ``OSError``: the kernel wants a process of a single thread (EINVAL), a limit or a
    sandbox forbids it (EPERM, ENOSPC, EUSERS).
    """
    if _threads() > 1:
        words = "this process has several threads already; start it by `python -m netlab.rootless COMMAND`"
        raise OSError(0, words)
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWUSER), "unshare")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")  # else no gid_map without privilege
    Path("/proc/self/uid_map").write_text(f"{user or STAND_IN} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group or STAND_IN} {group} 1", encoding="ascii")
    _hand_down(_capabilities())
    os.environ[STATE] = str(Path("/proc/self/ns/user").stat().st_ino)
    # iptables-legacy locks a file in /run, which is not ours to write to. It only has to exist.
    os.environ.setdefault("XTABLES_LOCKFILE", os.devnull)


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _privileged() -> bool:
    held = _capabilities()[0].effective
    return all(held >> each & 1 for each in (CAP_NET_ADMIN, CAP_SYS_ADMIN))


def _capabilities() -> ctypes.Array[_Sets]:
    sets = (_Sets * 2)()
    _check(_libc.capget(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), sets), "capget")
    return sets


def _hand_down(sets: ctypes.Array[_Sets]) -> None:
    """Make all that is permitted inheritable and ambient: an exec as a user other than 0 keeps it."""
    for word in sets:
        word.inheritable = word.permitted
    _check(_libc.capset(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), sets), "capset")
    for capability in range(LAST_CAPABILITY + 1):
        if sets[capability // 32].permitted >> capability % 32 & 1:
            _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0), "prctl")


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def main(arguments: Sequence[str]) -> int:
    """Replace this process by the command; returns only when that cannot be done."""
    if not arguments:
        print("usage: python -m netlab.rootless COMMAND [ARGUMENT...]", file=sys.stderr)
        return 2
    try:
        if not active():
            enter()
        os.execvp(arguments[0], list(arguments))
    except OSError as error:
        print(f"netlab: {arguments[0]} cannot be run without root: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
