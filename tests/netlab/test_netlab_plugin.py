"""The pytest plugin, run as somebody else's suite would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from netlab import requirements

SUITE = """
import pytest
from netlab.nat import NONE
from netlab.topology import one_lan

def test_with_the_fixture(netlab):
    assert netlab(one_lan(NONE)).host("alice").address

@pytest.mark.netlab
@pytest.mark.parametrize("n", [1, 2])
def test_with_the_marker(n):
    pass

@pytest.mark.netlab
def test_that_skips_itself():
    pytest.skip("not a case that ran")

def test_without():
    pass
"""
NEEDY = """
import pytest

@pytest.mark.netlab(needs="root")
def test_that_needs_root(): pass

@pytest.mark.netlab(needs=("nothing-known",))
def test_that_needs_what_nobody_has(): pass
"""
# Takes the right to make namespaces away, whoever runs this.
CANNOT = """
import pytest
from netlab import requirements
@pytest.fixture(autouse=True, scope="session")
def _nothing(): pass
requirements._missing = lambda: ("no network namespace can be made",)
"""


def run(directory: Path, *arguments: str, suite: str = SUITE, **environment: str) -> tuple[int, str]:
    (directory / "test_suite.py").write_text(suite, encoding="ascii")
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


@pytest.mark.netlab
@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_the_cases_that_really_ran_are_counted(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out = run(tmp_path, *arguments)
    assert "netlab: 3 cases ran" in out
    assert "4 passed, 1 skipped" in out
    assert code == 0


@pytest.mark.netlab
def test_the_fixture_marks_its_tests(tmp_path: Path) -> None:
    _, out = run(tmp_path, "-m", "not netlab")
    assert "1 passed, 4 deselected" in out
    assert "netlab: 0 cases ran" in out


def test_without_the_means_lab_tests_are_skipped_in_words(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CANNOT, encoding="ascii")
    code, out = run(tmp_path)
    assert code == 0
    assert "1 passed, 4 skipped" in out
    assert "the NAT lab cannot run here: no network namespace can be made" in out
    assert "netlab: 0 cases ran, 4 left out: the NAT lab cannot run here: no network namespace can be made (4)" in out


@pytest.mark.parametrize("name", ["CI", "NETLAB_REQUIRED"])
def test_where_the_lab_is_required_its_absence_is_a_failure(tmp_path: Path, name: str) -> None:
    (tmp_path / "conftest.py").write_text(CANNOT, encoding="ascii")
    code, out = run(tmp_path, **{name: "1"})
    assert code == 1
    assert "1 passed" in out
    assert "4 errors" in out
    assert f"no network namespace can be made (and {name} is set, so this is a failure)" in out


@pytest.mark.netlab(needs="root")
@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_without_root_what_needs_root_is_left_out_though_required(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out = run(tmp_path, *arguments, "-k", "root", suite=NEEDY, CI="1", NETLAB_ROOTLESS="1")
    assert (code, "1 skipped" in out) == (0, True)
    assert "netlab: 0 cases ran without root, 1 left out: only root can mount, or become another user (1)" in out


@pytest.mark.netlab(needs="root")
def test_a_need_that_is_met_changes_nothing_and_an_unknown_one_is_an_error(tmp_path: Path) -> None:
    code, out = run(tmp_path, suite=NEEDY, NETLAB_ROOTLESS="")
    assert code == 1
    assert "1 passed, 1 error" in out
    assert "netlab: 1 case ran\n" in out
    assert "no test can need 'nothing-known'; there are: tun, root" in out


@pytest.mark.netlab
@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_all_of_a_lab_works_without_root(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out = run(tmp_path, *arguments, NETLAB_REQUIRED="1", NETLAB_ROOTLESS="1")
    assert code == 0, out
    assert "netlab: 3 cases ran without root\n" in out


def test_a_choice_that_means_nothing_is_told_in_words(tmp_path: Path) -> None:
    code, out = run(tmp_path, NETLAB_ROOTLESS="perhaps")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "NETLAB_ROOTLESS is 'perhaps': set it to 1 (always), to 0 (never), or not at all" in out


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "PROGRAMS", {"no-such-program": "its-package"})
    assert requirements._missing.__wrapped__() == (
        "the program no-such-program is not installed (apt-get install its-package)",
    )


@pytest.mark.netlab(needs="root")
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
    assert "run as root, or by `python -m netlab.rootless COMMAND`" in done.stderr
    assert "in a container, add the capabilities NET_ADMIN and SYS_ADMIN" in done.stderr


FAILING = """
import pytest
from netlab.nat import NONE
from netlab.topology import one_lan

@pytest.mark.parametrize("ends", ["well", "badly"])
def test_of_two_labs(netlab, ends):
    for lab in (netlab(one_lan(NONE)), netlab(one_lan(NONE))):
        lab.link_down("alice")
    assert ends == "well"
"""


@pytest.mark.netlab
@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_failing_test_shows_its_timeline_and_keeps_its_captures(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "test_failing.py").write_text(FAILING, encoding="ascii")
    kept = tmp_path / "kept"
    code, out = run(tmp_path, "test_failing.py", "--netlab-captures", str(kept), *arguments)
    assert code == 1
    assert "1 failed, 1 passed" in out
    assert len(re.findall(r"timeline of lab [12] .*\n(?:.*\n)*?.*alice +link-down", out)) == 2
    (directory,) = kept.iterdir()
    assert directory.name == "test_failing.py-test_of_two_labs-badly"
    assert f"{directory}/<lab>/<machine>.pcap" in out
    names = {path.name for path in (directory / "2").iterdir()}
    assert names >= {"alice.pcap", "bob.pcap", "router.pcap", "server.pcap", "timeline.jsonl"}
