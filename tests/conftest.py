"""What all tests share: the lab's fixtures, no clock, and no test that CI does not run."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["netlab.pytest_plugin"]

# A deadline is a timed assert: on a busy machine it fails where nothing is wrong.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

LAB = "pytest_plugin.py"  # netlab's: what it leaves out, because of the machine, it counts and tells by itself


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI runs nothing may be skipped: `./run tests` installs what is needed."""
    report = yield
    if report.skipped and os.environ.get("CI") and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        if Path(path).name != LAB:
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: CI skips nothing: {reason}"
    return report
