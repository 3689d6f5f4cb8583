"""The load of the relay's benchmark, against a real server, for a moment."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.relay import jain

GUARD = 60.0


def test_fairness() -> None:
    assert jain([5.0] * 100) == pytest.approx(1.0)
    assert jain([5.0] + [0.0] * 99) == pytest.approx(0.01)
    assert jain([3.0, 1.0]) == pytest.approx(0.8)
    assert jain([0.0, 0.0]) == 0.0


def test_what_is_offered_below_the_limits_arrives() -> None:
    command = [sys.executable, "-m", "p2p.server", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split()[-3]
            options = ["--pairs", "3", "--offer", "0.01", "--seconds", "0.2", "--segments", "4"]
            load = [sys.executable, "-m", "bench.relay_load", "127.0.0.1", port, *options]
            done = subprocess.run(load, capture_output=True, text=True, timeout=GUARD, check=True)
        finally:
            server.terminate()
    opened, figures = done.stdout.splitlines()
    found = json.loads(figures)
    assert opened == "open"
    assert len(found["sent"]) == len(found["got"]) == 3
    assert min(found["sent"]) > 0
    assert found["got"] == found["sent"]
