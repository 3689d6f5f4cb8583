"""Temporary files of runs that were killed go, wherever they lie; those of others stay as long as they are needed."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
from pathlib import Path

import pytest
from storing import NUMBERS, announce, entry, problems, tick

from p2p.core.transfer.entries import Folder
from p2p.core.transfer.events import MakeFolder, Whole
from p2p.core.transfer.names import temporary_name
from p2p.io.locks import try_lock
from p2p.io.receiving import final_names, naming, taken
from p2p.io.receiving.destination import Destination, Policy
from p2p.io.receiving.end import ReceivingEnd
from p2p.io.receiving.jobs import Ready


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def make(destination: Destination, name: str) -> int:
    number = next(NUMBERS)
    assert not problems(destination.carry_out([MakeFolder(number, None, Folder(name, 0o755, 0))]))
    return number


def leave_a_part(folder: Path, number: int, days_ago: float = 0.0) -> str:
    path = folder / temporary_name(number.to_bytes(8, "big"))
    path.write_bytes(b"half")
    os.utime(path, (path.stat().st_mtime - days_ago * 86_400,) * 2)
    return path.name


@pytest.mark.parametrize("policy", [Policy.OVERWRITE, Policy.SKIP])
def test_what_a_killed_run_left_in_a_folder_goes_when_it_is_entered(inbox: Path, policy: Policy) -> None:
    (inbox / "a").mkdir()
    needed, alive, other = (leave_a_part(inbox / "a", number) for number in (1, 2, 3))
    node = (inbox / "a").stat().st_ino

    def kept_in(folder: int) -> list[str]:
        return [needed] if os.fstat(folder).st_ino == node else []

    with (inbox / "a" / alive).open() as held, Destination(inbox, policy=policy, kept_in=kept_in) as destination:
        assert try_lock(held.fileno())
        assert (inbox / "a" / other).exists()
        make(destination, "a")
        assert sorted(path.name for path in (inbox / "a").iterdir()) == [needed, alive]


def test_where_the_journals_cannot_be_asked_only_what_is_older_than_any_goes(inbox: Path) -> None:
    """As without a state folder: other runs have theirs."""
    young, old = leave_a_part(inbox, 1, days_ago=29), leave_a_part(inbox, 2, days_ago=31)
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        end = ReceivingEnd(inbox, Policy.RENAME, None, selector)
        end.close()
    assert [path.name for path in inbox.iterdir()] == [young]
    assert old != young


@pytest.mark.parametrize("is_across", [False, True])
def test_nobody_sweeps_up_what_replaces_a_file_just_now(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, is_across: bool
) -> None:
    """Another program enters the folder between the two steps."""
    (inbox / "a").mkdir()
    (inbox / "a" / "a.txt").write_bytes(b"older")
    tick(inbox)

    def rename(old: str, new: str, directory: int, into: int) -> None:
        with Destination(inbox, policy=Policy.OVERWRITE) as other:
            make(other, "a")
        naming.rename_over(old, new, directory, into)

    monkeypatch.setattr(taken, "rename_over", rename)
    monkeypatch.setattr(final_names, "rename_over", rename)
    with Destination(inbox, policy=Policy.OVERWRITE) as destination:
        folder = make(destination, "a")
        if is_across:
            give, refused = final_names.FinalNames._give, []

            def refuse(self: final_names.FinalNames, ready: Ready, directory: int, home: int) -> str:
                if not refused:
                    refused.append(ready)
                    raise OSError(errno.EXDEV, "another file system")
                return give(self, ready, directory, home)

            monkeypatch.setattr(final_names.FinalNames, "_give", refuse)
        outcomes = destination.carry_out([Whole(announce(destination, entry(), folder), b"abc", b"")])
        assert problems(outcomes) == []
    assert (inbox / "a" / "a.txt").read_bytes() == b"abc"
    assert [path.name for path in (inbox / "a").iterdir()] == ["a.txt"]
