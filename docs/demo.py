"""The main job on one machine: a server and two peers as separate processes, one real file, both screens.

python docs/demo.py [SERVER:PORT]       with a server that runs already, starts none
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from blake3 import blake3

SIZE = 100_000_000  # bytes
CODE = "amber-walnut-tiger"
RUN = [sys.executable, "-m"]


def show(who: str, text: str) -> None:
    for line in text.strip().splitlines():
        print(f"  {who:>8} | {line}")


@contextmanager
def started_server() -> Iterator[str]:
    """Gives its address for as long as the block lasts."""
    server = subprocess.Popen(
        [*RUN, "p2p.server", "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        show("server", line)
        port = re.search(r"ports (\d+)", line)
        assert port is not None, "the server did not start"
        yield f"127.0.0.1:{port[1]}"
    finally:
        server.terminate()
        server.wait()


def main() -> int:
    with (
        tempfile.TemporaryDirectory(prefix="p2p-demo-") as name,
        nullcontext(sys.argv[1]) if len(sys.argv) > 1 else started_server() as address,
    ):
        folder = Path(name)
        (folder / "holiday.mov").write_bytes(os.urandom(SIZE))
        digest = blake3((folder / "holiday.mov").read_bytes()).hexdigest()
        common = ["--server", address, "--code", CODE]
        sender = subprocess.Popen(
            [*RUN, "p2p.peer", "send", "alice", "bob", str(folder / "holiday.mov"), *common],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        receiver = subprocess.Popen(
            [*RUN, "p2p.peer", "recv", "bob", "alice", "--yes", "--out", str(folder / "bob"), *common],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        show("alice", sender.communicate(timeout=120)[1])
        show("bob", receiver.communicate(timeout=120)[1])
        arrived = blake3((folder / "bob" / "holiday.mov").read_bytes()).hexdigest()
        print(f"\nsent     blake3 {digest}\narrived  blake3 {arrived}")
        same = digest == arrived and sender.returncode == receiver.returncode == 0
        print("The file arrived, byte for byte." if same else "The file did NOT arrive.")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
