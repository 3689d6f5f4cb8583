"""One transfer after the other, and no more than was allowed."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import pytest
from beside import Beside
from harness import make_file

import p2p
from p2p.core.transfer.limits import LEAST_THINGS

CODE = "amber-walnut-tiger"


def sending(address: str, path: Path, **kwargs: object) -> Beside[p2p.Result]:
    return Beside(partial(p2p.send, path, me="alice", to="bob", code=CODE, server=address, **kwargs))  # type: ignore[arg-type]


def test_one_after_the_other_and_a_failure_ends_nothing(address: str, tmp_path: Path) -> None:
    for name, size in (("small", 1000), ("large", 100_000), ("last", 2000)):
        make_file(tmp_path / name, size)
    names = iter(("small", "large", "last"))
    senders = [sending(address, tmp_path / next(names))]
    seen: list[p2p.Result | p2p.TransferError] = []
    many = p2p.receive_many(
        CODE, me="bob", sender="alice", out=tmp_path / "out", size_limit=50_000, server=address
    )
    for became in many:
        seen.append(became)
        name = next(names, None)
        if name is None:
            break
        senders.append(sending(address, tmp_path / name))
    first, refused, last = seen
    assert isinstance(first, p2p.Result)
    assert isinstance(last, p2p.Result)
    assert [first.files[0].path, last.files[0].path] == ["small", "last"]
    assert isinstance(refused, p2p.RefusedError)
    assert "more than size_limit allows: 100,000 bytes" in str(refused)
    assert isinstance(senders[1].error, p2p.RefusedError)
    assert "it takes at most 50,000 bytes at a time" in str(senders[1].error)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["last", "small"]


def test_what_grows_beyond_the_limit_is_ended(address: str, tmp_path: Path) -> None:
    """A stream says nothing of its size beforehand."""
    stream = io.BytesIO(bytes(20_000_000))
    sender = Beside(
        partial(p2p.send, stream=stream, me="alice", to="bob", code=CODE, server=address, rate_limit=10_000_000)
    )
    with pytest.raises(p2p.RefusedError, match="more than size_limit allows"):
        p2p.receive(CODE, me="bob", sender="alice", out=tmp_path / "keeps", size_limit=1_000_000, server=address)
    assert isinstance(sender.error, p2p.RefusedError)


def test_a_limit_of_bytes_is_one_of_empty_files_too(address: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(LEAST_THINGS):  # and the folder
        (tmp_path / "tree" / str(number)).touch()
    sender = sending(address, tmp_path / "tree")
    with pytest.raises(p2p.RefusedError, match="no room for so many files and folders"):
        p2p.receive(CODE, me="bob", sender="alice", out=tmp_path / "out", size_limit=50_000, server=address)
    assert isinstance(sender.error, p2p.RefusedError)


def test_nobody_comes_any_more(address: str, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = sending(address, tmp_path / "file")
    many = p2p.receive_many(CODE, me="bob", sender="alice", out=tmp_path / "out", timeout=20, server=address)
    assert isinstance(next(many), p2p.Result)
    assert sender.result.size == 1000
    many = p2p.receive_many(CODE, me="bob", sender="alice", out=tmp_path / "out", timeout=0.2, server=address)
    with pytest.raises(p2p.NoPeerError, match="did not come within"):
        next(many)


def test_it_is_cancelled_between_two(address: str, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    cancel = p2p.Cancel()
    sender = sending(address, tmp_path / "file")
    many = p2p.receive_many(CODE, me="bob", sender="alice", out=tmp_path / "out", cancel=cancel, server=address)
    assert isinstance(next(many), p2p.Result)
    assert sender.result.size == 1000
    cancel.cancel()
    with pytest.raises(p2p.CancelledError):
        next(many)


def test_what_makes_no_sense_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(p2p.ArgumentError, match="code is missing"):
        p2p.receive_many(me="bob", sender="alice")
    with pytest.raises(p2p.ArgumentError, match="size_limit"):
        p2p.receive_many(CODE, me="bob", sender="alice", size_limit=-1)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(p2p.StorageError, match="not a folder"):
        next(p2p.receive_many(CODE, me="bob", sender="alice", out=tmp_path / "file", server="127.0.0.1:1"))
