"""The pytest plugin, run as somebody else's suite would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netlab import requirements

SUITE = """
import pytest
from netlab.nat import NONE
from netlab.topology import one_lan

def test_with_the_fixture(lab):
    assert lab(one_lan(NONE)).host("alice").address

@pytest.mark.lab
@pytest.mark.parametrize("n", [1, 2])
def test_with_the_marker(n):
    pass

@pytest.mark.lab
def test_that_skips_itself():
    pytest.skip("not a case that ran")

def test_without():
    pass
"""
# Takes the right to make namespaces away, whoever runs this.
CANNOT = """
import pytest
from netlab import requirements
@pytest.fixture(autouse=True, scope="session")
def _nothing(): pass
requirements._missing = lambda: ("no network namespace can be made",)
"""


def run(directory: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    (directory / "test_suite.py").write_text(SUITE, encoding="ascii")
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "NETLAB_REQUIRED"}}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "netlab.pytest_plugin", "-p", "no:hypothesispytest", "-rs", *arguments],
        cwd=directory,
        env=kept | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.lab
@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_the_cases_that_really_ran_are_counted(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out = run(tmp_path, *arguments)
    assert "netlab: 3 lab cases ran" in out
    assert "4 passed, 1 skipped" in out
    assert code == 0


@pytest.mark.lab
def test_the_fixture_marks_its_tests(tmp_path: Path) -> None:
    _, out = run(tmp_path, "-m", "not lab")
    assert "1 passed, 4 deselected" in out
    assert "netlab: 0 lab cases ran" in out


def test_without_the_means_lab_tests_are_skipped_in_words(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CANNOT, encoding="ascii")
    code, out = run(tmp_path)
    assert code == 0
    assert "1 passed, 4 skipped" in out
    assert "the NAT lab cannot run here: no network namespace can be made" in out
    assert "netlab: 0 lab cases ran" in out


@pytest.mark.parametrize("name", ["CI", "NETLAB_REQUIRED"])
def test_where_the_lab_is_required_its_absence_is_a_failure(tmp_path: Path, name: str) -> None:
    (tmp_path / "conftest.py").write_text(CANNOT, encoding="ascii")
    code, out = run(tmp_path, **{name: "1"})
    assert code == 1
    assert "1 passed" in out
    assert "4 errors" in out
    assert f"no network namespace can be made (and {name} is set, so this is a failure)" in out


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "PROGRAMS", {"no-such-program": "its-package"})
    assert requirements._missing.__wrapped__() == (
        "the program no-such-program is not installed (apt-get install its-package)",
    )


@pytest.mark.lab
def test_a_user_without_the_right_is_told_so(tmp_path: Path) -> None:
    # Imported first: the interpreter may be installed where only root can read.
    code = "import os, pyroute2, scapy, netlab.requirements as r; os.setuid(65534); r.require()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MissingRequirements: the NAT lab cannot run here: no network namespace can be made" in done.stderr
    assert "run as root; in a container, add the capabilities NET_ADMIN and SYS_ADMIN" in done.stderr
