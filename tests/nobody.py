"""Running a piece of Python as a user without privileges."""

from __future__ import annotations

import os
import subprocess
import sys

NOBODY = 65534


def as_nobody(imports: str, script: str, *arguments: str | os.PathLike[str]) -> tuple[str, str]:
    """What the script wrote, to stdout and to stderr. `imports` come first, while Python may still read its files."""
    drop = f"import sys, encodings.idna, os\n{imports}\n"
    if os.geteuid() == 0:
        drop += f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    result = subprocess.run(
        [sys.executable, "-c", drop + script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return result.stdout, result.stderr
