"""The benchmark of bringing a lab up judges what it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 60  # seconds; reached only when something is broken


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.mark.netlab
@pytest.mark.parametrize("limit", ["--up-limit", "--down-limit"])
def test_a_lab_that_takes_longer_than_the_limit_is_an_exit_code(limit: str) -> None:
    lenient = ["--up-limit", "60000", "--down-limit", "60000"]
    done = benchmark("bench.lab_bringup", "--rounds", "2", *lenient)
    assert (done.returncode, done.stderr) == (0, "")
    done = benchmark("bench.lab_bringup", "--rounds", "2", *lenient, limit, "0")
    assert done.returncode == 1
    assert done.stderr.startswith(limit.split("-")[2])
    assert "ms at best, more than 0\n" in done.stderr
