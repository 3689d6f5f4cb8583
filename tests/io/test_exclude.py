"""What is left out of a tree because the person says so: the rules are those of git."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walking import entries, make_tree, told

from p2p.core.errors import CallerError
from p2p.io.sending.walk import Exclude


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def test_an_excluded_folder_is_not_entered(tree: Path) -> None:
    make_tree(tree, "build/a", "src/x.o", "src/x.c", "src/build/b")
    (tree / "build" / "locked").mkdir(0)
    assert told(entries(tree, exclude=Exclude(["build/", "*.o"]))) == ["tree/", "tree/src/", "tree/src/x.c"]


def test_patterns_begin_below_what_was_named_and_never_exclude_that(tree: Path) -> None:
    make_tree(tree, "tree/a", "b")
    assert told(entries(tree, tree / "b", exclude=Exclude(["/tree", "/b"]))) == ["tree/", "b"]


def test_what_is_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="is no pattern of files to exclude"):
        Exclude(["*.o", "!"])
    assert not Exclude(["", "# a comment"])
    assert told(entries(make_tree(tmp_path, "#x"), exclude=Exclude(["\\#x"])))[1:] == []


WORDS = st.sampled_from(["a", "b", "x.o", "y.c", "*", "?", "*.o", "**", "[ab]", "a*"])
PATTERN = st.builds(
    lambda negates, leading, words, trailing: negates + leading + "/".join(words) + trailing,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
).filter(lambda pattern: not pattern.endswith("**/"))  # pathspec takes `a/**/` for a itself as well


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", folder], check=True)
    names = ["a", "b", "x.o", "y.c"]
    return make_tree(
        folder,
        *(f"{one}.d/{two}.d/{name}" for one in "ab" for two in "ab" for name in names),
        *names,
        *(f"{one}/{name}" for one in ("c", "d") for name in names),
        "c/d/a",
        "c/d/y.c",
        "ab/a/b/a",
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="compared with git")
@given(patterns=st.lists(PATTERN, min_size=1, max_size=4))
def test_patterns_mean_what_they_mean_to_git(repository: Path, patterns: list[str]) -> None:
    lines = [*patterns, ".git"]
    (repository.parent / "patterns").write_text("\n".join(lines))
    command = ["git", "ls-files", "-z", "--others", f"--exclude-from={repository.parent / 'patterns'}"]
    theirs = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    ours = told(entries(repository, exclude=Exclude(lines)))
    root = f"{repository.name}/"
    assert sorted(line.removeprefix(root) for line in ours if not line.endswith("/")) == sorted(theirs)
