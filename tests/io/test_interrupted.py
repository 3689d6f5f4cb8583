"""A program that is killed at the worst moments: the next run of the same command finds what is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2p.core.transfer.entries import File, Folder
from p2p.core.transfer.events import Announced, LeaveFolder, MakeFolder, Whole
from p2p.core.transfer.names import is_temporary
from p2p.io.destination import Destination, Policy
from p2p.io.jobs import Finish, LookedUp, Stored
from p2p.io.journal import Journals

TOKEN = bytes(16)
KILLED = """
import os, sys
from pathlib import Path
from p2p.core.transfer.entries import File, Folder
from p2p.core.transfer.events import Announced, MakeFolder, Whole
from p2p.io import carrying, final_names
from p2p.io.destination import Destination
from p2p.io.jobs import Finish
from p2p.io.journal import Journals

inbox, when = Path(sys.argv[1]), sys.argv[3]
journal = Journals(Path(sys.argv[2])).begin(bytes(16), inbox)
destination = Destination(inbox, journal=journal)
destination.carry_out([
    MakeFolder(0, None, Folder("a", 0o755, 0)),
    Announced(1, 0, "a/large", File("large", 0o644, 0, 6)),
    Announced(2, 0, "a/small", File("small", 0o644, 0, 5)),
])
part = destination.open(1, "a/large")
part.write(0, [b"abc"])
if when == "within":
    os._exit(0)
part.write(3, [b"def"])
if when == "before the name":
    final_names.rename_exclusively = final_names.name_exclusively = lambda *_: os._exit(0)
if when == "after the name":
    carrying.Carrier._finish_folders = lambda *_: os._exit(0)
destination.carry_out([Finish(1, part, 6, b"", must_verify=False), Whole(2, b"small", b"")])
"""


@pytest.mark.parametrize("when", ["within", "before the name", "after the name"])
@pytest.mark.parametrize("policy", list(Policy))
def test_killed(tmp_path: Path, when: str, policy: Policy) -> None:
    inbox, state = tmp_path / "inbox", tmp_path / "state"
    inbox.mkdir()
    state.mkdir(mode=0o700)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", KILLED, inbox, state, when], check=True, timeout=60, env=environment)
    has_name = when == "after the name"
    assert (inbox / "a" / "large").exists() is has_name
    assert [path.name for path in (inbox / "a").iterdir() if is_temporary(path.name)] == []
    journals = Journals(state)
    journal = journals.find(TOKEN, inbox)
    assert journal is not None
    with Destination(inbox, policy=policy, kept_in=journals.parts_in, journal=journal) as destination:
        assert sum(is_temporary(path.name) for path in inbox.iterdir()) == (not has_name)
        large, small = destination.carry_out(
            [
                MakeFolder(0, None, Folder("a", 0o755, 0)),
                Announced(1, 0, "a/large", File("large", 0o644, 10**18, 6)),
                Announced(2, 0, "a/small", File("small", 0o644, 10**18, 5)),
            ]
        )
        assert isinstance(large, LookedUp)
        assert isinstance(small, LookedUp)
        assert (small.found is not None) is has_name
        assert large.found is not None
        assert (large.found.is_part, large.found.size) == (not has_name, 3 if when == "within" else 6)
        part = destination.open(1, "a/large", large.found)
        part.keep(0, 3)
        if when == "within":
            part.write(3, [b"def"])
        else:
            part.keep(3, 3)
        outcomes = destination.carry_out([Finish(1, part, 6, b"", must_verify=False), LeaveFolder(0)])
        assert outcomes == [Stored(1, "large")]
    journal.finish()
    assert (inbox / "a" / "large").read_bytes() == b"abcdef"
    assert (inbox / "a" / "large").stat().st_mtime_ns == 10**18
    assert sorted(path.name for path in inbox.rglob("*")) == ["a", "large", *(["small"] if has_name else [])]


@pytest.mark.parametrize("edited", ["before", "meanwhile", "never"])
def test_what_somebody_wrote_to_since_is_his(tmp_path: Path, edited: str) -> None:
    """A file of the first run, in which the person here went on working, is neither compared nor replaced."""
    inbox, state = tmp_path / "inbox", tmp_path / "state"
    inbox.mkdir()
    state.mkdir(mode=0o700)
    announced = Announced(0, None, "a", File("a", 0o644, 10**18, 6))
    journals = Journals(state)
    journal = journals.begin(TOKEN, inbox)
    with Destination(inbox, journal=journal) as destination:
        assert destination.carry_out([announced, Whole(0, b"theirs", b"")])[-1] == Stored(0, "a")
    journal.close()

    def edit() -> None:
        with (inbox / "a").open("ab") as file:
            file.write(b", and mine")

    if edited == "before":
        edit()
    found_again = journals.find(TOKEN, inbox)
    assert found_again is not None
    with Destination(inbox, journal=found_again) as destination:
        [found] = destination.carry_out([announced])
        assert isinstance(found, LookedUp)
        assert (found.found is None) is (edited == "before")
        if edited == "meanwhile":
            edit()
        name = "a" if edited == "never" else "a (1)"
        assert destination.carry_out([Whole(0, b"newer.", b"")]) == [Stored(0, name)]
    found_again.finish()
    assert (inbox / name).read_bytes() == b"newer."
    assert edited == "never" or (inbox / "a").read_bytes() == b"theirs, and mine"
