"""Moves zeros from memory to memory between two processes over UDP on loopback, and prints Gbit/s and CPU seconds.

python -m bench.transport_loopback [--size MIB] [--mtu BYTES] [--window RECORDS] [--buffer BYTES]
                                          [--host ADDRESS] [--profile sender|receiver]
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import pstats
import resource
import selectors
import time
from multiprocessing.connection import Connection as Pipe

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.transport.connection import MAX_RECORD, Connection, ConnectionKeys
from p2p.core.transport.events import Closed, IdleTimedOut
from p2p.io.memory import keep_freed_memory
from p2p.io.net.udp import SOCKET_BUFFER, SendResult, UdpSocket


def keys(*order: int) -> ConnectionKeys:
    return ConnectionKeys(*(bytes([number]) * 32 for number in order))


SENDER_KEYS = keys(1, 2, 3, 4, 5, 6)
RECEIVER_KEYS = keys(2, 1, 4, 3, 6, 5)


class Loop:
    """Sends what is pending, waits for the earliest deadline, receives."""

    def __init__(self, sock: UdpSocket, connection: Connection, mtu: int) -> None:
        """`mtu` stands in for the MTU of a real interface: loopback's own is 65,536."""
        self._socket = sock
        self._mtu = mtu
        self._connection = connection
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        self._blocked: Transmit | None = None
        self.turns = 0

    def turn(self, *, more: bool) -> None:
        """One round; `more` if the program has something to do at once."""
        now = time.monotonic()
        connection, sock = self._connection, self._socket
        self.turns += 1
        connection.handle_timeout(now)
        transmit = self._blocked or connection.poll_transmit(now)
        while transmit is not None:
            size = transmit.segment_size or sum(len(buffer) for buffer in transmit.buffers)
            result = sock.send(transmit) if size <= self._mtu else SendResult.TOO_BIG
            if result is SendResult.WOULD_BLOCK:
                break
            if result is SendResult.TOO_BIG:
                connection.handle_message_too_big(transmit, now)
            transmit = connection.poll_transmit(now)
        if (transmit is None) != (self._blocked is None):
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if transmit is not None else 0)
            self._selector.modify(sock, events)
        self._blocked = transmit
        deadline = connection.poll_timeout()
        wait = 0.0 if more or deadline is None else max(0.0, deadline - time.monotonic())
        if self._selector.select(wait):
            for data, segment_size, source in sock.receive():
                connection.handle_datagram(data, segment_size, source, time.monotonic())


def send(sock: UdpSocket, remote: Address, size: int, options: argparse.Namespace) -> None:
    connection = Connection(SENDER_KEYS, remote, time.monotonic(), receive_window_records=options.window)
    loop = Loop(sock, connection, options.mtu)
    record = bytes(MAX_RECORD)
    left = -(-size // MAX_RECORD)
    began, cpu = time.monotonic(), time.process_time()
    while left or not connection.is_idle:
        while left and connection.room():
            connection.send(record, time.monotonic())
            left -= 1
        loop.turn(more=bool(left and connection.room()))
        if isinstance(connection.poll_event(), Closed | IdleTimedOut):
            raise SystemExit("sender: the connection ended early")
    elapsed = time.monotonic() - began
    stats = connection.stats
    connection.close(0, "", time.monotonic())
    while not connection.is_drained:
        loop.turn(more=False)
    print(f"{size * 8 / elapsed / 1e9:.2f} Gbit/s, {elapsed:.2f} s")
    print(f"sender:   {cost(cpu)}, {loop.turns} turns, receive buffer {sock.receive_buffer}")
    print(
        f"          datagram {stats.datagram_size}, RTT {stats.smoothed_rtt * 1e3:.2f} ms,"
        f" min {stats.min_rtt * 1e3:.2f} ms, window {stats.congestion_window // 1024} KiB,"
        f" lost {stats.bytes_lost * 100 / stats.bytes_sent:.2f} %"
    )


def receive(sock: UdpSocket, remote: Address, options: argparse.Namespace) -> None:
    connection = Connection(RECEIVER_KEYS, remote, time.monotonic(), receive_window_records=options.window)
    loop = Loop(sock, connection, options.mtu)
    total = 0
    cpu = time.process_time()
    while not connection.is_drained:
        loop.turn(more=False)
        while (record := connection.poll_record()) is not None:
            total += len(record)
        connection.poll_event()
    stats = connection.stats
    print(
        f"receiver: {cost(cpu)}, {loop.turns} turns, {total / 2**20:.0f} MiB,"
        f" {stats.packets_sent} packets sent, {stats.packets_dropped} dropped"
    )


def cost(cpu_before: float) -> str:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = time.process_time() - cpu_before
    kernel, faults, memory = usage.ru_stime, usage.ru_minflt, usage.ru_maxrss >> 10
    return f"{cpu:.2f} CPU s ({kernel:.2f} in the kernel), {faults} page faults, {memory} MB"


def receiver_process(pipe: Pipe, options: argparse.Namespace) -> None:
    keep_freed_memory()
    sock = UdpSocket.bind(options.host, buffer_size=options.buffer)
    pipe.send(reached(sock))
    profiled(options.profile == "receiver", lambda: receive(sock, pipe.recv(), options))


def reached(sock: UdpSocket) -> Address:
    """Over IPv4, if it is bound to all addresses."""
    host, port = sock.address
    return Address("127.0.0.1" if host == "::" else host, port)


def profiled(wanted: bool, run: object) -> None:
    assert callable(run)
    if not wanted:
        run()
        return
    profile = cProfile.Profile()
    profile.runcall(run)
    pstats.Stats(profile).sort_stats("tottime").print_stats(35)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--mtu", type=int, default=1472, help="largest UDP payload that passes")
    parser.add_argument("--window", type=int, default=256, help="records")
    parser.add_argument("--buffer", type=int, default=SOCKET_BUFFER, help="socket buffer to ask for, bytes")
    parser.add_argument("--host", default="127.0.0.1", help="to bind to; :: is IPv4 over a socket of both versions")
    parser.add_argument("--profile", choices=["sender", "receiver"])
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=receiver_process, args=(theirs, options))
    process.start()
    keep_freed_memory()
    sock = UdpSocket.bind(options.host, buffer_size=options.buffer)
    remote = ours.recv()
    ours.send(reached(sock))
    profiled(options.profile == "sender", lambda: send(sock, remote, options.size * 2**20, options))
    process.join()


if __name__ == "__main__":
    main()
