"""What the functions raise speaks of parameters; no sentence of theirs names an option of the commands."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT

import p2p
from p2p.core.calling import PARAMETERS, PEER_PROGRAM, as_parameters, command, option, spoken
from p2p.core.errors import Failure

OPTION = re.compile(r"(?<![\w-])--[a-z]")
MARKS = ("option", "command")


def modules() -> list[Path]:
    """All of ours that a transfer of a program has loaded."""
    listing = "import sys, p2p; p2p.send; print(*[m.__file__ for n, m in sys.modules.items() if n[:3] == 'p2p'])"
    run = subprocess.run([sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in run.stdout.split() if not name.endswith("core/calling.py")]


def said(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a module but its docstrings and what is marked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed_over: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):  # a docstring
            passed_over.add(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKS:
            passed_over.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in passed_over:
            yield node.lineno, node.value


# The other side's command, and what is one of its words: never an advice to who reads it here.
FOR_THE_OTHER_SIDE = {"plan.py": {"--server", "--remember", "--no-code"}, "pipes.py": set[str]()}


def test_no_sentence_names_an_option_unmarked() -> None:
    paths = modules()
    assert len(paths) > 80
    named = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in paths
        for line, text in said(path)
        if OPTION.search(text) and text not in FOR_THE_OTHER_SIDE.get(path.name, set())
    ]
    assert named == []


def test_every_name_in_a_sentence_is_a_parameter() -> None:
    parameters = {*inspect.signature(p2p.send).parameters, *inspect.signature(p2p.receive).parameters}
    for words in PARAMETERS.values():
        for name in re.findall(r"`(\w+)(?:=\w+)?`", words):
            assert name in {*parameters, "tar"}, words
    assert not any(OPTION.search(words) for words in PARAMETERS.values() if PEER_PROGRAM not in words)


@pytest.mark.parametrize("words", PARAMETERS)
def test_a_sentence_in_both_languages(words: str) -> None:
    sentence = f"Check {option(words)}, or run `{command('doctor')}`"
    assert spoken(sentence, "p2p") == f"Check {words.replace(PEER_PROGRAM, 'p2p')}, or run `p2p doctor`"
    assert as_parameters(sentence) == f"Check {PARAMETERS[words]}, or run `{PEER_PROGRAM} doctor`"
    assert str(p2p.TransferError(sentence)) == as_parameters(sentence)


def test_a_file_that_is_called_like_an_option_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(p2p.StorageError, match="--out"):
        p2p.send(tmp_path / "--out", me="a", to="b", code="a code of ours")


def test_what_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(p2p.StorageError, match="choose a folder with `out`"):
        p2p.receive("a code of ours", me="b", sender="a", out=tmp_path / "file", server="127.0.0.1")
    with pytest.raises(p2p.ArgumentError, match=r"^`server` wants HOST"):
        p2p.receive("a code of ours", me="b", sender="a", server="x:y")
    with pytest.raises(p2p.ArgumentError, match=r"^`stun` wants HOST"):
        p2p.receive("a code of ours", me="b", sender="a", server="x", stun=["x:y"])
    with pytest.raises(p2p.NoPeerError, match=r"Check `server`, or start") as caught:
        p2p.receive("a code of ours", me="b", sender="a", server="127.0.0.1:1")
    assert not OPTION.search(str(caught.value))
    assert isinstance(Failure(p2p.ExitCode.NO_PEER, str(caught.value)), Failure)
