"""Peers of a rendezvous server by the hundred thousand, in one process: what `python -m bench server` loads it with.

    python -m bench.crowd HOST PORT        commands on stdin, one answer in JSON a line on stdout

Each peer has an address of its own out of 127.0.0.0/8, and asks as `p2p.core.rendezvous.client` does: a JOIN five
seconds after the last answer; what is not answered is repeated after 0.25 s, then 0.5, 1, 2, 2, ... All share one
socket: IP_PKTINFO says from which address a datagram leaves, and the transaction whose it is.
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from p2p.core.introduction import NamePair, RefusedReason
from p2p.core.rendezvous.messages import (
    CLIENT_SIZE,
    COOKIE_SIZE,
    HEADER_SIZE,
    LEASE,
    TRANSACTION_SIZE,
    Cookie,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Refused,
    SeatState,
    encode,
    push_transaction,
)
from p2p.core.rendezvous.timing import JOIN_INTERVAL, RETRY_FIRST, RETRY_MAX
from p2p.core.role import Role
from p2p.io.net.udp import SO_RCVBUFFORCE

IP_PKTINFO = 8  # linux/in.h
PKTINFO = struct.Struct("=I4s4s")  # ifindex, source, unused
NETWORKS = 500  # /24s from 127.1.0.0 on; of each 254 peers at most, and the server takes 256
BURST = 32  # datagrams sent before it looks for answers
READS = 128  # and answers read before it sends again
BUFFER = 64 << 20  # bytes; no answer is to be lost here
FILLING = 400  # newcomers at a time: what the smallest receive buffer of a server holds
DELAYS = (*(RETRY_FIRST * 2**step for step in range(int(math.log2(RETRY_MAX / RETRY_FIRST)) + 1)), JOIN_INTERVAL)
RENEWAL = len(DELAYS) - 1
PEER_MARK = slice(HEADER_SIZE, HEADER_SIZE + 4)  # of the transaction: which peer
ROUND_MARK = slice(PEER_MARK.stop, PEER_MARK.stop + 4)  # and what of all that it asks; what it repeats has the same
BEHIND = HEADER_SIZE + TRANSACTION_SIZE  # offset of what follows the transaction
PAIRS_IN_FLIGHT = 32
TICK = 0.05  # seconds
PATIENCE = 10.0  # seconds that newcomers without a seat are waited for when no more come


def host_of(index: int) -> str:
    """The address of a peer. Neighbours in number are none in address, for they come at the same time."""
    host, network = divmod(index, NETWORKS)
    return f"127.{1 + (network >> 8)}.{network & 255}.{host + 1}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed; nan for none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


class Peer:
    """One of them. `asked` is when it first sent what is not answered yet (0: nothing is), `seen` its last JOINED."""

    __slots__ = ("ancillary", "asked", "cookie", "leaving", "mark", "round", "seen", "step", "tail")

    def __init__(self, index: int, host: str, me: str, friend: str, role: Role) -> None:
        self.mark = index.to_bytes(4, "big")
        self.ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, PKTINFO.pack(0, socket.inet_aton(host), bytes(4)))]
        client = b"crowd" + self.mark + bytes(CLIENT_SIZE - 9)
        join = encode(Join(bytes(TRANSACTION_SIZE), bytes(COOKIE_SIZE), client, role, NamePair(me, friend)))
        self.tail = join[BEHIND + COOKIE_SIZE :]
        self.cookie = b""
        self.asked = self.seen = 0.0
        self.step = self.round = 0
        self.leaving = False

    @property
    def client(self) -> bytes:
        return self.tail[:CLIENT_SIZE]


class Crowd:
    """Peers that keep their seats while figures about their answers are taken."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self._socket.bind(("0.0.0.0", 0))
        self._socket.setblocking(False)
        self._peers: list[Peer] = []
        # One queue a delay, so each is in order of time: (when, peer, its round).
        self._due: list[deque[tuple[float, Peer, int]]] = [deque() for _ in DELAYS]
        self._pushed: dict[bytes, Peer] = {}  # by transaction: those whose pairing is told unasked
        self.fresh: list[float] = []  # seconds from HELLO to JOINED
        self.renewed: list[float] = []  # seconds from the first JOIN of a renewal to its JOINED
        self.refused: dict[RefusedReason, int] = {}
        self.paired = 0
        self.sent = self.repeated = self.lost_seats = 0
        self.late = 0.0  # seconds, the worst: how far this process was behind its own plan

    def close(self) -> None:
        self._socket.close()

    def forget(self) -> None:
        """Begins all figures anew."""
        self.fresh, self.renewed, self.refused = [], [], {}
        self.paired = self.sent = self.repeated = self.lost_seats = 0
        self.late = 0.0

    def add(self, host: str, me: str, friend: str, role: Role = Role.SENDER, *, told: bool = False) -> Peer:
        """A peer that is not there yet. `told`: it is told of its pairing unasked, and that counts."""
        peer = Peer(len(self._peers), host, me, friend, role)
        self._peers.append(peer)
        if told:
            self._pushed[push_transaction(peer.client)] = peer
        return peer

    def arrive(self, peer: Peer, now: float) -> None:
        """Says HELLO."""
        peer.cookie, peer.seen, peer.leaving = b"", 0.0, False
        self._begin(peer, now)

    def leave(self, peer: Peer, now: float) -> None:
        peer.leaving = True
        self._begin(peer, now)

    def turn(self, until: float) -> None:
        """Sends what is due, reads what is there; waits for either, `until` at most."""
        now = time.monotonic()
        sent = 0
        for delay, queue in enumerate(self._due):
            while queue and queue[0][0] <= now and sent < BURST:
                due, peer, its_round = queue.popleft()
                if its_round != peer.round:
                    continue
                self.late = max(self.late, now - due)
                sent += 1
                if delay == RENEWAL:
                    self._begin(peer, time.monotonic())
                else:
                    self.repeated += 1
                    peer.step = min(peer.step + 1, RENEWAL - 1)
                    self._ask(peer, now)
        if self._read() or sent:
            return
        wake = min([until, *(queue[0][0] for queue in self._due if queue)])
        if wake > now:
            select.select([self._socket], [], [], wake - now)

    def _begin(self, peer: Peer, now: float) -> None:
        peer.asked, peer.step = now, 0
        peer.round += 1
        self._ask(peer, now)

    def _ask(self, peer: Peer, now: float) -> None:
        transaction = peer.mark + peer.round.to_bytes(4, "big")
        if peer.leaving:
            parts = [LEAVE_HEADER, transaction, peer.client]
        elif peer.cookie:
            parts = [JOIN_HEADER, transaction, peer.cookie, peer.tail]
        else:
            parts = [HELLO_HEADER, transaction, HELLO_TAIL]
        self._due[peer.step].append((now + DELAYS[peer.step], peer, peer.round))
        self.sent += 1
        self._socket.sendmsg(parts, peer.ancillary, 0, self._server)

    def _read(self) -> int:
        for count in range(READS):
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                return count
            self._take(data, time.monotonic())
        return READS

    def _take(self, data: bytes, now: float) -> None:
        kind = data[HEADER_SIZE - 1]
        peer = self._pushed.get(data[HEADER_SIZE:BEHIND])
        if peer is None:
            index = int.from_bytes(data[PEER_MARK], "big")
            if index >= len(self._peers):
                return  # the server's own message, unasked
            peer = self._peers[index]
            if int.from_bytes(data[ROUND_MARK], "big") != peer.round:
                return  # was answered before
        if kind == Joined.TYPE:
            if not peer.leaving:
                self._joined(peer, data, now)
        elif kind == Cookie.TYPE:
            if not peer.leaving:
                peer.cookie, peer.step = data[BEHIND : BEHIND + COOKIE_SIZE], 0
                peer.round += 1
                self._ask(peer, now)
        elif kind == Left.TYPE:
            peer.asked, peer.round = 0.0, peer.round + 1
        elif kind == Refused.TYPE:
            reason = RefusedReason(data[BEHIND])
            self.refused[reason] = self.refused.get(reason, 0) + 1
            peer.asked, peer.round = 0.0, peer.round + 1

    def _joined(self, peer: Peer, data: bytes, now: float) -> None:
        if peer.asked:
            (self.renewed if peer.seen else self.fresh).append(now - peer.asked)
        if peer.seen and now - peer.seen > LEASE:
            self.lost_seats += 1
        if data[BEHIND] == SeatState.PAIRED:
            self.paired += 1
        peer.asked, peer.seen = 0.0, now
        peer.round += 1
        self._due[RENEWAL].append((now + JOIN_INTERVAL, peer, peer.round))


_hello = encode(Hello(bytes(TRANSACTION_SIZE)))
HELLO_HEADER, HELLO_TAIL = _hello[:HEADER_SIZE], _hello[BEHIND:]
LEAVE_HEADER = encode(Leave(bytes(TRANSACTION_SIZE), bytes(CLIENT_SIZE)))[:HEADER_SIZE]
JOIN_HEADER = _hello[: HEADER_SIZE - 1] + bytes([Join.TYPE])


class Commands:
    """What is asked of the crowd; between commands it renews."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.crowd = Crowd(server)
        self._placed = 0  # peers with an address and names of their own
        self._visitors: list[Peer] = []
        self._turned = 0
        self._pairs: list[tuple[Peer, Peer]] = []

    def do(self, words: list[str]) -> dict[str, Any]:
        match words:
            case ["fill", count]:
                return self.fill(int(count))
            case ["crush", count]:
                return self.crush(int(count))
            case ["watch", seconds, visits]:
                return self.watch(float(seconds), float(visits))
            case ["pair", seconds]:
                return self.pair(float(seconds))
            case _:
                raise ValueError(f"no command {words}")

    def fill(self, count: int) -> dict[str, Any]:
        """`count` more peers take seats, at most FILLING of them under way at a time. Seconds, and what was refused."""
        crowd, start = self.crowd, time.monotonic()
        crowd.forget()
        wanted = iter(range(self._placed, self._placed + count))
        self._placed += count
        arriving: deque[Peer] = deque()
        for index in wanted:
            while len(arriving) >= FILLING:
                crowd.turn(time.monotonic() + 1.0)
                self._drop_arrived(arriving)
            peer = crowd.add(host_of(index), f"somebody-{index}", f"a-friend-{index}")
            crowd.arrive(peer, time.monotonic())
            arriving.append(peer)
            if index % 8 == 0:
                crowd.turn(time.monotonic())
        while arriving:
            crowd.turn(time.monotonic() + 1.0)
            self._drop_arrived(arriving)
        return {"seconds": time.monotonic() - start, **self._figures()}

    def crush(self, count: int) -> dict[str, Any]:
        """`count` peers of one network want seats."""
        crowd = self.crowd
        crowd.forget()
        arriving = deque(
            crowd.add(f"127.129.0.{1 + index % 254}", f"neighbour-{index}", f"beyond-{index}") for index in range(count)
        )
        for peer in arriving:
            crowd.arrive(peer, time.monotonic())
            crowd.turn(time.monotonic())
        while arriving:
            crowd.turn(time.monotonic() + 1.0)
            self._drop_arrived(arriving)
        return self._figures()

    @staticmethod
    def _drop_arrived(arriving: deque[Peer]) -> None:
        for _ in range(len(arriving)):
            peer = arriving.popleft()
            if peer.asked:
                arriving.append(peer)

    def watch(self, seconds: float, visits: float, patience: float = PATIENCE) -> dict[str, Any]:
        """The answer times of `seconds`, with `visits` newcomers a second who leave when they have a seat.

        The last of them get time to come in, or the slow ones would be missing; one that never does counts with the
        time that it has waited.
        """
        crowd = self.crowd
        crowd.forget()
        start = now = time.monotonic()
        came = 0
        here: deque[Peer] = deque()
        while now < start + seconds or (now < start + seconds + patience and any(not peer.seen for peer in here)):
            if start + came / visits <= now < start + seconds:
                peer = self._visitor()
                crowd.arrive(peer, now)
                here.append(peer)
                came += 1
            crowd.turn(start + came / visits if now < start + seconds else now + TICK)
            now = time.monotonic()
            for _ in range(len(here)):
                peer = here.popleft()
                if peer.seen and not peer.leaving:
                    crowd.leave(peer, now)
                if peer.asked and (not peer.seen or now - peer.asked < seconds):
                    here.append(peer)
        came_in = len(crowd.fresh)
        crowd.fresh += [now - peer.asked for peer in here if not peer.seen]
        return {**self._figures(), "came": came, "came_in": came_in}

    def _visitor(self) -> Peer:
        """One of 8,000, in turn."""
        if len(self._visitors) < 8000:
            index = len(self._visitors)
            host = f"127.128.{index % 250}.{1 + index // 250}"
            self._visitors.append(self.crowd.add(host, f"visitor-{index}", f"visited-{index}"))
        self._turned += 1
        return self._visitors[self._turned % len(self._visitors) - 1]

    def pair(self, seconds: float) -> dict[str, Any]:
        """As many pairs as the server introduces in `seconds`: both come, learn of each other, and leave."""
        crowd = self.crowd
        while len(self._pairs) < PAIRS_IN_FLIGHT:
            one, two = f"left-{len(self._pairs)}", f"right-{len(self._pairs)}"
            host = f"127.127.{len(self._pairs)}.1"
            self._pairs.append(
                (
                    crowd.add(host, one, two, Role.SENDER, told=True),
                    crowd.add(host, two, one, Role.RECEIVER, told=True),
                )
            )
        crowd.forget()
        start = now = time.monotonic()
        free, together, parting = list(self._pairs), list[tuple[Peer, Peer]](), list[tuple[Peer, Peer]]()
        done = 0
        while now < start + seconds or together or parting:
            if now < start + seconds:
                for pair in free:
                    for peer in pair:
                        crowd.arrive(peer, now)
                    together.append(pair)
                free.clear()
            crowd.turn(now + 0.1)
            now = time.monotonic()
            for pair in [each for each in together if all(peer.seen and not peer.asked for peer in each)]:
                together.remove(pair)
                parting.append(pair)
                for peer in pair:
                    crowd.leave(peer, now)
            for pair in [each for each in parting if not any(peer.asked for peer in each)]:
                parting.remove(pair)
                free.append(pair)
                done += 1
        return {"pairs": done / (now - start), **self._figures()}

    def _figures(self) -> dict[str, Any]:
        crowd = self.crowd
        return {
            "came_in": len(crowd.fresh),
            "renewed": len(crowd.renewed),
            "renewal_median": percentile(crowd.renewed, 0.5),
            "renewal_p99": percentile(crowd.renewed, 0.99),
            "fresh_median": percentile(crowd.fresh, 0.5),
            "fresh_p99": percentile(crowd.fresh, 0.99),
            "refused": {reason.name: count for reason, count in crowd.refused.items()},
            "sent": crowd.sent,
            "repeated": crowd.repeated,
            "lost_seats": crowd.lost_seats,
            "late": crowd.late,
        }


def main() -> None:
    server = sys.argv[1], int(sys.argv[2])
    commands = Commands(server)
    while True:
        while select.select([sys.stdin], [], [], 0)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            print(json.dumps(commands.do(line.split())), flush=True)
        commands.crowd.turn(time.monotonic() + 0.05)


if __name__ == "__main__":
    main()
