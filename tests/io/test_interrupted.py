"""A program that is killed at the worst moments: the next run of the same command finds what is there."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from blake3 import blake3

from p2p.core.transfer.entries import File, Folder
from p2p.core.transfer.events import Announced, LeaveFolder, MakeFolder, Whole
from p2p.core.transfer.messages import CHUNK, CHUNK_DIGEST
from p2p.core.transfer.names import is_temporary
from p2p.io.receiving.checking import Checker, Digests
from p2p.io.receiving.destination import Destination, Policy
from p2p.io.receiving.jobs import Finish, LookedUp, Stored
from p2p.io.receiving.journal import Journals
from p2p.io.receiving.parts import Found

TOKEN = bytes(16)
KILLED = """
import os, sys
from pathlib import Path
from p2p.core.transfer.entries import File, Folder
from p2p.core.transfer.events import Announced, MakeFolder, Whole
from p2p.io.receiving import carrying
from p2p.io.receiving import final_names
from p2p.io.receiving.destination import Destination
from p2p.io.receiving.jobs import Finish
from p2p.io.receiving.journal import Journals

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


REPLACED = """
import os, sys
from pathlib import Path
from p2p.core.transfer.entries import File
from p2p.core.transfer.events import Announced
from p2p.core.transfer.messages import CHUNK
from p2p.io.receiving import final_names
from p2p.io.receiving.destination import Destination
from p2p.io.receiving.jobs import Finish
from p2p.io.receiving.journal import Journals

inbox, when = Path(sys.argv[1]), sys.argv[3]
journals = Journals(Path(sys.argv[2]))
journal = journals.find(bytes(16), inbox)
destination = Destination(inbox, journal=journal, kept_in=journals.parts_in)
[looked_up] = destination.carry_out([Announced(0, None, "a", File("a", 0o644, 2 * 10**18, 4 * CHUNK))])
part = destination.open(0, "a", looked_up.found)
part.keep(0, CHUNK)
part.write(CHUNK, [b"2" * CHUNK])
part.keep(2 * CHUNK, CHUNK)
if when == "within":
    part.write(3 * CHUNK, [b"4" * 1000])
    os._exit(0)
part.write(3 * CHUNK, [b"4" * CHUNK])
if when == "before the name":
    final_names.rename_over = lambda *_, **__: os._exit(0)
destination.carry_out([Finish(0, part, 4 * CHUNK, b"", must_verify=False)])
os._exit(0)
"""


@pytest.mark.parametrize("when", ["within", "before the name", "after the name"])
def test_killed_while_a_whole_file_is_replaced(tmp_path: Path, when: str) -> None:
    """What is there of both, the file and the part that was to take its place, is used."""
    inbox, state = tmp_path / "inbox", tmp_path / "state"
    inbox.mkdir()
    state.mkdir(mode=0o700)
    journals = Journals(state)
    journal = journals.begin(TOKEN, inbox)
    with Destination(inbox, journal=journal) as destination:
        announced = Announced(0, None, "a", File("a", 0o644, 10**18, 4 * CHUNK))
        part = destination.open(0, "a")
        part.write(0, [each * CHUNK for each in (b"1", b"x", b"3", b"y")])
        jobs = [announced, Finish(0, part, 4 * CHUNK, b"", must_verify=False)]
        assert destination.carry_out(jobs)[-1] == Stored(0, "a")
    journal.close()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", REPLACED, inbox, state, when], check=True, timeout=60, env=environment)
    found_again = journals.find(TOKEN, inbox)
    assert found_again is not None
    with Destination(inbox, kept_in=journals.parts_in, journal=found_again) as destination:
        content = b"".join(each * CHUNK for each in (b"1", b"2", b"3", b"4"))
        told = Announced(0, None, "a", File("a", 0o644, 3 * 10**18, len(content)))
        [looked_up] = destination.carry_out([told])
        assert isinstance(looked_up, LookedUp)
        found = looked_up.found
        assert found is not None
        digests = check(destination, found, len(content))
        wanted = [blake3(content[at : at + CHUNK]).digest(CHUNK_DIGEST) for at in range(0, len(content), CHUNK)]
        is_here = [one == other for one, other in zip(digests, wanted, strict=True)]
        assert is_here == [True, True, True, when != "within"]
        part = destination.open(0, "a", replace(found, in_begun=bytes(digests.in_begun)))
        for number in range(4):
            if is_here[number]:
                part.keep(number * CHUNK, CHUNK)
            else:
                part.write(number * CHUNK, [b"4" * CHUNK])
        last = Finish(0, part, len(content), blake3(content).digest(), must_verify=True)
        assert destination.carry_out([last]) == [Stored(0, "a")]
    found_again.finish()
    assert (inbox / "a").read_bytes() == content
    assert (inbox / "a").stat().st_mtime_ns == 3 * 10**18
    assert [path.name for path in inbox.iterdir()] == ["a"]


def check(destination: Destination, found: Found, size: int) -> Digests:
    told: list[Digests] = []
    checker = Checker()
    begun = found.begun
    open_begun = None if begun is None else partial(destination.open_found, begun)
    checker.check(partial(destination.open_found, found), size, told.append, open_begun)
    with selectors.DefaultSelector() as selector:
        selector.register(checker.fileno(), selectors.EVENT_READ)
        while not told:
            assert selector.select(60.0), "nobody compares"
            checker.handle_readable()
    checker.close(60.0)
    return told[0]
