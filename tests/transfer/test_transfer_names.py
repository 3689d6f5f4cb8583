"""No name from the other side leads out of the directory, and honest names pass unchanged."""

from __future__ import annotations

import os
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import RemoteError
from p2p.core.transfer.names import (
    MAX_COMPONENT_BYTES,
    is_temporary,
    numbered,
    portable_component,
    safe_name,
    temporary_name,
)

NASTY = st.lists(
    st.sampled_from(
        [
            *["/", "\\", "..", ".", ":", " ", "\0", "\n", "\x7f", "\x9b", "C:", "con", "NUL", "COM1", ".txt", ".part"],
            *[".p2p-", "a", "ü", "日本", "\u202e", "\udce9", "x" * 120],
        ]
    )
    | st.text(max_size=5),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    "name",
    [
        *["", "/etc/passwd", "..", "../x", "a/../b", "a//b", "a/", ".", "./a", "a/.", "a\0b", "C:\\x", "c:/x", "C:"],
        *["\\\\server\\x", "\\x", "..\\x", "a\\..\\b", "x" * 256, "ü" * 128, "/".join("a" * 33), "a/" * 2100 + "a"],
    ],
)
def test_traps_are_the_other_sides_fault(name: str) -> None:
    with pytest.raises(RemoteError):
        safe_name(name)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.jpg", "photo.jpg"),
        (".bashrc", ".bashrc"),
        ("Grüße – 日本.txt", "Grüße – 日本.txt"),
        ("folder/file", "folder/file"),
        ("12:30:45.png", "12_30_45.png"),
        ("a\nb\x1b[2J", "a_b_[2J"),
        ("a\\b", "a_b"),
        ("con.txt", "_con.txt"),
        ("LPT1", "_LPT1"),
        ("console.txt", "console.txt"),
        ("end. .", "end___"),
        ("...", "___"),
        (".p2p-0011223344556677.part", "_p2p-0011223344556677.part"),
        ("C:x", "C_x"),
    ],
)
def test_what_is_replaced(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_a_cut_name_does_not_end_in_a_space() -> None:
    assert portable_component("x" * 254 + " and so on") == "x" * 254 + "_"


@given(NASTY)
def test_safe_names_stay_inside(name: str) -> None:
    try:
        safe = safe_name(name)
    except RemoteError:
        return
    assert safe == safe_name(safe)
    inside = os.path.normpath("/inbox/" + safe)
    assert inside == "/inbox/" + safe
    windows = PureWindowsPath(safe)
    assert not windows.drive
    assert not windows.root
    assert not windows.is_reserved()
    assert ".." not in windows.parts
    assert windows.parts == PurePosixPath(safe).parts
    assert all(char >= " " and char not in "\x7f\\:" for char in safe)


@given(NASTY)
def test_any_local_name_becomes_one_that_every_receiver_takes(name: str) -> None:
    portable = portable_component(name)
    assert safe_name(portable) == portable
    assert "/" not in portable
    assert len(portable.encode()) <= MAX_COMPONENT_BYTES
    assert not is_temporary(portable)


@given(NASTY, st.integers(1, 10_000), st.integers(1, 10_000))
def test_numbered_names_are_safe_and_distinct(name: str, first: int, second: int) -> None:
    portable = portable_component(name)
    one, two = numbered(portable, first), numbered(portable, second)
    assert (one == two) == (first == second)
    assert one != portable
    assert safe_name(one) == one


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.pdf", "report (1).pdf"),
        ("README", "README (1)"),
        (".bashrc", ".bashrc (1)"),
        ("archive.tar.gz", "archive (1).tar.gz"),
        (".tar.gz", ".tar (1).gz"),
        ("Mr. Smith went", "Mr. Smith went (1)"),
        ("a (1).txt", "a (1) (1).txt"),
        ("x" * 251 + ".txt", "x" * 247 + " (1).txt"),
        ("ü" * 125 + ".txt", "ü" * 123 + " (1).txt"),
    ],
)
def test_numbering(name: str, expected: str) -> None:
    assert numbered(name, 1) == expected


def test_temporary_names_are_recognised() -> None:
    assert temporary_name(bytes(8)) == ".p2p-0000000000000000.part"
    assert is_temporary(temporary_name(b"\xff" * 8))
    assert not is_temporary(".p2p-notes.txt")
