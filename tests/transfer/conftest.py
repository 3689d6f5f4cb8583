"""Running a piece of Python as a user without privileges."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Like tmp_path, which only its owner may enter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve()
        path.chmod(0o755)
        yield path


@pytest.fixture
def as_nobody() -> Callable[[str, Path], str]:
    """Returns what the script wrote to stderr. Imports come first, while the interpreter may still read its files."""

    def run(script: str, path: Path) -> str:
        drop = "import p2p.io.receiving.destination, encodings.idna, os\n"
        if os.geteuid() == 0:
            drop += f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        result = subprocess.run(
            [sys.executable, "-c", drop + script, path], capture_output=True, text=True, timeout=60, check=False
        )
        return result.stderr

    return run
