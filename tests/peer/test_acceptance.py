"""Whose files are taken when nobody is there."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import CallerError, ExitCode
from p2p.core.peer.acceptance import MAX_LIMIT, Acceptance
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Offer, OfferKind, Root, Totals


def offer(size: int | None, *, is_final: bool = True) -> Offer:
    kind = OfferKind.PIPE if size is None else OfferKind.TREE
    return Offer(kind, bytes(16), Totals(1, size, is_final), 1, (Root(Kind.FILE, "a", size),))


def progress(done: int, total: int | None) -> Progress:
    return Progress(done, 0, 0, total, 1, False, "a")


@pytest.mark.parametrize(
    ("text", "friend", "limit"),
    [
        ("bob", "bob", None),
        ("bob:1", "bob", 1),
        ("bob:10k", "bob", 10_000),
        ("bob:500M", "bob", 500_000_000),
        ("bob:2G", "bob", 2_000_000_000),
        ("bob:2GB", "bob", 2_000_000_000),
        ("bob:1t", "bob", 10**12),
        ("bob:home", "bob:home", None),
        ("bob:home:5k", "bob:home", 5_000),
        (unicodedata.normalize("NFD", "Jörg") + ":1", "Jörg", 1),
        ("bob:", "bob:", None),
    ],
)
def test_rules(text: str, friend: str, limit: int | None) -> None:
    rules = Acceptance.parse([text])
    assert rules.decide(friend, offer(limit or MAX_LIMIT), is_contact=True) is None
    if limit is not None:
        assert rules.decide(friend, offer(limit + 1), is_contact=True) is not None


@pytest.mark.parametrize(
    "text", ["", ":5", "bob:0", "bob:5X", "bob:1.5G", "bob:9999999999G", "x" * 65, "bob:5 k", "\ud800" * 65]
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(CallerError):
        Acceptance.parse([text])


def test_a_name_stands_there_once() -> None:
    with pytest.raises(CallerError, match="twice"):
        Acceptance.parse(["bob:5", "bob"])


def test_without_rules_there_is_nothing_to_decide() -> None:
    assert not Acceptance.parse([])
    assert Acceptance.parse(["bob"])


def test_others_and_names_without_a_key_are_refused() -> None:
    rules = Acceptance.parse(["bob:1k"])
    stranger = rules.decide("carol", offer(1), is_contact=True)
    unproved = rules.decide("bob", offer(1), is_contact=False)
    assert stranger is not None
    assert unproved is not None
    assert stranger.failure.code is unproved.failure.code is ExitCode.REFUSED
    assert "carol" in stranger.failure.message
    assert "bob" not in stranger.told  # whose files are taken is nobody else's business
    assert "--remember" in unproved.told


def test_the_limit_is_watched_to_the_end() -> None:
    rules = Acceptance.parse(["bob:1k"])
    assert rules.decide("bob", offer(None), is_contact=True) is None
    assert rules.decide("bob", offer(10, is_final=False), is_contact=True) is None
    assert rules.watch("bob", progress(1_000, None)) is None
    for seen in (progress(1_001, None), progress(0, 1_001), progress(1_001, 5)):
        no = rules.watch("bob", seen)
        assert no is not None
        assert "1,000" in no.told
    assert Acceptance.parse(["bob"]).watch("bob", progress(2**62, None)) is None


@given(st.text(max_size=12) | st.from_regex(r"[a-z]{1,3}:[0-9]{1,20}[kMGTx]?B?"))
def test_any_text_is_a_rule_or_a_callers_error(text: str) -> None:
    try:
        rules = Acceptance.parse([text])
    except CallerError:
        return
    assert rules


def test_words_from_outside_are_escaped() -> None:
    no = Acceptance.parse(["bob"]).decide("ev\x1bil", offer(1), is_contact=True)
    assert no is not None
    assert "\x1b" not in no.failure.message


def test_empty_files_count_beside_bytes() -> None:
    """A limit of bytes alone lets a billion of them in."""
    root = (Root(Kind.FOLDER, "a", 0),)

    def decide(limit: str, files: int, others: int) -> bool:
        acceptance = Acceptance.parse([f"bob:{limit}"])
        of_tree = Offer(OfferKind.TREE, bytes(16), Totals(files, 0, True, others), 1, root)
        later = Progress(0, 0, 0, 0, files, True, "", things=files + others)
        refused = acceptance.decide("bob", of_tree, is_contact=True), acceptance.watch("bob", later)
        assert (refused[0] is None) == (refused[1] is None)
        return refused[0] is None

    assert decide("1M", 500, 500)
    assert not decide("1M", 500, 501)
    assert decide("500M", 400_000, 100_000)
    assert not decide("500M", 400_000, 100_001)
    assert Acceptance.parse(["bob"]).watch("bob", Progress(0, 0, 0, 0, 0, True, "", things=10**9)) is None
