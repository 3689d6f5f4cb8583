"""The main job on one machine: a server and two peers as separate processes, one real file, both screens."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SIZE = 100_000_000  # bytes
CODE = "amber-walnut-tiger"


def show(who: str, text: str) -> None:
    for line in text.strip().splitlines():
        print(f"  {who:>8} | {line}")


def main() -> int:
    run = [sys.executable, "-m"]
    with tempfile.TemporaryDirectory(prefix="p2p-demo-") as name:
        folder = Path(name)
        (folder / "holiday.mov").write_bytes(os.urandom(SIZE))
        digest = hashlib.sha256((folder / "holiday.mov").read_bytes()).hexdigest()
        server = subprocess.Popen(
            [*run, "p2p.server", "--host", "127.0.0.1", "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            show("server", line)
            port = re.search(r"ports (\d+)", line)
            assert port is not None, "the server did not start"
            common = ["--server", f"127.0.0.1:{port[1]}", "--code", CODE]
            sender = subprocess.Popen(
                [*run, "p2p.peer", "send", "alice", "bob", str(folder / "holiday.mov"), *common],
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            receiver = subprocess.Popen(
                [*run, "p2p.peer", "recv", "bob", "alice", "--yes", "--out", str(folder / "bob"), *common],
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            show("alice", sender.communicate(timeout=120)[1])
            show("bob", receiver.communicate(timeout=120)[1])
            arrived = hashlib.sha256((folder / "bob" / "holiday.mov").read_bytes()).hexdigest()
        finally:
            server.terminate()
            server.wait()
        print(f"\nsent     sha256 {digest}\narrived  sha256 {arrived}")
        same = digest == arrived and sender.returncode == receiver.returncode == 0
        print("The file arrived, byte for byte." if same else "The file did NOT arrive.")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
