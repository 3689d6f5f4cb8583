"""Running a piece of Python as a user without privileges."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[[str, Path], str]:
    """Returns what the script wrote to stderr. Imports come first, while the interpreter may still read its files."""
    for folder in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and folder.stat().st_uid == 0 and folder.name.startswith(("pytest-", tmp_path.name)):
            folder.chmod(0o755)

    def run(script: str, path: Path) -> str:
        drop = "import p2p.io.files, p2p.core.transfer, encodings.idna, os\n"
        if os.geteuid() == 0:
            drop += f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        result = subprocess.run(
            [sys.executable, "-c", drop + script, path], capture_output=True, text=True, timeout=60, check=False
        )
        return result.stderr

    return run
