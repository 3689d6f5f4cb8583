"""Folders and links that are received: where they go, what they look like, and that nothing leads out of them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from storing import NUMBERS, announce, begin, entry, finish, names, problems, snapshot, tick, whole

from p2p.core.transfer.entries import Folder, Hardlink, Symlink
from p2p.core.transfer.events import Announced, LeaveFolder, MakeFolder, MakeHardlink, MakeSymlink, Whole
from p2p.core.transfer.names import is_temporary
from p2p.io.receiving import folders, naming, taken
from p2p.io.receiving.destination import Destination, Policy
from p2p.io.receiving.jobs import Discard, Finish, Job, Stored
from p2p.io.receiving.journal import Node
from p2p.io.receiving.parts import Found
from p2p.io.receiving.taken import Names

LONG_AGO = 1_000_000_000_123_456_789


def make(destination: Destination, name: str, parent: int | None = None, mode: int = 0o755) -> int:
    number = next(NUMBERS)
    assert not problems(destination.carry_out([MakeFolder(number, parent, Folder(name, mode, LONG_AGO))]))
    return number


def store_in(destination: Destination, parent: int | None, name: str, content: bytes = b"abc") -> str:
    return names(destination.carry_out([Whole(announce(destination, entry(name), parent), content, b"")]))[0]


def leave(destination: Destination, number: int) -> str:
    return names(destination.carry_out([LeaveFolder(number)]))[-1]


def symlink(destination: Destination, name: str, target: str, parent: int | None = None) -> list[str]:
    job = MakeSymlink(next(NUMBERS), parent, Symlink(name, LONG_AGO, target))
    outcomes = destination.carry_out([job])
    return problems(outcomes) or names(outcomes)


def hardlink(destination: Destination, name: str, to: int, parent: int | None = None) -> list[str]:
    outcomes = destination.carry_out([MakeHardlink(next(NUMBERS), parent, Hardlink(name, to))])
    return problems(outcomes) or names(outcomes)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "a.txt").write_bytes(b"precious")
    return outside


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return inbox


def test_a_folder_gets_mode_and_time_when_its_last_file_is_stored(inbox: Path) -> None:
    with Destination(inbox) as destination:
        outer = make(destination, "outer", mode=0o7500)
        inner = make(destination, "inner", outer, mode=0o000)
        late = announce(destination, entry("late"), inner)
        assert destination.carry_out([LeaveFolder(inner), LeaveFolder(outer)]) == []
        assert stat.S_IMODE((inbox / "outer").stat().st_mode) == 0o700
        outcomes = destination.carry_out([Whole(late, b"abc", b"")])
        assert outcomes == [Stored(late, "late"), Stored(inner, "inner"), Stored(outer, "outer")]
    for path in (inbox / "outer", inbox / "outer" / "inner"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert path.stat().st_mtime_ns == LONG_AGO
    assert (inbox / "outer" / "inner" / "late").read_bytes() == b"abc"


def test_a_set_group_bit_of_this_place_stays(inbox: Path) -> None:
    inbox.chmod(0o2755)
    with Destination(inbox) as destination:
        leave(destination, make(destination, "a", mode=0o755))
    assert stat.S_IMODE((inbox / "a").stat().st_mode) == 0o2755


def test_thousands_of_folders_that_wait_need_few_descriptors(inbox: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Destination(inbox) as destination:
        jobs: list[Job] = []
        contents: list[Job] = []
        for name in range(1000):
            folder, file = next(NUMBERS), next(NUMBERS)
            jobs += [MakeFolder(folder, None, Folder(f"{name}", 0o755, LONG_AGO))]
            jobs += [Announced(file, folder, f"{name}/x", entry("x")), LeaveFolder(folder)]
            contents.append(Whole(file, b"abc", b""))
        assert destination.carry_out(jobs) == []
        assert len(os.listdir("/proc/self/fd")) <= before + folders.MAX_OPEN + 2
        for start in range(0, 1000, 50):
            assert len(names(destination.carry_out(contents[start : start + 50]))) == 100
    assert len(os.listdir("/proc/self/fd")) == before
    assert all((inbox / f"{name}" / "x").read_bytes() == b"abc" for name in range(1000))


# taken names


def test_a_folder_whose_name_is_taken_is_numbered_once_and_all_goes_into_it(inbox: Path) -> None:
    (inbox / "a" / "b").mkdir(parents=True)
    (inbox / "a (1)").touch()
    with Destination(inbox) as destination:
        outer = make(destination, "a")
        inner = make(destination, "b", outer)
        assert store_in(destination, inner, "x") == "x"
        assert (leave(destination, inner), leave(destination, outer)) == ("b", "a (2)")
    assert (inbox / "a (2)" / "b" / "x").read_bytes() == b"abc"
    assert list((inbox / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("has_nameless", [True, False])
def test_overwriting_takes_the_place_of_files_and_enters_folders(
    inbox: Path, outside: Path, has_nameless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_nameless:
        monkeypatch.setattr("p2p.io.receiving.contents.open_nameless", lambda _: None)
    (inbox / "a").mkdir(mode=0o711)
    (inbox / "a" / "x").write_bytes(b"old")
    (inbox / "a" / "kept").write_bytes(b"kept")
    (inbox / "a" / "l").symlink_to(outside / "a.txt")
    (inbox / "folder").mkdir()
    (inbox / "file").write_bytes(b"mine")
    before = snapshot(outside)
    tick(inbox)
    with Destination(inbox, policy=Policy.OVERWRITE) as destination:
        folder = make(destination, "a")
        assert store_in(destination, folder, "x") == "x"
        assert store_in(destination, folder, "l") == "l"
        assert leave(destination, folder) == "a"
        assert store_in(destination, None, "folder") == "folder (1)"
        assert leave(destination, make(destination, "file")) == "file (1)"
        assert symlink(destination, "file", "a/x") == ["file"]
    assert (inbox / "a" / "x").read_bytes() == (inbox / "a" / "l").read_bytes() == b"abc"
    assert not (inbox / "a" / "l").is_symlink()
    assert (inbox / "a" / "kept").read_bytes() == b"kept"
    assert stat.S_IMODE((inbox / "a").stat().st_mode) == 0o711
    assert (inbox / "folder").is_dir()
    assert os.readlink(inbox / "file") == "a/x"
    assert snapshot(outside) == before
    assert not any(is_temporary(path.name) for path in inbox.rglob("*"))


def test_what_this_transfer_stored_is_never_overwritten(inbox: Path) -> None:
    with Destination(inbox, policy=Policy.OVERWRITE) as destination:
        assert [store_in(destination, None, "x", content) for content in (b"one", b"two")] == ["x", "x (1)"]
        part = begin(destination, entry("x"), b"three")
        assert finish(destination, part, size=5) == ["x (2)"]
    assert (inbox / "x").read_bytes() == b"one"


@pytest.mark.parametrize("policy", list(Policy))
def test_a_link_is_never_entered(inbox: Path, outside: Path, policy: Policy) -> None:
    (inbox / "a").symlink_to(outside)
    before = snapshot(outside)
    tick(inbox)
    with Destination(inbox, policy=policy) as destination:
        folder = make(destination, "a")
        store_in(destination, folder, "a.txt")
        assert leave(destination, folder) == "a (1)"
    assert (inbox / "a (1)" / "a.txt").read_bytes() == b"abc"
    assert snapshot(outside) == before


@pytest.mark.parametrize("policy", list(Policy))
def test_what_was_just_made_as_a_link_is_not_entered(inbox: Path, policy: Policy) -> None:
    with Destination(inbox, policy=policy) as destination:
        real = make(destination, "real")
        assert symlink(destination, "a", "real") == ["a"]
        folder = make(destination, "a")
        store_in(destination, folder, "x")
        assert (leave(destination, folder), leave(destination, real)) == ("a (1)", "real")
    assert list((inbox / "real").iterdir()) == []


@pytest.mark.parametrize("policy", list(Policy))
def test_a_file_and_then_a_folder_of_that_name(inbox: Path, policy: Policy) -> None:
    with Destination(inbox, policy=policy) as destination:
        assert whole(destination, entry("a")) == "a"
        assert leave(destination, make(destination, "a")) == "a (1)"
        assert whole(destination, entry("a (1)")) == "a (1) (1)"


@pytest.mark.parametrize("bad", ["a/b", "..", ".", "", "/etc", "a\0b", "x" * 256, ".p2p-0.part", "../outside/a.txt"])
def test_a_name_that_is_none_is_a_problem_of_its_own(inbox: Path, outside: Path, bad: str) -> None:
    (inbox / "a").mkdir()
    before = snapshot(outside)
    with Destination(inbox) as destination:
        file, folder, inner = (next(NUMBERS) for _ in range(3))
        part = destination.open(announce(destination, entry(bad)), bad)
        part.write(0, [b"abc"])
        jobs: list[Job] = [
            Announced(file, None, bad, entry(bad)),
            Whole(file, b"abc", b""),
            Finish(part.number, part, 3, b"", must_verify=False),
            MakeSymlink(next(NUMBERS), None, Symlink(bad, 0, "a")),
        ]
        if not is_temporary(bad):
            jobs.append(MakeFolder(folder, None, Folder(bad, 0o755, 0)))
            jobs.append(Announced(inner, folder, bad, entry("inner")))
            jobs.append(Whole(inner, b"abc", b""))
            jobs.append(LeaveFolder(folder))
        outcomes = destination.carry_out(jobs)
        assert len(problems(outcomes)) == len(outcomes) == (3 if is_temporary(bad) else 5)
        assert store_in(destination, None, "good") == "good"
    assert sorted(path.name for path in inbox.rglob("*")) == ["a", "good"]
    assert snapshot(outside) == before


# links


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "../../x", "b/../../x", "", "a\0b"])
def test_a_link_that_leads_out_is_not_made(inbox: Path, target: str) -> None:
    with Destination(inbox) as destination:
        folder = make(destination, "top")
        for parent in (None, folder):
            [words] = symlink(destination, "l", target, parent)
            assert "l cannot be stored: it leads elsewhere" in words
        inner = make(destination, "inner", folder)
        assert symlink(destination, "l", "../x", inner) == ["l"]
    assert [path.name for path in (inbox / "top").rglob("*")] == ["inner", "l"]


def test_a_link_gets_its_time_and_is_there_once(inbox: Path, outside: Path) -> None:
    before = snapshot(outside)
    with Destination(inbox) as destination:
        assert symlink(destination, "l", "x") == symlink(destination, "l", "x") == ["l"]
        assert symlink(destination, "l", "y") == ["l (1)"]
    assert (inbox / "l").lstat().st_mtime_ns == LONG_AGO
    assert snapshot(outside) == before


@pytest.mark.parametrize("has_proc", [True, False])
def test_hard_links_wait_for_their_file(inbox: Path, has_proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_proc:
        monkeypatch.setattr(naming, "can_name", lambda _: False)
        monkeypatch.setattr("p2p.io.receiving.contents.can_name", lambda _: False)
    with Destination(inbox) as destination:
        file = announce(destination, entry("x", is_linked=True))
        folder = make(destination, "a")
        assert hardlink(destination, "early", file, folder) == []
        assert destination.carry_out([LeaveFolder(folder)]) == []
        stored = destination.carry_out([Whole(file, b"abc", b"")])
        assert [outcome.name for outcome in stored if isinstance(outcome, Stored)] == ["x", "early", "a"]
        assert hardlink(destination, "late", file) == ["late"]
        assert hardlink(destination, "late", file) == ["late"]
        assert hardlink(destination, "x", file) == ["x"]
    assert len({path.stat().st_ino for path in (inbox / "x", inbox / "a" / "early", inbox / "late")}) == 1
    assert (inbox / "a").stat().st_mtime_ns == LONG_AGO
    assert len(list(inbox.iterdir())) == 3


@pytest.mark.parametrize("fate", ["dropped", "unknown", "not marked", "a problem"])
def test_a_hard_link_to_what_is_not_there_is_a_problem(inbox: Path, fate: str) -> None:
    with Destination(inbox) as destination:
        bad = fate == "a problem"
        file = announce(destination, entry("a/b" if bad else "x", is_linked=fate != "not marked"))
        if fate == "dropped":
            link = MakeHardlink(next(NUMBERS), None, Hardlink("l", file))
            assert destination.carry_out([link]) == []
            words = problems(destination.carry_out([Discard(file, None)]))
        elif bad:
            link = MakeHardlink(next(NUMBERS), None, Hardlink("l", file))
            words = problems(destination.carry_out([Whole(file, b"abc", b""), link]))[1:]
        else:
            destination.carry_out([Whole(file, b"abc", b"")])
            words = hardlink(destination, "l", file if fate == "not marked" else 7)
        assert words == ["l cannot be stored: the file of which it is another name was not stored"]
    assert not (inbox / "l").exists()


@pytest.mark.parametrize("has_proc", [True, False])
def test_a_hard_link_is_of_the_inode_that_was_stored(
    inbox: Path, outside: Path, has_proc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_proc:
        monkeypatch.setattr(naming, "can_name", lambda _: False)
    before = snapshot(outside)
    with Destination(inbox) as destination:
        file = announce(destination, entry("x", is_linked=True))
        destination.carry_out([Whole(file, b"abc", b"")])
        (inbox / "x").unlink()
        (inbox / "x").hardlink_to(outside / "a.txt")
        assert hardlink(destination, "l", file) == ["l cannot be stored: something else took its place meanwhile"]
        (inbox / "x").unlink()
    assert snapshot(outside) == before


# somebody who interferes


@pytest.mark.parametrize("is_open", [True, False])
def test_a_folder_that_is_exchanged_for_a_link_leads_nowhere(
    inbox: Path, outside: Path, is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_open:  # its descriptor has been closed, because there were too many
        monkeypatch.setattr(folders, "MAX_OPEN", 1)
    before = snapshot(outside)
    with Destination(inbox) as destination:
        folder, other = make(destination, "a"), make(destination, "other")
        (inbox / "a").rename(inbox / "moved")
        (inbox / "a").symlink_to(outside)
        outcomes = destination.carry_out([Whole(announce(destination, entry(), folder), b"abc", b"")])
        assert bool(problems(outcomes)) is not is_open
        outcomes = destination.carry_out([MakeFolder(next(NUMBERS), folder, Folder("new", 0o700, 0))])
        assert bool(problems(outcomes)) is not is_open
        destination.carry_out([LeaveFolder(folder), LeaveFolder(other)])
    assert (inbox / "moved" / "a.txt").exists() is is_open
    assert snapshot(outside) == before


def test_a_folder_that_is_exchanged_for_another_one_is_not_entered_again(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_OPEN", 1)
    (tmp_path / "elsewhere").mkdir(mode=0o711)
    (tmp_path / "elsewhere" / "x").write_bytes(b"precious")
    with Destination(inbox) as destination:
        folder, other = make(destination, "a"), make(destination, "other")
        (inbox / "a").rename(inbox / "moved")
        (tmp_path / "elsewhere").rename(inbox / "a")
        before = snapshot(inbox / "a")
        outcomes = destination.carry_out([Whole(announce(destination, entry(), folder), b"abc", b"")])
        assert problems(outcomes) == ["a.txt cannot be stored: something else took its place meanwhile"]
        assert len(problems(destination.carry_out([LeaveFolder(folder), LeaveFolder(other)]))) == 1
    assert snapshot(inbox / "a") == before


def test_a_hole_in_what_an_earlier_run_began_is_zero(inbox: Path) -> None:
    name = ".p2p-0123456789abcdef.part"
    (inbox / name).write_bytes(b"x" * 50)
    status = (inbox / name).stat()
    with Destination(inbox, kept_in=lambda _: [name]) as destination:
        assert destination._carrier is not None
        root = destination._carrier._folders.root
        found = Found(root, name, Node(status.st_dev, status.st_ino), 50, 0, is_part=True, is_ours=True)
        part = destination.open(announce(destination, entry(size=23)), "a.txt", found)
        part.write(0, [b"abc"])
        part.leave_hole(3, 20)
        assert finish(destination, part, size=23) == ["a.txt"]
    assert (inbox / "a.txt").read_bytes() == b"abc" + bytes(20)
    assert [path.name for path in inbox.iterdir()] == ["a.txt"]


def test_a_hole_takes_no_place(inbox: Path) -> None:
    with Destination(inbox) as destination:
        part = begin(destination, entry(size=2**30), b"abc")
        part.leave_hole(3, 2**30 - 3)
        finish(destination, part, size=2**30)
    status = (inbox / "a.txt").stat()
    assert status.st_size == 2**30
    assert status.st_blocks * 512 < 2**20


def test_what_was_given_is_not_replaced_where_no_time_tells_and_after_so_many_names_nothing_is(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "bcd":
        (inbox / name).write_bytes(b"old")
    tick(inbox)
    monkeypatch.setattr(taken, "MAX_GIVEN", 4)  # two names
    with Destination(inbox, policy=Policy.OVERWRITE) as destination:
        assert destination._carrier is not None
        destination._carrier._names.sees_changes = False
        destination._carrier._names.began_ns = 2**63  # as on FAT, whose change time is the one that was sent
        stored = [whole(destination, entry(name)) for name in ("b", "B", "b", "c", "d")]
    assert stored == ["b", "B", "b (1)", "c (1)", "d (1)"]


def test_a_name_that_was_given_takes_little_memory(inbox: Path) -> None:
    """Half of what a receiver may take in all is left for it: 75 MB."""
    names = Names(Policy.OVERWRITE, bytes)
    names.sees_changes = False
    directory = os.open(inbox, os.O_RDONLY)
    (inbox / "a.txt").touch()
    count = 40_000  # of which the set takes more room for each than of MAX_GIVEN
    tracemalloc.start()
    try:
        for number in range(count):
            names.note(directory, f"/a folder of photos {number}", "a.txt")
        taken_up, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        os.close(directory)
    assert len(names._given) == count + 1
    assert taken_up / len(names._given) * taken.MAX_GIVEN < 100e6


ACROSS = """
import os, sys
from p2p.io.receiving.destination import Destination, Policy
from storing import begin, entry, finish, NUMBERS, whole, announce, names
from p2p.core.transfer.entries import Folder
from p2p.core.transfer.events import LeaveFolder, MakeFolder, Whole
with Destination(sys.argv[1], policy=Policy.OVERWRITE) as destination:
    folder = next(NUMBERS)
    destination.carry_out([MakeFolder(folder, None, Folder("mount", 0o755, 0))])
    part = begin(destination, entry("x", is_linked=True), b"abc", folder)
    small = announce(destination, entry("y"), folder)
    print(finish(destination, part), names(destination.carry_out([Whole(small, b"abc", b""), LeaveFolder(folder)])))
print(sorted(os.listdir(sys.argv[1])), sorted(os.listdir(sys.argv[1] + "/mount")), os.stat(sys.argv[1] + "/mount/x"))
"""


def test_a_mount_inside_the_folder(inbox: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted: needs root with CAP_SYS_ADMIN")
    (inbox / "mount").mkdir()
    mount = f"mount -t tmpfs none {inbox}/mount && exec \"$0\" -c '{ACROSS}' {inbox}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert result.stderr == ""
    assert result.stdout.startswith("['x'] ['y', 'mount']\n['mount'] ['x', 'y'] ")
    assert "st_mode=33188" in result.stdout
    assert "st_mtime=1000000000" in result.stdout
