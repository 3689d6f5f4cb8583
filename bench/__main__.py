"""`python -m bench`: p2p's punched UDP path through two port-restricted NATs, and LAN TCP, beside iperf3's TCP.

Same namespaces, interleaved, file to file on tmpfs, equal hashes checked. Needs root and iperf3.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.measure import Usage, Watched, make_file, sha256, touch_memory
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED
from netlab.requirements import missing_requirements
from netlab.topology import one_lan, two_nats

CODE = "amber-walnut-tiger"
IPERF_PORT = 5201
GUARD = 600.0  # seconds

Row = tuple[float, Usage | None, Usage | None]  # Gbit/s, sender, receiver


def transfer(lab: Lab, source: Path, digest: str, path: str, environment: dict[str, str]) -> Row:
    """One file from alice to bob; checks the path and the hash."""
    server_host = lab.host("server")
    server = server_host.popen(
        [sys.executable, "-m", "p2p.server", "--host", server_host.address], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    server.stdout.readline()
    touch_memory(source.parent, source.stat().st_size)
    common = ["--server", f"{server_host.address}:8080", "--code", CODE, "--json", "--quiet"]
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        command = [sys.executable, "-m", "p2p.peer"]
        receiver = Watched(
            lab.host("bob").popen, [*command, "recv", "bob", "alice", "--yes", "--out", out, *common], environment
        )
        sender = Watched(lab.host("alice").popen, [*command, "send", "alice", "bob", str(source), *common], environment)
        sent, received = sender.finish(GUARD), receiver.finish(GUARD)
        saved = Path(out) / source.name
        assert sha256(saved) == digest, "the file arrived with other content"
    server.kill()
    server.wait()
    chosen = next(event for event in received.events if event["event"] == "path")["description"]
    assert chosen.startswith(path), f"the path was {chosen}"
    seconds = next(e["seconds"] for e in received.events if e["event"] == "done")
    return source.stat().st_size * 8 / seconds / 1e9, sent.usage, received.usage


def iperf3(lab: Lab, size: int) -> Row:
    """One TCP stream over the same path; the NAT in front of bob lets it in."""
    bob = lab.host("bob")
    server = bob.popen(["iperf3", "-s", "-1", "--forceflush", "-p", str(IPERF_PORT)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    while "listening" not in server.stdout.readline():
        pass
    target = bob.address
    if "right" in lab.plan.nodes:
        right = lab.host("right")
        rule = f"PREROUTING -i wan -p tcp --dport {IPERF_PORT} -j DNAT --to {bob.address}"
        right.iptables(f"iptables -t nat -A {rule}")
        target = right.address
    command = ["iperf3", "-c", target, "-p", str(IPERF_PORT), "-n", str(size), "-J"]
    done = lab.host("alice").run(command, timeout=GUARD, check=True, capture_output=True, text=True)
    server.wait(GUARD)
    return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e9, None, None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--size", type=int, default=2**30, help="bytes of the file (default: 1 GiB)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="every single figure, as JSON")
    parser.add_argument("--only", help="only the rows whose name matches this regular expression")
    options = parser.parse_args()
    if missing := missing_requirements():
        print("The benchmark cannot run here: " + "; ".join(missing), file=sys.stderr)
        return 1
    if shutil.which("iperf3") is None:
        print("iperf3 is missing: apt-get install iperf3", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="p2p-bench-") as folder,
        Lab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED)) as natted,
        Lab(one_lan(PORT_RESTRICTED)) as lan,
    ):
        source = Path(folder) / "file"
        digest = make_file(source, options.size)
        rows: dict[str, Callable[[], Row]] = {
            "iperf3 TCP, through NATs": lambda: iperf3(natted, options.size),
            "p2p UDP, punched": lambda: transfer(natted, source, digest, "direct UDP", {}),
            "p2p UDP, punched, no offload": lambda: transfer(natted, source, digest, "direct UDP", {"P2P_NO_GSO": "1"}),
            "iperf3 TCP, LAN": lambda: iperf3(lan, options.size),
            "p2p TCP, LAN": lambda: transfer(lan, source, digest, "direct TCP", {}),
        }
        chosen = {name: run for name, run in rows.items() if re.search(options.only or "", name)}
        results: dict[str, list[Row]] = {name: [] for name in chosen}
        for _ in range(options.runs):
            for name, run in chosen.items():
                results[name].append(run())
    report(results, options.size, as_json=options.json)
    return 0


def report(results: dict[str, list[Row]], size: int, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: [row[0] for row in rows] for name, rows in results.items()}))
        return
    print(f"{f'{size / 2**30:.2f} GiB, Gbit/s':<28} {'min':>6} {'median':>6} {'max':>6}  CPU s/GiB send, recv  peak MB")
    for name, rows in results.items():
        rates = [row[0] for row in rows]
        line = f"{name:<28} {min(rates):6.2f} {statistics.median(rates):6.2f} {max(rates):6.2f}"
        senders, receivers = [row[1] for row in rows if row[1]], [row[2] for row in rows if row[2]]
        if senders and receivers:
            cpu = [statistics.median(use.cpu_seconds for use in end) * 2**30 / size for end in (senders, receivers)]
            peak = [max(use.peak_bytes for use in end) / 1e6 for end in (senders, receivers)]
            line += f"   {cpu[0]:9.2f} {cpu[1]:9.2f}      {peak[0]:5.0f} {peak[1]:5.0f}"
        print(line)


if __name__ == "__main__":
    sys.exit(main())
