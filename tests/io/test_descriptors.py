"""Limits of a process of its own, for one that was lowered does not go up again."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[1:3])))
from p2p.io.descriptors import descriptors
print(descriptors(1024), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "found", "after"),
    [
        (256, 4096, 1024, "(1024, 4096)"),
        (256, 512, 512, "(512, 512)"),
        (100, 100, 100, "(100, 100)"),
        (2048, 4096, 1024, "(2048, 4096)"),
    ],
)
def test_it_asks_for_what_it_wants_and_says_what_it_got(soft: int, hard: int, found: int, after: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(soft), str(hard)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{found} {after}\n"
