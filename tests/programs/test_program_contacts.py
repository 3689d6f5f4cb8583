"""The real programs of two who remember each other: one code, and none after it."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CODE, Program, Stage, hash_of, make_file, stage

from p2p.core.contacts.keys import ContactKeys
from p2p.io.contacts import Contacts


@pytest.fixture(scope="module")
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


class Two:
    """Alice sends and Bob receives, each with files of contacts of their own."""

    def __init__(self, programs: Stage, folder: Path) -> None:
        self._programs = programs
        self.folder = folder
        self.digest = make_file(folder / "file", 100_000)

    def env(self, name: str) -> dict[str, str]:
        return {"XDG_DATA_HOME": str(self.folder / f"data of {name}")}

    def send(self, *options: str, code: str | None = None, **kwargs: Any) -> Program:
        words: list[str | Path] = ["alice", "bob", self.folder / "file", "--once", *options]
        return self._programs.send(*words, code=code, env=self.env("alice"), **kwargs)

    def recv(self, *options: str, code: str | None = None, yes: bool = True, **kwargs: Any) -> Program:
        words: list[str | Path] = ["bob", "alice", "--out", self.folder / "out", *(["--yes"] if yes else []), *options]
        return self._programs.recv(*words, code=code, env=self.env("bob"), **kwargs)

    def contacts(self, name: str, *words: str) -> Program:
        return Program(subprocess.Popen, ["-m", "p2p.peer", "contacts", *words], env=self.env(name))

    def known(self, name: str) -> list[tuple[str, bool]]:
        contacts = Contacts(self.folder / f"data of {name}" / "p2p").all()
        return [(each.friend, each.is_confirmed) for each in contacts]

    def remember(self) -> tuple[Program, Program]:
        sides = self.send("--remember", "--json", code=CODE), self.recv("--remember", "--json", code=CODE)
        assert [side.finish() for side in sides] == [0, 0], sides[0].err + sides[1].err
        return sides


@pytest.fixture
def two(programs: Stage, tmp_path: Path) -> Two:
    return Two(programs, tmp_path)


def test_one_code_and_none_after_it(two: Two) -> None:
    for side in two.remember():
        assert side.events_named("remembered") == [{"event": "remembered"}]
        assert "is remembered: from now on the two of you need no code." in side.err
    assert two.known("alice") == [("bob", True)]
    assert two.known("bob") == [("alice", True)]
    file = two.folder / "data of bob" / "p2p" / "contacts.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    sender = two.send("--json")
    sender.wait_for('"event": "waiting"')
    receiver = two.recv()
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert hash_of(two.folder / "out" / "file (1)") == two.digest
    assert "the remembered key is right" in sender.err
    assert "the remembered key is right" in receiver.err
    assert sender.event("waiting")["code"] is None
    assert "--no-code" not in sender.event("waiting")["command"]


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_it_takes_both(two: Two, who: str) -> None:
    sender = two.send(*(["--remember"] if who == "alice" else []), code=CODE)
    receiver = two.recv(*(["--remember"] if who == "bob" else []), code=CODE)
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    for side in (sender, receiver):
        assert "Nothing was remembered." in side.err
        assert "it takes both" in side.err
    assert two.known("alice") == two.known("bob") == []


def test_a_key_on_one_side_and_a_code_on_the_other(two: Two) -> None:
    two.remember()
    sender, receiver = two.send(), two.recv(code=CODE)
    assert (sender.finish(), receiver.finish()) == (2, 2)
    assert "You remember bob, and used that key, but the other side uses a code" in sender.err
    assert "The other side uses the key by which it remembers you" in receiver.err
    sender, receiver = two.send(code=CODE), two.recv()
    assert (sender.finish(), receiver.finish()) == (2, 2)
    assert "You remember alice, and used that key, but the other side uses a code" in receiver.err


def test_a_changed_key_is_refused_until_it_is_forgotten(two: Two) -> None:
    two.remember()
    assert two.contacts("bob", "forget", "alice").finish() == 0
    sender, receiver = two.remember()
    assert "bob shows another key than the one that you remember" in sender.err
    assert "contacts forget bob" in sender.err
    assert "alice remembers another key of bob" in receiver.err
    assert two.known("bob") == []
    assert two.contacts("alice", "forget", "bob").finish() == 0
    for side in two.remember():
        assert side.events_named("remembered")


def test_two_keys_that_do_not_belong_together(two: Two) -> None:
    two.remember()
    (two.folder / "data of bob" / "p2p").rename(two.folder / "old")
    assert two.contacts("alice", "forget", "bob").finish() == 0
    two.remember()
    (two.folder / "data of bob" / "p2p").rename(two.folder / "new")
    (two.folder / "old").rename(two.folder / "data of bob" / "p2p")
    sender, receiver = two.send("--timeout", "5"), two.recv()
    assert receiver.finish() == 4
    assert "does not have the key by which you remember alice" in receiver.err
    sender.interrupt()
    sender.finish()
    assert "Somebody came as bob without the remembered key" in sender.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["send", "--remember", "file"], "--remember needs names"),
        (["send", "--remember", "--no-code", "alice", "bob", "file"], "--remember needs a code"),
        (["recv", "--remember", "7-amber-walnut-tiger"], "--remember needs names"),
        (["recv", "--accept-from", "alice:x5", "--yes", "bob", "alice", "--no-code"], "--accept-from"),
        (["recv", "--accept-from", "alice:5x", "bob", "alice", "--no-code"], "is no limit"),
        (["contacts", "forget"], "forget NAME"),
        (["contacts", "list", "bob"], "forget NAME"),
    ],
)
def test_what_makes_no_sense_is_said(words: list[str], said: str) -> None:
    program = Program(subprocess.Popen, ["-m", "p2p.peer", *words])
    assert program.finish() == 2
    assert said in program.err


def test_the_list_holds_no_secrets(two: Two) -> None:
    contacts = Contacts(two.folder / "data of alice" / "p2p")
    theirs = ContactKeys(bytes(32), ("alice", "bob")).public
    contacts.hold("alice", "b\x1bob", contacts.keys_for("alice", "b\x1bob"), theirs)
    (contact,) = contacts.all()
    plain, lines = two.contacts("alice", "list"), two.contacts("alice", "list", "--json")
    assert (plain.finish(), lines.finish()) == (0, 0)
    assert "b\\x1bob  as alice, since 20" in plain.out
    assert "not certain" in plain.out
    assert json.loads(lines.out) == {"me": "alice", "friend": "b\x1bob", "since": contact.since, "confirmed": False}
    assert contact.private not in plain.out + lines.out


def test_forgetting_somebody_who_is_not_remembered(two: Two) -> None:
    program = two.contacts("alice", "forget", "bob")
    assert program.finish() == 2
    assert "bob is not remembered here" in program.err


def test_a_damaged_file_costs_contacts_and_no_transfer(two: Two) -> None:
    two.remember()
    file = two.folder / "data of alice" / "p2p" / "contacts.json"
    file.write_text("{")
    sender, receiver = two.send(code=CODE), two.recv(code=CODE)
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    sender = two.send()
    sender.wait_for("damaged")
    sender.wait_for("A code is used")
    sender.wait_for("give bob this code")
    sender.interrupt()
    sender.finish()
    sender = two.send("--remember", code=CODE)
    assert sender.finish() == 9
    assert str(file) in sender.err
    assert file.read_text() == "{"


def test_an_unattended_machine_takes_what_its_contact_sends(two: Two) -> None:
    two.remember()
    receiver = two.recv("--wait", "--accept-from", "alice:1M", yes=False)
    for number in (1, 2):
        sender = two.send()
        assert sender.finish() == 0, sender.err
        receiver.wait_for(rf"file \({number}\)")
    make_file(two.folder / "file", 1_000_001)
    sender = two.send()
    assert sender.finish() == 5
    assert "it takes at most 1,000,000 bytes at a time" in sender.err
    receiver.wait_for("alice sends more than the 1M that --accept-from allows")
    make_file(two.folder / "file", 1_000_000)
    sender = two.send()
    assert sender.finish() == 0, sender.err
    receiver.interrupt()
    assert receiver.finish() == 130


def test_a_name_without_a_key_is_not_enough(two: Two) -> None:
    sender, receiver = two.send(code=CODE), two.recv("--accept-from", "alice", yes=False, code=CODE)
    assert (sender.finish(), receiver.finish()) == (5, 5)
    assert "it takes files from contacts only" in sender.err


def test_a_pipe_is_stopped_at_the_limit(two: Two) -> None:
    two.remember()
    receiver = two.recv("--accept-from", "alice:1M", yes=False)
    with (two.folder / "long").open("wb") as long:
        long.truncate(2_000_000_000)
    with (two.folder / "long").open("rb") as stdin:
        two_send = two._programs.send("alice", "bob", "-", "--once", code=None, env=two.env("alice"), stdin=stdin)
        assert receiver.finish() == 5
        assert two_send.finish() == 5
    assert "sends more than the 1M" in receiver.err
    assert {path.name for path in (two.folder / "out").iterdir()} == {"file"}


def test_a_stranger_does_not_end_the_wait(two: Two) -> None:
    two.remember()
    receiver = two.recv("--wait", "--accept-from", "alice", yes=False)
    receiver.wait_for("Waiting for alice")
    stranger = two.send(code=CODE)
    assert stranger.finish() == 2
    receiver.wait_for("the other side uses a code")
    sender = two.send()
    assert sender.finish() == 0, sender.err
    receiver.interrupt()
    receiver.finish()
