"""Receiving onto exFAT: no links, no modes, no case, names that it refuses, no rename that spares what is there.

By FUSE, from a file: where it lies, whether the kernel knows exFAT, makes no difference. `./run tests` installs both.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from receiving_stage import Stage
from sending_stage import make
from storing import tick

from p2p.core.errors import ExitCode
from p2p.core.transfer import events
from p2p.core.transfer.messages import CHUNK
from p2p.core.transfer.names import is_temporary
from p2p.io.receiving.destination import Policy
from p2p.io.receiving.end import ReceivingEnd
from p2p.io.receiving.journal import Journals
from p2p.io.sending.end import SendingEnd
from p2p.io.sending.walk import Exclude

pytestmark = pytest.mark.netlab(needs="root")

SIZE = 64 * 2**20


def call(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    image, mounted = tmp_path / "image", tmp_path / "disk"
    mounted.mkdir()
    image.touch()
    os.truncate(image, SIZE)
    call("mkfs.exfat", image)
    device = call("losetup", "-f", "--show", image)
    try:
        call("mount.exfat-fuse", device, mounted)
        try:
            yield mounted
        finally:
            call("umount", mounted)
    finally:
        call("losetup", "-d", device)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        yield Stage(selector)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state"


def send(stage: Stage, tree: Path) -> SendingEnd:
    return SendingEnd.of_tree([tree], Exclude([]), bytes(16), stage.selector)


def receive(stage: Stage, inbox: Path, policy: Policy = Policy.RENAME, state: Path | None = None) -> ReceivingEnd:
    return ReceivingEnd(inbox, policy, None if state is None else Journals(state), stage.selector)


@pytest.mark.parametrize("policy", [Policy.RENAME, Policy.OVERWRITE])
def test_no_file_of_a_transfer_replaces_another(tmp_path: Path, disk: Path, stage: Stage, policy: Policy) -> None:
    """Names that are two over there and one here, small ones and large ones, in folders that fall together too."""
    large = {name: os.urandom(CHUNK) for name in ("Large", "large", "LARGE")}
    small = {name: name.encode() for name in ("Small.txt", "small.txt", "SMALL.TXT", "what?", "what*")}
    tree = make(tmp_path / "tree", {**large, **small, "Folder": {"a": b"1"}, "folder": {"A": b"2", "a": b"3"}})
    for path in tree.rglob("*"):
        os.utime(path, (10**9, 10**9))
    stage.run(send(stage, tree), receive(stage, disk, policy))
    assert stage.problems == []
    here = [path.read_bytes() for path in (disk / "tree").rglob("*") if path.is_file()]
    assert sorted(here) == sorted([*large.values(), *small.values(), b"1", b"2", b"3"])
    told = {event.path: event.saved_as for event in stage.received if isinstance(event, events.FileStored)}
    assert told["tree/what?"] != told["tree/what*"]
    assert {told["tree/what?"], told["tree/what*"]} == {"what_", "what_ (1)"}
    assert len({told[f"tree/{name}"].casefold() for name in (*large, *small)}) == len(large) + len(small)


def test_overwriting_replaces_what_was_there_before(tmp_path: Path, disk: Path, stage: Stage) -> None:
    things = {"a": b"new", "B": os.urandom(2 * CHUNK)}
    tree = make(tmp_path / "tree", things)
    inbox = make(disk / "tree", {"A": b"older", "b": b"older"})
    for path in inbox.iterdir():
        os.utime(path, (10**9, 10**9))
    tick(tmp_path)
    stage.run(send(stage, tree), receive(stage, disk, Policy.OVERWRITE))
    assert sorted(path.read_bytes() for path in inbox.iterdir()) == sorted(things.values())


def test_links_are_told_and_the_rest_arrives(tmp_path: Path, disk: Path, stage: Stage) -> None:
    tree = make(tmp_path / "tree", {"a": b"abc", "b": "linked", "c": ("->", "a")})
    stage.run(send(stage, tree), receive(stage, disk))
    assert sorted(stage.problems) == [
        "tree/b cannot be stored: there are no such links on that file system",
        "tree/c cannot be stored: there are no such links on that file system",
    ]
    assert [path.name for path in (disk / "tree").iterdir()] == ["a"]


def test_the_same_command_again_goes_on(tmp_path: Path, disk: Path, stage: Stage, state: Path) -> None:
    things = {"a": os.urandom(3 * CHUNK), "b": os.urandom(5 * CHUNK), "c?": b"small"}
    tree = make(tmp_path / "tree", things)
    end = receive(stage, disk, state=state)
    stage.run(send(stage, tree), end, until=lambda _: end.machine.progress.done > 6 * CHUNK)
    again = Stage(stage.selector)
    end = receive(again, disk, state=state)
    again.run(send(again, tree), end)
    assert again.kept >= 5 * CHUNK
    assert sorted(path.read_bytes() for path in (disk / "tree").iterdir()) == sorted(things.values())
    assert [path.name for path in disk.iterdir()] == ["tree"]
    assert list((state / "journals").glob("*.db")) == []


def test_a_disk_that_is_full_ends_it_and_leaves_no_half_file(tmp_path: Path, disk: Path, stage: Stage) -> None:
    tree = make(tmp_path / "tree", {"a": os.urandom(CHUNK), "b": ("hole", 2 * SIZE)})
    stage.run(send(stage, tree), receive(stage, disk))
    assert stage.line.failure is not None
    assert stage.line.failure.code is ExitCode.STORAGE
    assert "full" in stage.line.failure.message
    left = [path for path in disk.rglob("*") if path.is_file()]
    assert not any(is_temporary(path.name) for path in left)
    assert [path.read_bytes() == (tree / path.name).read_bytes() for path in left] in ([], [True])
