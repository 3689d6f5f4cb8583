"""Anonymous network namespaces, and running things inside them.

A namespace is nothing but an open file descriptor: it has no name that two labs could share, and
the kernel takes it away with the last process, socket and descriptor in it, whatever kills us.

Traps that shape this module: ``setns`` moves one *thread*; a socket stays in the namespace it was
made in; a process starts in the namespace of the thread that forked it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # linux/sched.h
CLONE_NEWPID = 0x20000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare and os.setns exist from Python 3.12 on


def unshare(flags: int) -> None:
    """Move the calling thread (for CLONE_NEWPID: its children) into new namespaces.

    Raises ``OSError`` (EPERM without CAP_SYS_ADMIN).
    """
    if _libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace behind ``fd``; raises ``OSError``."""
    if _libc.setns(fd, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def in_new_thread(function: Callable[[], T]) -> T:
    """Run ``function`` in a thread of its own and hand back its result or its exception."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="netlab", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Namespace:
    """A network namespace, kept by its file descriptor until :meth:`close`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def enter(self) -> None:
        """Move the calling thread in. For threads that live for nothing else."""
        setns(self.fd, CLONE_NEWNET)

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` in a thread inside this namespace; its exceptions come back to us."""

        def inside() -> T:
            self.enter()
            return function()

        return in_new_thread(inside)

    def close(self) -> None:
        """Let go of it. Sockets and processes inside keep it alive."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def create(count: int) -> list[Namespace]:
    """Make ``count`` empty network namespaces; raises ``OSError`` (EPERM, ENOSPC)."""
    made: list[Namespace] = []

    def run() -> None:
        for _ in range(count):
            unshare(CLONE_NEWNET)
            made.append(Namespace(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)))

    try:
        in_new_thread(run)
    except BaseException:
        for namespace in made:
            namespace.close()
        raise
    return made


class Family:
    """Processes that cannot outlive us: all in one PID namespace, whose init waits on a pipe of ours.

    When we close the pipe or die, even by SIGKILL, init ends, and the kernel then kills every
    process in the namespace, grandchildren and daemons too. (PR_SET_PDEATHSIG would reach direct
    children only, and fires already when the *thread* that forked them ends.)

    Inside, ``os.getpid()`` counts from 1; ``Popen.pid`` is the number as seen from outside.
    """

    def __init__(self) -> None:
        # One long-lived thread does all the forking: which PID namespace a child gets is a
        # property of the forking thread, and such a thread can start no further threads itself.
        self._forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlab-forker")
        self._init: subprocess.Popen[bytes] | None = None
        self._children: list[subprocess.Popen[Any]] = []

    def popen(self, namespace: Namespace, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """``subprocess.Popen`` inside ``namespace``; raises what that raises."""
        return self._forker.submit(self._fork, namespace, argv, kwargs).result()

    def _fork(self, namespace: Namespace, argv: Sequence[str], kwargs: dict[str, Any]) -> subprocess.Popen[Any]:
        if self._init is None:
            unshare(CLONE_NEWPID)
            self._init = subprocess.Popen(
                ["cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        namespace.enter()
        child: subprocess.Popen[Any] = subprocess.Popen(argv, **kwargs)
        self._children.append(child)
        return child

    def close(self) -> None:
        """Kill and reap every process, close the pipes to them. Unread output is lost."""
        self._forker.shutdown()
        if self._init is None:
            return
        if self._init.stdin is not None:
            self._init.stdin.close()
        # Children first: an init cannot end before all of its namespace is reaped, and these are
        # ours to reap.
        for child in self._children:
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    with suppress(OSError):  # unsent bytes in a buffer, and nobody left to read them
                        stream.close()
        self._init.wait()
        self._init = None
        self._children.clear()
