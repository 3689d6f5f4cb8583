"""A run of tests that is killed in the middle leaves nothing on the machine."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from leftovers import users_now, users_of

WORKERS = 4
LIMIT = 120  # seconds; workers without a controller interrupt their test, and end 10 s later if it goes on

SUITE = """
import contextlib, os, pathlib, subprocess, time
import pytest
from netlab.faults import FaultPlan
from netlab.impair import Impairment
from netlab.nat import FULL_CONE, PORT_RESTRICTED_MAPPER, SYMMETRIC
from netlab.requirements import lacking
from netlab.topology import two_nats

@pytest.mark.parametrize("number", range(8))
def test_in_the_middle_of_something(netlab, number):
    lab = netlab(two_nats(FULL_CONE if lacking(["port-mapper"]) else PORT_RESTRICTED_MAPPER, SYMMETRIC))
    with contextlib.ExitStack() as stack:
        if not lacking(["tun"]):
            stack.enter_context(lab.impair("alice", up=Impairment(delay=0.001), seed=1))
        stack.enter_context(lab.inject("server", FaultPlan()))
        stack.enter_context(lab.capture_all(pathlib.Path(f"{number}.captures")))
        for name in ("alice", "server"):
            busy = "sleep 1000 & setsid sleep 1000 & echo up; exec sleep 1000"
            assert lab.host(name).popen(["sh", "-c", busy], stdout=subprocess.PIPE).stdout.readline()
        spaces = [os.fstat(lab.host(name).namespace.fd).st_ino for name in lab.plan.nodes]
        part = pathlib.Path(f"{number}.part")
        part.write_text(f"{os.getpid()} " + " ".join(map(str, spaces)))
        part.rename(f"{number}.up")
        time.sleep(1000)
"""


@pytest.mark.netlab
@pytest.mark.parametrize("whom", ["controller", "workers"])
def test_nothing_is_left_of_a_parallel_run_after_sigkill(tmp_path: Path, whom: str) -> None:
    """Workers that lost their controller can still tidy up; those that are killed themselves cannot."""
    interfaces = socket.if_nameindex()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="ascii")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "netlab.pytest_plugin", "-p", "no:cacheprovider"]
    tests = subprocess.Popen(
        [*command, "-n", str(WORKERS), "--basetemp", str(tmp_path / "base")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with ExitStack() as stack:
        stack.callback(tests.wait)
        stack.callback(tests.kill)
        # Until every worker holds a lab, each in a test that does not end.
        deadline = time.monotonic() + LIMIT
        while len(list(tmp_path.glob("*.up"))) < WORKERS:
            assert tests.poll() is None, "the tests ended by themselves"
            assert time.monotonic() < deadline, "the labs did not come up"
            time.sleep(0.1)
        workers, spaces = made(tmp_path)
        used = stack.enter_context(users_of(spaces))
        assert len(used) >= WORKERS * (1 + 6), "each worker, and three processes on each of two hosts"
        ends = [stack.enter_context(os.fdopen(os.pidfd_open(pid))) for pid in used]
        if whom == "workers":
            tests.send_signal(signal.SIGSTOP)  # or it would start others in their place
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
        tests.kill()
        for end in ends:  # a pidfd becomes readable when its process has ended
            assert select.select([end], [], [], LIMIT)[0], "a process outlived the tests"
        assert users_now(spaces) == set()
    assert list(temporary.iterdir()) == []
    assert socket.if_nameindex() == interfaces


def made(folder: Path) -> tuple[set[int], set[int]]:
    """The workers of all labs that came up, and the inodes of their namespaces."""
    parts = [[int(word) for word in path.read_text(encoding="ascii").split()] for path in folder.glob("*.up")]
    return {worker for worker, *_ in parts}, {inode for _, *spaces in parts for inode in spaces}
