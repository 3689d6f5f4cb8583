"""A lab in a user namespace; as root it is made all the same, for it can be forced."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 60  # seconds; reached only when something is broken
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("NETLAB_")} | {
    "PYTHONPATH": os.pathsep.join(sys.path)
}
LAB = """
import os, sys, socket
from netlab import rootless
from netlab.lab import Lab
from netlab.nat import FULL_CONE, NONE
from netlab.topology import two_nats
rootless.enter()
with Lab(two_nats(FULL_CONE, NONE)) as lab:
    {}
"""


def wrapped(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netlab.rootless", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LIMIT, env=ENVIRONMENT | environment
    )


def scripted(line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LAB.format(line)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT, env=ENVIRONMENT)


@pytest.mark.netlab
def test_a_command_gets_the_capabilities_and_no_user_id_0() -> None:
    said = wrapped("sh", "-c", "id -u; grep CapAmb /proc/self/status; cat /proc/self/setgroups")
    user, ambient, groups = said.stdout.splitlines()
    assert int(user) == (os.geteuid() or 1000)
    assert int(ambient.split()[1], 16) & (1 << 12 | 1 << 21), "CAP_NET_ADMIN, CAP_SYS_ADMIN"
    assert groups == "deny"


@pytest.mark.netlab
def test_files_keep_their_owner(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert wrapped("touch", str(made)).returncode == 0
    assert made.stat().st_uid == os.geteuid()


@pytest.mark.netlab
def test_tcpdump_captures_without_becoming_somebody_else(tmp_path: Path) -> None:
    pcap = tmp_path / "pcap"
    said = scripted(
        f"with lab.capture('server', {str(pcap)!r}):"
        " lab.host('alice').socket().sendto(b'look at me', (lab.host('server').address, 9))"
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert b"look at me" in pcap.read_bytes()


@pytest.mark.netlab
@pytest.mark.skipif(shutil.which("iptables-legacy") is None, reason="no iptables-legacy here")
def test_iptables_legacy_finds_a_file_that_it_may_lock() -> None:
    said = scripted("print(lab.host('left').run(['iptables-legacy', '-w', '-S'], capture_output=True, text=True))")
    assert "-P FORWARD ACCEPT" in said.stdout, said
    assert "lock file" not in said.stdout


@pytest.mark.netlab
def test_a_process_of_several_threads_is_told_another_way() -> None:
    code = (
        "import threading; from netlab import rootless;"
        "stop = threading.Event(); threading.Thread(target=stop.wait).start();"
        "print(rootless.enter_where_needed(), rootless.active(), rootless.refusal()); stop.set()"
    )
    environment = ENVIRONMENT | {"NETLAB_ROOTLESS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT, env=environment
    )
    assert done.stdout.startswith("False False no user namespace can be entered: this process has several threads")
    assert "python -m netlab.rootless COMMAND" in done.stdout


@pytest.mark.netlab
def test_the_command_line_enters_by_itself_and_says_what_is_missing() -> None:
    words = ["-m", "netlab", "up", "full-cone-x-symmetric", "--shell", "bob"]
    done = subprocess.run(
        [sys.executable, *words], input="ip -o -4 addr show dev eth0\nid -u\n", capture_output=True, text=True,
        check=True, timeout=LIMIT, env=ENVIRONMENT | {"NETLAB_ROOTLESS": "1", "SHELL": "/bin/sh"},
    )  # fmt: skip
    assert done.stderr.startswith("Without root, in a user namespace: ")
    assert "only root can mount" in done.stderr.splitlines()[0]
    assert " nsenter --user=/proc/" in done.stderr
    assert "192.168.2.10/24" in done.stdout
    assert done.stdout.splitlines()[-1] != "0"


@pytest.mark.netlab
@pytest.mark.parametrize("words", [["run", "one-lan-none", "--", "true"], ["probe", "one-lan-none"]])
def test_every_command_says_once_what_is_left_out(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "netlab", *words], capture_output=True, text=True, check=True, timeout=LIMIT,
        env=ENVIRONMENT | {"NETLAB_ROOTLESS": "1"},
    )  # fmt: skip
    (said,) = done.stderr.splitlines()
    assert said.startswith("Without root, in a user namespace: ")
    assert "only root can mount" in said


def test_a_command_that_does_not_exist_and_none_at_all_are_one_sentence() -> None:
    assert wrapped().returncode == 2
    said = wrapped("no-such-program")
    assert said.returncode == 1
    assert said.stderr == "netlab: no-such-program cannot be run without root: No such file or directory\n"


@pytest.mark.netlab
@pytest.mark.parametrize(("choice", "enters"), [("", False), ("0", False), ("1", True)])
def test_where_root_is_at_hand_nothing_changes_unless_asked_for(choice: str, enters: bool) -> None:
    # Under a run without root the parent's namespace already gives all that is needed.
    code = "from netlab import rootless; print(rootless.enter_where_needed())"
    environment = ENVIRONMENT | {"NETLAB_ROOTLESS": choice}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT, env=environment
    )
    assert done.stdout == f"{enters}\n"
