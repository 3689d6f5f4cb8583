"""Both sides of a transfer as functions, on loopback."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from beside import Beside, Told
from harness import hash_of, make_file, tree_of

import p2p

CODE = "amber-walnut-tiger"
NAMES = {"me": "alice", "to": "bob"}
SAME = {"me": "bob", "sender": "alice"}


Call = Callable[..., p2p.Result]


def both(address: str, send: Call, receive: Call) -> tuple[p2p.Result, p2p.Result]:
    """With names and a code."""
    sending = Beside(partial(send, me="alice", to="bob", code=CODE, server=address))
    receiving = Beside(partial(receive, me="bob", sender="alice", code=CODE, server=address))
    return sending.result, receiving.result


def test_a_tree_crosses_with_a_one_time_code(address: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below" / "empty").mkdir(parents=True)
    digest = make_file(tree / "large", 3_000_000)
    make_file(tree / "below" / "small", 10)
    told = Told()
    sending = Beside(lambda: p2p.send(tree, server=address, on_code=told))
    received = p2p.receive(told.text.upper(), out=tmp_path / "out", server=address)
    sent = sending.result
    assert tree_of(tmp_path / "out" / "tree") == tree_of(tree)
    for result in (sent, received):
        assert (result.files_count, result.size, result.kept) == (2, 3_000_010, 0)
        assert not result.missed
        assert result.blake3 == sent.blake3
        assert result.route is not None
        assert result.route.kind is p2p.events.PathKind.TCP
    assert {file.path: file.saved_as for file in sent.files} == {"tree/below/small": None, "tree/large": None}
    by_path = {file.path: file for file in received.files}
    assert by_path["tree/large"].blake3 == digest
    assert by_path["tree/large"].saved_as == tmp_path / "out" / "tree" / "large"


def test_names_that_were_taken_show_where_the_files_are(address: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    make_file(tmp_path / "tree" / "file", 10)
    make_file(tmp_path / "alone", 20)
    (tmp_path / "out" / "tree").mkdir(parents=True)
    (tmp_path / "out" / "alone").write_bytes(b"was here before")
    paths = [tmp_path / "tree", str(tmp_path / "alone")]
    _, received = both(address, partial(p2p.send, paths), partial(p2p.receive, out=tmp_path / "out"))
    for file in received.files:
        assert file.saved_as is not None
        assert hash_of(file.saved_as) == file.blake3
    assert {file.saved_as for file in received.files} == {
        tmp_path / "out" / "tree (1)" / "file",
        tmp_path / "out" / "alone (1)",
    }


def test_what_is_excluded_stays_here(address: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("a.py", "b.pyc"):
        make_file(tmp_path / "tree" / name, 10)
    send = partial(p2p.send, tmp_path / "tree", exclude="*.pyc")
    _, received = both(address, send, partial(p2p.receive, out=tmp_path / "out"))
    assert [file.path for file in received.files] == ["tree/a.py"]


def test_a_text_is_in_the_result(address: str, tmp_path: Path) -> None:
    text = "Grüße, 世界\nsecond line"
    sent, received = both(address, partial(p2p.send, text=text), partial(p2p.receive, out=tmp_path / "out"))
    assert (sent.text, received.text) == (None, text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_stream_goes_into_a_stream(address: str, size: int) -> None:
    content = os.urandom(size)
    source, sink = io.BytesIO(content), io.BytesIO()
    sent, received = both(address, partial(p2p.send, stream=source, name="films"), partial(p2p.receive, into=sink))
    assert sink.getvalue() == content
    assert sent.size == received.size == size
    assert [(file.path, file.saved_as) for file in received.files] == [("films", None)]


def test_a_stream_becomes_a_file_and_a_file_a_stream(address: str, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 100_000)
    with (tmp_path / "file").open("rb", buffering=0) as raw:
        both(address, partial(p2p.send, stream=raw, name="copy"), partial(p2p.receive, out=tmp_path / "out"))
    assert hash_of(tmp_path / "out" / "copy") == digest
    with (tmp_path / "written").open("wb", buffering=0) as raw:
        both(address, partial(p2p.send, tmp_path / "file"), partial(p2p.receive, into=raw))
    assert hash_of(tmp_path / "written") == digest


def test_without_a_code_both_hear_the_same_words(address: str, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 10)
    heard: list[str | None] = []

    def note(event: p2p.events.Event) -> None:
        if isinstance(event, p2p.events.Connecting):
            heard.append(event.verification)

    send = partial(p2p.send, tmp_path / "file", **NAMES, no_code=True, server=address, on_event=note)
    sending = Beside(send)
    p2p.receive(out=tmp_path / "out", **SAME, no_code=True, server=address, on_event=note)
    assert sending.error is None
    assert heard[0]
    assert heard == [heard[0]] * 2


def test_a_code_that_is_made_for_names_is_told(address: str, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 10)
    told = Told()
    sending = Beside(partial(p2p.send, tmp_path / "file", **NAMES, server=address, on_code=told))
    p2p.receive(told.text, out=tmp_path / "out", **SAME, server=address)
    assert sending.error is None


def test_two_who_remember_each_other_need_no_code(address: str, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 10)
    send = partial(p2p.send, tmp_path / "file", **NAMES, server=address)
    receive = partial(p2p.receive, out=tmp_path / "out", **SAME, server=address)
    sending = Beside(partial(send, code=CODE, remember=True))
    receive(CODE, remember=True)
    assert sending.error is None
    sending = Beside(send)
    receive()
    assert sending.error is None
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_the_offer_is_shown_and_waits_for_the_answer(address: str, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1234)
    asked: list[p2p.Offer] = []
    threads = set()

    def accept(offer: p2p.Offer) -> bool:
        asked.append(offer)
        threads.add(threading.current_thread())
        return True

    sending = Beside(partial(p2p.send, tmp_path / "file", **NAMES, code=CODE, server=address))
    p2p.receive(CODE, out=tmp_path / "out", **SAME, server=address, accept=accept)
    assert sending.error is None
    assert asked == [p2p.Offer("tree", ("file",), 1, 1, 1234, is_counted=True)]
    assert threads == {threading.current_thread()}


def test_progress_only_ever_grows(address: str, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 6_000_000)
    seen: dict[str, list[p2p.Progress]] = {"send": [], "receive": []}
    send = partial(p2p.send, tmp_path / "file", rate_limit=8e6, on_progress=seen["send"].append)
    both(address, send, partial(p2p.receive, out=tmp_path / "out", on_progress=seen["receive"].append))
    for progress in seen.values():
        assert len(progress) > 2
        done = [each.done for each in progress]
        assert done == sorted(done)
        assert (progress[-1].done, progress[-1].total, progress[-1].share) == (6_000_000, 6_000_000, 1.0)
        assert 0 < progress[-1].rate < 40e6


def test_many_transfers_at_once_in_one_process(address: str, tmp_path: Path) -> None:
    pairs = []
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        digest = make_file(folder / "file", 500_000, seed=number)
        told = Told()
        sending = Beside(partial(p2p.send, folder / "file", server=address, on_code=told))
        take = partial(p2p.receive, out=folder / "out", server=address)
        receiving = Beside(lambda told=told, take=take: take(told.text))
        pairs.append((sending, receiving, digest))
    for sending, receiving, digest in pairs:
        assert sending.result.blake3 == receiving.result.blake3 == digest


def test_what_is_gone_on_with_did_not_cross_again(address: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("a", "b"):
        make_file(tmp_path / "tree" / name, 4_000_000)
    out = tmp_path / "keeps"
    cancel = p2p.Cancel()

    def stop(event: p2p.events.Event) -> None:
        if isinstance(event, p2p.events.FileDone):
            cancel.cancel()

    send = partial(p2p.send, tmp_path / "tree", **NAMES, code=CODE, server=address)
    sending = Beside(partial(send, rate_limit=5e6))
    with pytest.raises(p2p.CancelledError):
        p2p.receive(CODE, out=out, **SAME, server=address, on_event=stop, cancel=cancel)
    assert isinstance(sending.error, p2p.BrokenOffError)
    result, received = both(address, partial(p2p.send, tmp_path / "tree"), partial(p2p.receive, out=out))
    assert result.kept == received.kept >= 4_000_000
    assert tree_of(out / "tree") == tree_of(tmp_path / "tree")
