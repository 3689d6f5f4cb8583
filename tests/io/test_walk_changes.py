"""A tree that somebody changes at every step of the walk: it ends, comes back up, and tells nothing from outside."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from walking import ALL, make_tree, told

from p2p.core.transfer.entries import Entry
from p2p.io.sending.sources import SourceError, look_up
from p2p.io.sending.walk import Walk

PLACES = ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b", "a/b/a", "b/a/a"]
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["remove", "folder", "file", "link", "pipe", "move", "swap", "swap"]),
        st.sampled_from(PLACES),
        st.sampled_from(PLACES),
    ),
    max_size=12,
)


def change(tree: Path, what: str, place: str, other: str) -> None:
    """Makes something else of `place`, whatever is there."""
    path, goal = tree / place, tree / other
    if not all(each.parent.is_dir() and each.parent.resolve() == each.parent for each in (path, goal)):
        return  # by way of a link
    if what == "move":
        if path.exists() and not other.startswith(place) and not place.startswith(other):
            remove(goal)
            path.rename(goal)
        return
    if what == "swap" and path.exists():  # what was opened before stays what it is, and elsewhere
        goal = tree / f"moved {place.replace('/', ' ')}"
        remove(goal)
        path.rename(goal)
    remove(path)
    match what:
        case "folder":
            make_tree(path, "new", "a/new")
        case "file":
            path.write_text("new")
        case "link" | "swap":
            path.symlink_to(tree.parent / "outside" / place)
        case "pipe":
            os.mkfifo(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@given(changes=CHANGES)
def test_a_tree_that_changes_at_every_step(changes: list[tuple[int, str, str, str]]) -> None:
    before = os.listdir("/proc/self/fd")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        outside = make_tree(folder / "outside", *(f"{place}/{name}" for place in PLACES for name in ("x", "secret")))
        for path in outside.rglob("*"):
            if path.is_file():
                path.write_text("secret")
                os.utime(path, ns=(0, 0))
        tree = make_tree(folder / "tree", *(f"{place}/x" for place in PLACES))
        for path in tree.rglob("x"):
            path.write_text("public")
            os.utime(path, ns=(0, 0))
        walk, step, is_last = Walk(look_up([tree]), ALL), 0, False
        entries: list[Entry] = []
        while not is_last:
            for when, *how in changes:
                if when == step:
                    change(tree, *how)
            batch, is_last = walk.take(1)
            step += 1
            for entry, source in batch:
                entries.append(entry)
                for when, *how in changes:
                    if when == step:
                        change(tree, *how)
                if source is not None:
                    try:
                        content = source.read_whole()
                    except SourceError:
                        continue
                    assert b"secret" not in content
        assert not [line for line in told(entries) if "secret" in line.split("/")]
        assert step < 200
    assert os.listdir("/proc/self/fd") == before
