"""pytest plugin: ``pytest_plugins = ["netlab.pytest_plugin"]``.

- fixture ``lab``: a factory, ``lab(two_nats(NONE, SYMMETRIC))`` gives a running ``Lab`` that ends
  with the test;
- marker ``lab``: set by hand, or by itself on every test that uses the fixture. Where a lab cannot
  be built such a test is skipped with the reason in words; with ``CI`` or ``NETLAB_REQUIRED`` in
  the environment it fails with the same words, since a suite that skips what it was made for proves
  nothing;
- a last line that says how many lab cases really ran.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from netlab.requirements import missing_requirements

if TYPE_CHECKING:
    from netlab.lab import Lab
    from netlab.topology import Topology

REQUIRED_BY = ("CI", "NETLAB_REQUIRED")  # environment variables; empty and "0" count as unset
MARK = "lab"
PROPERTY = ("netlab", "lab case")  # travels with a report, also from an xdist worker


class _Counter:
    ran = 0


_COUNTER = pytest.StashKey[_Counter]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}: needs root and Linux network namespaces")
    counter = config.stash[_COUNTER] = _Counter()

    class Count:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" and not report.skipped and PROPERTY in map(tuple, report.user_properties):
                counter.ran += 1

    # An xdist worker reports to the controller, which runs this hook for it.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Count(), "netlab-count")


def pytest_itemcollected(item: pytest.Item) -> None:
    if "lab" in getattr(item, "fixturenames", ()):
        item.add_marker(MARK)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker(MARK) is None:
        return
    missing = missing_requirements()
    if not missing:
        item.user_properties.append(PROPERTY)
        return
    words = "the NAT lab cannot run here: " + "; ".join(missing)
    for name in REQUIRED_BY:
        if os.environ.get(name, "0") not in {"", "0"}:
            pytest.fail(f"{words} (and {name} is set, so this is a failure)", pytrace=False)
    pytest.skip(words)


@pytest.fixture
def lab() -> Iterator[Callable[[Topology], Lab]]:
    """``lab(topology)`` brings a lab up; all of them go down when the test ends."""
    from netlab.lab import Lab  # noqa: PLC0415 - a suite without lab tests needs no pyroute2

    with ExitStack() as stack:
        yield lambda topology: stack.enter_context(Lab(topology))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"netlab: {config.stash[_COUNTER].ran} lab cases ran")
