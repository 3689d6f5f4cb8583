"""pytest plugin: installed with the package, or ``pytest_plugins = ["netlab.pytest_plugin"]``.

- fixture ``netlab``: a factory, ``netlab(two_nats(NONE, SYMMETRIC))`` gives a running ``Lab`` that ends
  with the test;
- marker ``netlab``: set by hand, or by itself on every test that uses the fixture. Where a lab cannot
  be built such a test is skipped with the reason in words; with ``CI`` or ``NETLAB_REQUIRED`` in
  the environment it fails with the same words, since a suite that skips what it was made for proves
  nothing;
- the timeline of every lab of a test that fails, and with ``--netlab-captures DIR`` the captures;
- ``@pytest.mark.netlab(needs="tun")``: needs something beyond a lab, see :data:`netlab.requirements.NEEDS`.
  Without root (:mod:`netlab.rootless`) a test whose need is not met is left out, required or not;
- a last line that says how many cases really ran, how many were left out, and why.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from netlab import rootless
from netlab.requirements import MissingRequirements, lacking, missing_requirements

if TYPE_CHECKING:
    from netlab.lab import Lab
    from netlab.topology import Topology

REQUIRED_BY = ("CI", "NETLAB_REQUIRED")  # environment variables; empty and "0" count as unset
MARK = "netlab"
# Names of properties that travel with a report, also from an xdist worker.
RUNS, LEFT_OUT = "netlab case", "netlab left out"


class _Count:
    """Counts what is reported; in the process that the person started."""

    def __init__(self) -> None:
        self.ran = 0
        self.left_out: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if report.when == "call" and not report.skipped and RUNS in properties:
            self.ran += 1
        if report.skipped and LEFT_OUT in properties:
            self.left_out[str(properties[LEFT_OUT])] += 1

    def words(self) -> str:
        how = " without root" if rootless.active() else ""
        ran = f"netlab: {self.ran} {'case' if self.ran == 1 else 'cases'} ran{how}"
        if not self.left_out:
            return ran
        reasons = "; ".join(f"{words} ({count})" for words, count in self.left_out.most_common())
        return f"{ran}, {self.left_out.total()} left out: {reasons}"


_COUNT = pytest.StashKey[_Count]()
_LABS: pytest.StashKey[list[Lab]] = pytest.StashKey()
_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("netlab").addoption(
        "--netlab-captures",
        metavar="DIR",
        type=Path,
        help="capture what every machine of every lab sees; keep those of tests that fail, by test, in DIR",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARK}(needs=...): needs a NAT lab, and perhaps more: a name of netlab.requirements.NEEDS, or some"
    )
    # An xdist worker reports to the controller, and is where the controller was when it began.
    if hasattr(config, "workerinput"):
        return
    config.stash[_COUNT] = _Count()
    config.pluginmanager.register(config.stash[_COUNT], "netlab-count")
    try:
        forced = rootless.choice() is rootless.Choice.ALWAYS
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if forced or config.getoption("dist", "no") != "no":
        # Workers have threads from their beginning, and the controller gets them with the first worker.
        rootless.enter_where_needed()


def pytest_itemcollected(item: pytest.Item) -> None:
    if MARK in getattr(item, "fixturenames", ()):
        item.add_marker(MARK)


def pytest_collection_finish(session: pytest.Session) -> None:
    # Not before it is known to be of use: a user namespace is nothing to impose on a suite without labs.
    if not hasattr(session.config, "workerinput") and any(item.get_closest_marker(MARK) for item in session.items):
        rootless.enter_where_needed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker(MARK) is None:
        return
    lab_missing = missing_requirements()
    missing = lab_missing or lacking(_needs(item))
    if not missing:
        item.user_properties.append((RUNS, ""))
        return
    if lab_missing:
        words = "the NAT lab cannot run here: " + "; ".join(missing)
    else:
        words = "; ".join(missing)
    # Who runs without root asks for what can be had without root.
    _do_without(item, words, may_fail=bool(lab_missing) or not rootless.active())


def _do_without(item: pytest.Item, words: str, *, may_fail: bool) -> NoReturn:
    """Skip the test, or fail it when the environment says that labs are required."""
    required = next((name for name in REQUIRED_BY if os.environ.get(name, "0") not in {"", "0"}), None)
    if required and may_fail:
        pytest.fail(f"{words} (and {required} is set, so this is a failure)", pytrace=False)
    item.user_properties.append((LEFT_OUT, words))
    pytest.skip(words)


def _needs(item: pytest.Item) -> list[str]:
    """The needs of all marks on it, each once."""
    needs: dict[str, None] = {}
    for mark in item.iter_markers(MARK):
        each = mark.kwargs.get("needs", ())
        needs.update(dict.fromkeys([each] if isinstance(each, str) else each))
    return list(needs)


@pytest.fixture
def netlab(request: pytest.FixtureRequest) -> Iterator[Callable[[Topology], Lab]]:
    """``netlab(topology)`` brings a lab up; all of them go down when the test ends."""
    from netlab.lab import Lab  # noqa: PLC0415 - a suite without lab tests needs no pyroute2

    item = request.node
    labs: list[Lab] = []
    item.stash[_LABS] = labs
    directory = _directory(item)
    with ExitStack() as stack:

        def made(topology: Topology) -> Lab:
            try:
                lab = stack.enter_context(Lab(topology))
            except MissingRequirements as error:  # of this topology; those of any lab are told before the test
                _do_without(item, str(error), may_fail=not rootless.active())
            labs.append(lab)
            if directory is not None:
                stack.enter_context(lab.capture_all(directory / str(len(labs))))
            return lab

        yield made
    if directory is not None and not item.stash.get(_FAILED, False):
        shutil.rmtree(directory, ignore_errors=True)


def _directory(item: pytest.Item) -> Path | None:
    """Where this test's captures go, if anywhere."""
    captures: Path | None = item.config.getoption("netlab_captures")
    return captures and captures / re.sub(r"[^\w.=-]+", "-", item.nodeid).strip("-")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say what happened in the labs of a test that failed, and where its captures are."""
    report = yield
    none: list[Lab] = []
    if report.when == "call" and report.failed and (labs := item.stash.get(_LABS, none)):
        item.stash[_FAILED] = True
        for number, lab in enumerate(labs, 1):
            report.sections.append((f"timeline of lab {number} (seconds since it was up, UTC)", str(lab.timeline)))
        if (directory := _directory(item)) is not None:
            report.sections.append(("captures", f"{directory}/<lab>/<machine>.pcap"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(config.stash[_COUNT].words())
