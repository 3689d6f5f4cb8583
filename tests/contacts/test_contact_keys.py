"""What two pairs of keys give, and to whom."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.contacts.keys import KEY, ContactKeys
from p2p.core.errors import CallerError, DecodeError

NAMES = ("alice", "bob")
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]  # RFC 7748 section 6.1; https://cr.yp.to/ecdh.html#validate


def keys(seed: int, names: tuple[str, str] = NAMES) -> ContactKeys:
    return ContactKeys(random.Random(seed).randbytes(KEY), names)


def test_both_derive_the_same_whatever_the_order_of_the_names() -> None:
    alice, bob = keys(1), keys(2, ("bob", "alice"))
    assert alice.secret(bob.public) == bob.secret(alice.public)
    assert bob.proves(alice.public, alice.proof(bob.public))


def test_a_golden_vector() -> None:
    alice = ContactKeys(bytes(range(32)), NAMES)
    assert alice.public.hex() == "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
    bob = ContactKeys(bytes(range(1, 33)), NAMES)
    assert alice.secret(bob.public).hex() == "c87d9c6e160f97db04ed6b93dabbefacd40f4548fe5c8c2ca3e6ca5cf382d15e"
    assert alice.proof(bob.public).hex() == "5996998f412f8b4a25e2d15dea824a34604fe64e6b3e66203b219ad971d70072"


def test_other_names_other_keys_and_other_uses_give_other_secrets() -> None:
    alice, bob = keys(1), keys(2)
    found = {
        alice.secret(bob.public),
        keys(1, ("alice", "carol")).secret(bob.public),
        keys(1, ("alic", "ebob")).secret(bob.public),
        keys(3).secret(bob.public),
        alice.secret(keys(3).public),
        alice.proof(bob.public),
        bob.proof(alice.public),
    }
    assert len(found) == 7


def test_a_proof_of_one_side_is_none_of_the_other() -> None:
    alice, bob = keys(1), keys(2)
    assert not alice.proves(bob.public, alice.proof(bob.public))


@pytest.mark.parametrize("public", LOW_ORDER, ids=lambda public: public.hex()[:8])
def test_keys_of_low_order_are_none(public: bytes) -> None:
    for call in (keys(1).secret, keys(1).proof):
        with pytest.raises(DecodeError):
            call(public)


def test_our_own_key_is_nobody_elses() -> None:
    with pytest.raises(DecodeError):
        keys(1).secret(keys(1).public)


@given(st.binary(max_size=40))
def test_any_bytes_give_a_secret_or_a_decode_error(public: bytes) -> None:
    try:
        assert len(keys(1).secret(public)) == KEY
    except DecodeError:
        return
    assert len(public) == KEY


def test_a_private_key_has_32_bytes() -> None:
    with pytest.raises(CallerError):
        ContactKeys(bytes(31), NAMES)
