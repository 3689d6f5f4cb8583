"""The programs that p2p is measured beside: one module each, and `needs` for what a machine lacks."""

from __future__ import annotations

import importlib.util
import shutil
import sys

PIP = f"{sys.executable} -m pip install -r bench/requirements.txt"


def need_program(program: str, package: str) -> list[str]:
    """A sentence when the program is not there."""
    if shutil.which(program) is not None:
        return []
    return [f"the program {program} is missing: apt-get install {package}"]


def need_module(module: str) -> list[str]:
    """A sentence when the Python module is not there."""
    if importlib.util.find_spec(module) is not None:
        return []
    return [f"the Python package {module} is missing: {PIP}"]
