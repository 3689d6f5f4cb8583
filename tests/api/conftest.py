"""A server of each test's own, and a look at what the test left: threads, descriptors, unfinished files."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from beside import GUARD
from harness import left_over

import p2p


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of other sides and earlier runs is this test's own."""
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    p2p.send.__doc__  # noqa: B018  (loaded: what Python itself keeps open is open)
    before, threads = descriptors(), set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(GUARD)
        assert not thread.is_alive(), f"{thread.name} goes on"
    assert descriptors() == before
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        if folder.name != "keeps":  # parts that a journal names wait for the next run there
            assert not left_over(folder), folder


@pytest.fixture
def address(_nothing_left: None) -> Iterator[str]:
    with p2p.Server("127.0.0.1", 0) as server:
        yield server.address


@pytest.fixture(autouse=True)
def _silent(_nothing_left: None, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """A library prints nothing."""
    yield
    assert capfd.readouterr() == ("", "")


def descriptors() -> dict[str, str]:
    """What is open, by number."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # that of the listing itself
            continue
    return found


assert sys.platform == "linux", "descriptors are looked at in /proc"
