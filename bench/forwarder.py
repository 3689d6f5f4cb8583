"""How many packets a second netlab's forwarder carries, and how many it loses without being asked to.

python -m bench.forwarder [--seconds S] [--size BYTES] [--kpps N ...] [--rounds N] [--limit KPPS]

One way, alice to server, UDP. A packet counts as lost when it was sent and the forwarder did not pass it on.
Exits with 1 when some link carried less than the limit without loss in each of the rounds. Needs root.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from itertools import product

from netlab.impair import Impairment
from netlab.impaired import Backend
from netlab.lab import Lab
from netlab.nat import NONE
from netlab.requirements import missing_requirements
from netlab.topology import two_nats

UDP_SEGMENT = 103  # linux/udp.h: the kernel cuts what we send into datagrams, the forwarder sees each
LIMIT = 50.0  # thousand packets a second that a link carries without loss of its own
PACED = 0.99  # of what it should offer, our sender does
BURST = 10  # datagrams per call
LINKS = {
    "plain": Impairment(),
    "10 ms": Impairment(delay=0.010),
    "10 ms ± 2, 1 % loss": Impairment(0.010, 0.002, loss=0.01),
}


def send(sock: socket.socket, size: int, rate: float, seconds: float) -> tuple[int, float]:
    """Send ``rate`` datagrams a second, evenly; returns how many, and in how long."""
    data = bytes(size * BURST)
    start = time.perf_counter()
    sent, now = 0, start
    while now - start < seconds:
        while sent < (now - start) * rate:
            sock.send(data)
            sent += BURST
        time.sleep(BURST / rate / 2)
        now = time.perf_counter()
    return sent, now - start


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.forwarder", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--size", type=int, default=1200, help="bytes of UDP payload (default: 1200)")
    parser.add_argument("--kpps", type=float, nargs="+", default=[20, 40, 50, 60, 80])
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default: %(default)s)")
    parser.add_argument("--limit", metavar="KPPS", type=float, default=LIMIT, help="default: %(default)g")
    options = parser.parse_args()
    if missing := missing_requirements():
        print("The benchmark cannot run here: " + "; ".join(missing), file=sys.stderr)
        return 1
    print(f"{options.size} B, {options.seconds:g} s each{'':8} kpps offered    passed   own loss")
    with Lab(two_nats(NONE, NONE)) as lab:
        alice, server = lab.host("alice").socket(), lab.host("server").socket()
        # Nobody reads it: what counts is what the forwarder did, not what a receiver can do.
        server.bind((lab.host("server").address, 0))
        alice.connect(server.getsockname())
        alice.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, options.size)
        best = dict.fromkeys(LINKS, 0.0)
        for name, kpps in product(LINKS, [each for each in options.kpps for _ in range(options.rounds)]):
            with lab.impair("alice", up=LINKS[name], seed=1, backend=Backend.FORWARDER) as link:
                sent, took = send(alice, options.size, kpps * 1000, options.seconds)
            counts = link.counts["up"]
            own = sent - counts["lost"] - counts["left"] + counts["refused"]
            offered, passed = (count / took / 1000 for count in (sent, counts["left"]))
            print(f"{name:<28} {offered:12.1f} {passed:9.1f} {own / sent:10.4%}")
            if own == 0:
                best[name] = max(best[name], offered)
    slow = {name: kpps for name, kpps in best.items() if kpps < options.limit * PACED}
    for name, kpps in slow.items():
        print(f"{name}: {kpps:.1f} kpps without loss of its own at best, less than {options.limit:g}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
