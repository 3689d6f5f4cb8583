"""What the figures were measured on: without it they mean nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("cryptography", "magic-wormhole", "aioquic", "iroh")  # Python packages whose version matters
PROGRAMS = {
    "iperf3": ["iperf3", "--version"],
    "SRT": ["srt-file-transmit", "-version"],
    "Node.js": ["node", "--version"],
}
HYPERDHT = Path(__file__).parent / "node_modules" / "hyperdht" / "package.json"


def describe() -> dict[str, str]:
    """Name and value of each thing that matters, for people to read."""
    found = {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "TCP": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    for name, command in PROGRAMS.items():
        if version := _version(command):
            found[name] = version
    if HYPERDHT.exists() and (match := re.search(r'"version": *"([^"]+)"', HYPERDHT.read_text())):
        found["hyperdht"] = match[1]
    return found


def _cpu() -> str:
    match = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _version(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return match[0] if match else ""
