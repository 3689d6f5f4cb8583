"""Another program puts links where the folders and files of a transfer are: nothing that they lead to is touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from storing import NUMBERS, below, entry, problems, snapshot, tick

from p2p.core.transfer.entries import Folder, Hardlink, Symlink
from p2p.core.transfer.events import Announced, LeaveFolder, MakeFolder, MakeHardlink, MakeSymlink, Whole
from p2p.io.receiving import folders
from p2p.io.receiving.destination import Destination, Policy
from p2p.io.receiving.jobs import Finish, Job, Outcome
from p2p.io.receiving.parts import Part

ROUNDS = 40
MAX_OPEN = 2  # folders, of three in a row: the outer ones are looked up again by their names


class Swapper:
    """See swapping.py."""

    def __init__(self, inbox: Path, aside: Path, outside: Path) -> None:
        self.aside = aside
        script = Path(__file__).with_name("swapping.py")
        self._process = subprocess.Popen(
            [sys.executable, "-S", script, inbox, aside, outside],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.swaps = 0

    def swap(self, name: str) -> None:
        self._say(f"swap {name}")
        assert self._hear() == "1"

    @contextmanager
    def racing(self, name: str) -> Iterator[None]:
        self._say(f"race {name}")
        assert self._hear() == "racing"
        yield
        self._say("enough")
        self.swaps += int(self._hear())

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
        assert self._process.returncode == 0

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Transfer:
    """A folder `name` with files, links and a folder b/c with the same in it; `x` come whole, `y` in pieces."""

    def __init__(self, destination: Destination, name: str) -> None:
        self.outcomes: list[Outcome] = []
        self._destination = destination
        self._folders: list[int] = []
        self._whole: list[int] = []
        self._parts: list[Part] = []
        self._name = name

    def begin(self) -> None:
        parent = None
        for name in (self._name, "b", "c"):
            number = next(NUMBERS)
            self._do(MakeFolder(number, parent, Folder(name, 0o777, 10**18)))
            parent = number
            self._folders.append(number)
        for parent, path in ((self._folders[0], self._name), (self._folders[2], f"{self._name}/b/c")):
            self._whole.append(self._announce("x", parent, path))
            self._parts.append(self._destination.open(self._announce("y", parent, path), f"{path}/y"))
        for part in self._parts:
            part.write(0, [b"ab"])

    def finish(self) -> list[Outcome]:
        """Returns what became of the files and links."""
        before = len(self.outcomes)
        outer, inner, innermost = self._folders
        self._do(MakeSymlink(next(NUMBERS), innermost, Symlink("l", 10**18, "../../x")), LeaveFolder(innermost))
        self._do(MakeHardlink(next(NUMBERS), outer, Hardlink("h", self._whole[1])), LeaveFolder(inner))
        self._do(*(Whole(number, b"abc", b"") for number in self._whole), LeaveFolder(outer))
        for part in self._parts:
            part.write(2, [b"c"])
        self._do(*(Finish(part.number, part, 3, b"", must_verify=False) for part in self._parts))
        return self.outcomes[before:]

    def _announce(self, name: str, parent: int, path: str) -> int:
        number = next(NUMBERS)
        self._do(Announced(number, parent, f"{path}/{name}", entry(name, is_linked=name == "x")))
        return number

    def _do(self, *jobs: Job) -> None:
        self.outcomes += self._destination.carry_out(jobs)


@pytest.fixture(autouse=True)
def few_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_OPEN", MAX_OPEN)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    for name in ("a.txt", "x", "y"):
        (outside / name).write_bytes(b"precious")
    return outside


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """With something in it to be entered, or replaced."""
    inbox = tmp_path / "inbox"
    for number in range(0, ROUNDS, 2):
        inner = inbox / str(number) / "b" / "c"
        inner.mkdir(parents=True)
        (inner / "x").write_bytes(b"old")
        (inner / "y").write_bytes(b"old")
    tick(inbox)
    return inbox


@pytest.fixture
def swapper(tmp_path: Path, inbox: Path, outside: Path) -> Iterator[Swapper]:
    (tmp_path / "aside").mkdir()
    swapper = Swapper(inbox, tmp_path / "aside", outside)
    yield swapper
    swapper.close()


def drop_lures(outside: Path, *where: Path) -> None:
    """Names that the swapper gave to the file outside, one of which may have come in the place of a part."""
    for path in (path for folder in where for path in below(folder)):
        if path.is_file() and not path.is_symlink() and path.samefile(outside / "a.txt"):
            assert not path.name.startswith("h"), "a hard link of the transfer leads out"
            path.unlink()


@pytest.mark.parametrize("policy", list(Policy))
def test_a_program_that_swaps_paths_for_links_all_the_time(
    inbox: Path, outside: Path, swapper: Swapper, policy: Policy
) -> None:
    before = snapshot(outside)
    outcomes: list[Outcome] = []
    with Destination(inbox, policy=policy) as destination:
        for number in range(ROUNDS):
            transfer = Transfer(destination, str(number))
            with swapper.racing(str(number)):
                transfer.begin()
                transfer.finish()
            outcomes += transfer.outcomes
    drop_lures(outside, inbox, swapper.aside)
    assert snapshot(outside) == before
    assert swapper.swaps > 0
    assert 0 < len(problems(outcomes)) < len(outcomes)  # some met a swap, usually a third, and some did not


@pytest.mark.parametrize(
    ("policy", "is_new"),
    # With RENAME no folder is entered that was there.
    [(policy, is_new) for policy in Policy for is_new in (True, False) if is_new or policy is not Policy.RENAME],
)
def test_a_folder_that_has_become_a_link_gets_nothing(
    inbox: Path, outside: Path, swapper: Swapper, policy: Policy, is_new: bool
) -> None:
    """The same in lock-step, so that all that is for the outer folder meets the link."""
    name = "1" if is_new else "0"
    before = snapshot(outside)
    with Destination(inbox, policy=policy) as destination:
        transfer = Transfer(destination, name)
        transfer.begin()
        assert transfer.outcomes == []
        swapper.swap(name)
        met = problems(transfer.finish())
    paths = [f"{name}/x", f"{name}/h", f"{name}/y", *([name] if is_new else [])]  # one that was there stays as it was
    assert met == [f"{path} cannot be stored: something else took its place meanwhile" for path in paths]
    assert snapshot(outside) == before
