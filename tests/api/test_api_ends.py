"""How transfers of a program end without success, on both sides."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from beside import GUARD, Beside
from harness import make_file

import p2p
from p2p.io.sending.end import SendingEnd

CODE = "amber-walnut-tiger"
Call = Callable[..., p2p.Result]


@pytest.fixture
def send(address: str, tmp_path: Path) -> Call:
    """Of a file that takes its time."""
    make_file(tmp_path / "file", 20_000_000)
    return partial(p2p.send, tmp_path / "file", me="alice", to="bob", code=CODE, server=address, rate_limit=5e6)


@pytest.fixture
def receive(address: str, tmp_path: Path) -> Call:
    return partial(p2p.receive, out=tmp_path / "keeps", me="bob", sender="alice", code=CODE, server=address)


def at(moment: type[Any], do: Callable[[], object]) -> Callable[[p2p.events.Event], None]:
    """An `on_event` that does it then."""

    def note(event: p2p.events.Event) -> None:
        if isinstance(event, moment):
            do()

    return note


class Mistake(Exception):
    """Of a program that uses us."""


def make() -> None:
    raise Mistake("of its own")


# cancelling


@pytest.mark.parametrize("side", ["send", "receive"])
def test_what_is_cancelled_before_it_begins_never_does(side: str, send: Call, receive: Call) -> None:
    cancel = p2p.Cancel()
    cancel.cancel()
    with pytest.raises(p2p.CancelledError, match="while nothing was being sent") as caught:
        {"send": send, "receive": receive}[side](cancel=cancel)
    assert caught.value.exit_code == p2p.ExitCode.CANCELLED


@pytest.mark.parametrize("side", ["send", "receive"])
def test_cancelled_while_nobody_is_there(side: str, send: Call, receive: Call) -> None:
    cancel = p2p.Cancel()
    on_event = at(p2p.events.WaitingForPeer, cancel.cancel)
    with pytest.raises(p2p.CancelledError):
        {"send": send, "receive": receive}[side](cancel=cancel, on_event=on_event)


# At these, one side may have a path already that the other has not.
MEETING = [p2p.events.Connecting, p2p.events.PathChosen]


@pytest.mark.parametrize("moment", [*MEETING, p2p.events.OfferSent, p2p.events.TransferStarted])
def test_a_sender_that_is_cancelled_tells_the_receiver(moment: type[Any], send: Call, receive: Call) -> None:
    cancel = p2p.Cancel()
    receiving = Beside(receive)
    with pytest.raises(p2p.CancelledError, match="The other side was told"):
        send(cancel=cancel, on_event=at(moment, cancel.cancel))
    assert isinstance(receiving.error, p2p.BrokenOffError)
    assert "cancelled over there" in str(receiving.error)


@pytest.mark.parametrize("moment", [*MEETING, p2p.events.Offered, p2p.events.TransferStarted])
def test_a_receiver_that_is_cancelled_tells_the_sender(moment: type[Any], send: Call, receive: Call) -> None:
    cancel = p2p.Cancel()
    sending = Beside(send)
    with pytest.raises(p2p.CancelledError, match="The other side was told"):
        receive(cancel=cancel, on_event=at(moment, cancel.cancel))
    assert isinstance(sending.error, p2p.BrokenOffError)
    assert "cancelled over there" in str(sending.error)


def test_cancelled_while_somebody_thinks_about_the_offer(send: Call, receive: Call) -> None:
    """The answer comes too late, and that is no harm."""
    cancel = p2p.Cancel()
    sending = Beside(send)

    def accept(_: p2p.Offer) -> bool:
        cancel.cancel()
        assert isinstance(sending.error, p2p.BrokenOffError)  # so the loop has gone on meanwhile
        return True

    with pytest.raises(p2p.CancelledError):
        receive(cancel=cancel, accept=accept)


def test_another_thread_cancels_in_the_middle(send: Call, receive: Call) -> None:
    cancel, under_way = p2p.Cancel(), threading.Event()

    def note(progress: p2p.Progress) -> None:
        if progress.done:
            under_way.set()

    sending = Beside(partial(send, cancel=cancel))
    receiving = Beside(partial(receive, on_progress=note))
    assert under_way.wait(GUARD)
    cancel.cancel()
    assert isinstance(sending.error, p2p.CancelledError)
    assert isinstance(receiving.error, p2p.BrokenOffError)
    assert cancel.is_cancelled


def test_one_token_ends_many(address: str, receive: Call) -> None:
    cancel = p2p.Cancel()
    waiting = threading.Barrier(4)
    note = at(p2p.events.WaitingForPeer, partial(waiting.wait, GUARD))
    started = [
        Beside(partial(receive, me=name, server=address, cancel=cancel, on_event=note)) for name in ("x", "y", "z")
    ]
    waiting.wait(GUARD)
    cancel.cancel()
    for each in started:
        assert isinstance(each.error, p2p.CancelledError)


def test_control_c_in_the_main_thread_is_a_keyboard_interrupt(send: Call, receive: Call) -> None:
    press = partial(os.kill, os.getpid(), signal.SIGINT)
    sending = Beside(partial(send, on_event=at(p2p.events.TransferStarted, press)))
    with pytest.raises(KeyboardInterrupt):
        receive()
    assert isinstance(sending.error, p2p.BrokenOffError)
    assert "Ctrl-C over there" in str(sending.error)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# callbacks and streams that fail


@pytest.mark.parametrize("callback", ["on_event", "on_progress", "on_code"])
def test_what_a_callback_of_the_sender_raises_ends_both(callback: str, send: Call, receive: Call) -> None:
    receiving = None if callback == "on_code" else Beside(receive)
    do = {
        "on_event": at(p2p.events.TransferStarted, make),
        "on_progress": lambda _: make(),
        "on_code": lambda _: make(),
    }[callback]
    changes = {"code": None} if callback == "on_code" else {}
    with pytest.raises(Mistake, match="of its own"):
        send(**{callback: do, **changes})
    if receiving is not None:
        assert isinstance(receiving.error, p2p.BrokenOffError)
        assert "the program that it is part of over there has failed" in str(receiving.error)


@pytest.mark.parametrize("callback", ["on_event", "on_progress", "accept"])
def test_what_a_callback_of_the_receiver_raises_ends_both(callback: str, send: Call, receive: Call) -> None:
    sending = Beside(send)
    with pytest.raises(Mistake, match="of its own"):
        receive(**{callback: at(p2p.events.Offered, make) if callback == "on_event" else lambda _: make()})
    assert isinstance(sending.error, p2p.BrokenOffError)
    assert "the program that it is part of over there has failed" in str(sending.error)


class Broken(io.RawIOBase):
    """Takes and gives a little, and then nothing more."""

    def __init__(self) -> None:
        self._left = 3

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._step()
        return bytes(min(size, 100_000))

    def write(self, data: Any) -> int:
        self._step()
        return len(data)

    def _step(self) -> None:
        self._left -= 1
        if not self._left:
            make()


def test_what_a_stream_raises_is_raised(send: Call, receive: Call, address: str) -> None:
    receiving = Beside(receive)
    with pytest.raises(Mistake):
        p2p.send(stream=Broken(), me="alice", to="bob", code=CODE, server=address)
    assert isinstance(receiving.error, p2p.TransferError)
    sending = Beside(send)
    with pytest.raises(Mistake):
        receive(into=Broken())
    assert isinstance(sending.error, p2p.TransferError)


def test_a_stream_of_text_is_an_error_of_the_program(receive: Call, address: str) -> None:
    receiving = Beside(receive)
    with pytest.raises(TypeError, match="bytes"):
        p2p.send(stream=io.StringIO("text"), me="alice", to="bob", code=CODE, server=address)  # type: ignore[arg-type]
    assert isinstance(receiving.error, p2p.TransferError)


def test_a_mistake_of_ours_is_a_transfer_error_and_told(
    send: Call, receive: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = SendingEnd.advance

    def broken(self: SendingEnd, peer: Any, now: float) -> bool:
        return {}["x"] if self.machine.progress.done else advance(self, peer, now)

    monkeypatch.setattr(SendingEnd, "advance", broken)
    receiving = Beside(receive)
    with pytest.raises(p2p.TransferError, match=r"Internal error: KeyError: 'x'.*please report it") as caught:
        send()
    assert caught.value.exit_code == p2p.ExitCode.INTERNAL
    assert isinstance(receiving.error, p2p.BrokenOffError)
    assert "its program failed, by a mistake of its own" in str(receiving.error)


# how else it ends


def test_a_wrong_code(send: Call, receive: Call) -> None:
    cancel = p2p.Cancel()
    tried: list[p2p.events.Event] = []

    def note(event: p2p.events.Event) -> None:
        if isinstance(event, p2p.events.CodeRejected):
            tried.append(event)
            cancel.cancel()

    sending = Beside(partial(send, on_event=note, cancel=cancel))
    with pytest.raises(p2p.WrongCodeError):
        receive(code="amber-walnut-tigers")
    assert isinstance(sending.error, p2p.CancelledError)
    assert len(tried) == 1


def test_an_offer_that_is_refused(send: Call, receive: Call) -> None:
    sending = Beside(send)
    with pytest.raises(p2p.RefusedError, match="Nothing was written") as caught:
        receive(accept=lambda _: False)
    assert caught.value.exit_code == 5
    assert isinstance(sending.error, p2p.RefusedError)
    assert "said no" in str(sending.error)


def test_nobody_comes(send: Call) -> None:
    with pytest.raises(p2p.NoPeerError):
        send(timeout=0.5)


def test_what_cannot_be_stored_or_read(receive: Call, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_bytes(b"")
    with pytest.raises(p2p.StorageError, match="not a folder"):
        receive(out=tmp_path / "occupied")
    with pytest.raises(p2p.StorageError, match="does not exist"):
        p2p.send(tmp_path / "missing", no_code=True, me="a", to="b")


def test_what_did_not_cross_is_an_error_with_a_result(address: str, receive: Call, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    make_file(tmp_path / "tree" / "good", 10)
    os.mkfifo(tmp_path / "tree" / "fifo")
    receiving = Beside(receive)
    with pytest.raises(p2p.IncompleteError, match=r"1 left out.*fifo") as caught:
        p2p.send(tmp_path / "tree", me="alice", to="bob", code=CODE, server=address)
    assert isinstance(receiving.error, p2p.IncompleteError)
    for error in (caught.value, receiving.error):
        assert error.exit_code == p2p.ExitCode.STORAGE
        assert [file.path for file in error.result.files] == ["tree/good"]
        assert [each.path for each in error.result.missed] == ["tree/fifo"]
        assert error.result.missed_count == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (p2p.send, "one of paths, text and stream"),
        (lambda: p2p.send("x", text="y", me="a", to="b", no_code=True), "one of paths, text and stream"),
        (lambda: p2p.send("x"), "on_code is missing"),
        (lambda: p2p.send("x", me="a", code=CODE), "two names, me and to"),
        (lambda: p2p.send("x", me="a", to="a", code=CODE), "both names are the same"),
        (lambda: p2p.send("x", me="a", to="b", code="short"), "at least 8 characters"),
        (lambda: p2p.send("x", me="a", to="b", code=CODE, no_code=True), "not both"),
        (lambda: p2p.send("x", remember=True), "remember needs names"),
        (lambda: p2p.send("x", me="a", to="b", code=CODE, server="a:b:c"), "`server` wants"),
        (lambda: p2p.send("x", me="a", to="b", code=CODE, timeout=0), "timeout"),
        (lambda: p2p.send("x", me="a", to="b", code=CODE, rate_limit=0), "rate_limit"),
        (lambda: p2p.send(text="", me="a", to="b", code=CODE), "1 to 65,536 bytes"),
        (p2p.receive, "code is missing"),
        (lambda: p2p.receive(me="a", sender="b"), "code is missing"),
        (lambda: p2p.receive("tiger"), "a code begins with a number"),
        (lambda: p2p.receive("7-amber-walnut-tiger", policy="ask"), "policy"),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_make_no_sense(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert isinstance(caught.value, p2p.TransferError)
    assert caught.value.exit_code == p2p.ExitCode.USAGE
