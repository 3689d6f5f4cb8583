"""No name from the other side leads out of the directory, and honest names pass unchanged."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from itertools import product
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.core.errors import RemoteError
from p2p.core.transfer.names import (
    MAX_COMPONENT_BYTES,
    is_temporary,
    numbered,
    portable_component,
    safe_name,
    stays_inside,
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
        *["a/b", "/", "//", "folder/file"],
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


# Links.


@pytest.mark.parametrize(
    "target",
    [
        *["", "/", "/etc", "..", "../x", "../../x", "x/..", "x/../y", "./../x", "x//../..", "\0", "a\0b", "a\\b"],
        *["..\\x", "C:", "C:\\x", "c:/x", "x" * 4096, "../" * 64 + "x", "//server/x"],
    ],
)
def test_links_that_lead_out_of_the_root_of_the_tree(target: str) -> None:
    assert not stays_inside(target, 0)


@pytest.mark.parametrize("target", ["x", "x/y", ".", "./x", "x/", "x//y", "...", "..x", "x..", "-", "ü", "x" * 4095])
def test_links_that_stay(target: str) -> None:
    assert stays_inside(target, 0)


def test_a_link_climbs_as_far_as_it_lies_deep() -> None:
    for depth, up in product(range(6), range(8)):
        assert stays_inside("../" * up + "x", depth) == (up <= depth)
        assert stays_inside("/".join([".."] * up) or ".", depth) == (up <= depth)


def resolved(path: str | Path) -> Path | None:
    """Where it leads, also where nothing is; None for links that lead in a circle, and so nowhere."""
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        return Path(os.path.realpath(path)) if error.errno != errno.ELOOP else None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_chain_of_allowed_links_leads_out_of_a_real_tree(seed: int) -> None:
    """Whatever trees and targets: what the system makes of any path through them lies in the tree."""
    rng = random.Random(seed)
    outside = Path(tempfile.mkdtemp()).resolve()
    try:
        tree = outside / "tree"
        tree.mkdir()
        (outside / "a").mkdir()  # what a link that climbs too far would find
        folders, made = [tree], []
        for _ in range(rng.randint(2, 12)):
            parent = rng.choice(folders)
            thing = parent / rng.choice("abcd")
            if os.path.lexists(thing):
                continue
            if rng.random() < 0.4:
                thing.mkdir()
                folders.append(thing)
                continue
            components = [rng.choice(["..", "..", ".", "", "a", "b", "c", "d"]) for _ in range(rng.randint(1, 6))]
            target = "/".join(components)
            if stays_inside(target, len(parent.relative_to(tree).parts)):
                os.symlink(target, thing)
                made.append(thing)
        for link in made:
            for below in ("", "/a", "/b/c", "/a/b/c/d"):
                real = resolved(f"{link}{below}")
                assert real is None or real == tree or tree in real.parents, f"{link} -> {os.readlink(link)}"
    finally:
        shutil.rmtree(outside)


def test_what_allowed_links_reach_all_small_trees() -> None:
    """Exhaustively: every pair of links of up to three components in a tree of three folders."""
    words = ["..", "a", "l", "m"]
    targets = ["/".join(each) for length in (1, 2, 3) for each in product(words, repeat=length)]
    outside = Path(tempfile.mkdtemp()).resolve()
    try:
        tree = outside / "t"
        (tree / "a" / "a").mkdir(parents=True)
        places = [tree, tree / "a", tree / "a" / "a"]
        allowed = [
            (place / name, target)
            for place, name in zip(places, ("l", "m", "l"), strict=True)
            for target in targets
            if stays_inside(target, len(place.relative_to(tree).parts))
        ]
        first = [each for each in allowed if each[0].parent != tree]
        checked = 0
        for (one, to), (two, too) in product(first[::3], allowed[::2]):
            if one == two:
                continue
            os.symlink(to, one)
            os.symlink(too, two)
            for link in (one, two):
                real = resolved(link)
                assert real is None or real == tree or tree in real.parents, (one, to, two, too)
                checked += real is not None
            one.unlink()
            two.unlink()
        assert checked > 500
    finally:
        shutil.rmtree(outside)
