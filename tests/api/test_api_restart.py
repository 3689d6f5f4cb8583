"""The program at the other end is killed and started again with the same command, while this one runs on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from beside import Beside
from harness import CODE, GUARD, Program, Stage, hash_of, make_file, stage

import p2p
from p2p.api.results import Offer

SIZE = 30_000_000  # bytes
RATE = "5M"  # bytes a second: so that there is a moment to step in


@pytest.fixture
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


class Watch:
    """What is told, and a moment in the middle."""

    def __init__(self) -> None:
        self.happened: list[p2p.events.Event] = []
        self.is_under_way = threading.Event()

    def note(self, event: p2p.events.Event) -> None:
        self.happened.append(event)

    def look(self, progress: p2p.Progress) -> None:
        if progress.done > SIZE // 6:
            self.is_under_way.set()

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.happened)


def wait_for_the_middle(watch: Watch, program: Program) -> None:
    assert watch.is_under_way.wait(GUARD), program.err


def test_a_receiver_takes_the_same_offer_again_and_asks_once(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", SIZE)
    asked: list[Offer] = []

    def accept(offer: Offer) -> bool:
        asked.append(offer)
        return True

    def send() -> Program:
        state = {"XDG_STATE_HOME": str(tmp_path / "theirs")}
        return programs.send("alice", "bob", tmp_path / "file", "--json", "--limit-rate", RATE, env=state)

    sender, watch = send(), Watch()
    receiving = Beside(
        lambda: p2p.receive(
            CODE,
            me="bob",
            sender="alice",
            out=tmp_path / "keeps",
            server=programs.address,
            accept=accept,
            on_event=watch.note,
            on_progress=watch.look,
        )
    )
    wait_for_the_middle(watch, sender)
    sender.kill()
    again = send()
    received = receiving.result
    assert again.finish() == 0, again.err
    assert received.blake3 == digest == hash_of(tmp_path / "keeps" / "file")
    assert received.kept > 0
    assert len(received.files) == len(asked) == 1
    assert watch.count(p2p.events.PeerRestarted) == 1
    assert watch.count(p2p.events.TransferStarted) == 2
    assert again.event("started")["goes_on"] is True


def test_a_sender_meets_the_receiver_of_a_one_time_code_again(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", SIZE)
    codes: list[str] = []
    told, watch = threading.Event(), Watch()

    def tell(code: str) -> None:
        codes.append(code)
        told.set()

    def receive() -> Program:
        state = {"XDG_STATE_HOME": str(tmp_path / "theirs")}
        return programs.recv(
            codes[0], "--out", tmp_path / "keeps", "--yes", "--json", "--limit-rate", RATE, code=None, env=state
        )

    sending = Beside(
        lambda: p2p.send(
            tmp_path / "file", server=programs.address, on_code=tell, on_event=watch.note, on_progress=watch.look
        )
    )
    assert told.wait(GUARD)
    receiver = receive()
    wait_for_the_middle(watch, receiver)
    receiver.kill()
    again = receive()
    assert sending.result.blake3 == digest
    assert again.finish() == 0, again.err
    assert hash_of(tmp_path / "keeps" / "file") == digest
    assert watch.count(p2p.events.PeerRestarted) == 1
    assert sending.result.kept > 0
    assert len(codes) == 1


def test_a_stream_is_not_sent_twice(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", SIZE)

    def receive() -> Program:
        return programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json", "--limit-rate", RATE)

    watch = Watch()

    def send() -> p2p.Result:
        with (tmp_path / "file").open("rb") as stream:
            return p2p.send(
                stream=stream, me="alice", to="bob", code=CODE, server=programs.address,
                on_event=watch.note, on_progress=watch.look,
            )  # fmt: skip

    sending, receiver = Beside(send), receive()
    wait_for_the_middle(watch, receiver)
    receiver.kill()
    again = receive()
    assert isinstance(sending.error, p2p.BrokenOffError), sending.error
    assert "pipe" in str(sending.error)
    assert again.finish() == 7, again.err
    assert watch.count(p2p.events.PeerRestarted) == 0
