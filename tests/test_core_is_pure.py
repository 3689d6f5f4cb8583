"""The core touches no socket, clock, entropy, file or log: its imports prove it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "p2p" / "core"
FORBIDDEN = {
    "asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time", "datetime",
}  # fmt: skip
MACHINES = {
    "rendezvous", "contacts", "discovery", "portmap", "session", "punch", "transport", "transfer", "stun", "nat",
}  # fmt: skip
MAY_IMPORT = {"nat": {"stun"}}  # samples are answers of STUN servers


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(CORE)))
def test_module_is_pure(path: Path) -> None:
    names = imports(path)
    assert not {name.split(".")[0] for name in names} & FORBIDDEN
    outside = {name for name in names if name.startswith("p2p.") and not name.startswith("p2p.core.")}
    assert not outside


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_machines_do_not_import_each_other(machine: str) -> None:
    for path in (CORE / machine).rglob("*.py"):
        others = {name.split(".")[2] for name in imports(path) if name.startswith("p2p.core.")}
        assert not others & (MACHINES - {machine} - MAY_IMPORT.get(machine, set())), path
        assert "peer" not in others, path


def test_nothing_reads_the_clock_or_entropy_through_a_back_door() -> None:
    for path in CORE.rglob("*.py"):
        calls = {node.func.id for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
        assert not calls & {"open", "print", "input", "__import__", "eval", "exec"}, path
