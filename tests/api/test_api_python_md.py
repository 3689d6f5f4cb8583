"""docs/python.md is right: its examples run, one after the other, and type checkers know what they use."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from harness import ROOT

import p2p

PAGE = ROOT / "docs" / "python.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def program(address: str) -> str:
    """All of them, as one program; the server of the page is ours."""
    return "\n".join(EXAMPLES).replace("rendezvous.example.org", address)


def test_the_examples_run_in_order(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for number, example in enumerate(EXAMPLES):
        assert "..." not in example, "an example is whole"
        compile(example, f"example {number}", "exec")
    namespace: dict[str, object] = {"__name__": "examples"}
    for number, example in enumerate(EXAMPLES):
        exec(compile(example.replace("rendezvous.example.org", address), f"example {number}", "exec"), namespace)
    assert "photos/tower.jpg is done" in capfd.readouterr().out


def test_type_checkers_agree(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "examples.py").write_text(program("127.0.0.1:1"))
    (tmp_path / "wrong.py").write_text(textwrap.dedent("""\
        import p2p
        size: str = p2p.send("file").size
        p2p.receive(7, policy="ask")
        p2p.send(["file"], on_progress=lambda progress: progress.nothing)
    """))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    environment = {"MYPYPATH": str(ROOT), "PATH": ""}
    run = subprocess.run(
        [*command, "--follow-imports=silent", "examples.py", "wrong.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in run.stdout.splitlines() if ": error:" in line]
    assert [line.partition(":")[0] for line in lines] == ["wrong.py"] * 4, run.stdout + run.stderr
    assert (ROOT / "p2p" / "py.typed").exists()


def test_every_public_name_is_explained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in p2p.__all__:
        assert name.startswith("__") or f"`{name}`" in text or f"p2p.{name}" in text, name
