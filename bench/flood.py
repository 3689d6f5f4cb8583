"""Garbage for a rendezvous server from many sources, as fast as one core sends it.

    python -m bench.flood KIND HOST PORT [RATE]

It goes on until it is killed, and writes how many it has sent to stdout once a second.

Every datagram is prepared once, with a source address of its own out of 127.130.0.0 to 127.254.255.255, and goes out
by sendmmsg(2), which Python's socket module lacks.
"""

from __future__ import annotations

import ctypes
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable

from p2p.core.introduction import NamePair
from p2p.core.rendezvous.messages import (
    CLIENT_SIZE,
    COOKIE_SIZE,
    TRANSACTION_SIZE,
    Forward,
    Hello,
    Join,
    encode,
)
from p2p.core.role import Role

IP_PKTINFO = 8  # linux/in.h
PREPARED = 8192  # datagrams, sent again and again
AT_ONCE = 64  # datagrams a call
SEED = 5


def random_bytes(source: random.Random) -> bytes:
    return source.randbytes(64)


def hello(source: random.Random) -> bytes:
    return encode(Hello(source.randbytes(TRANSACTION_SIZE)))


def forged_join(source: random.Random) -> bytes:
    name = source.randbytes(6).hex()
    cookie, client = source.randbytes(COOKIE_SIZE), source.randbytes(CLIENT_SIZE)
    return encode(Join(source.randbytes(TRANSACTION_SIZE), cookie, client, Role.SENDER, NamePair(name, f"x{name}")))


def stray_forward(source: random.Random) -> bytes:
    return encode(Forward(source.randbytes(CLIENT_SIZE), source.randbytes(200)))


KINDS: dict[str, tuple[Callable[[random.Random], bytes], ...]] = {
    "random": (random_bytes,),
    "hello": (hello,),
    "join": (forged_join,),
    "forward": (stray_forward,),
    "all": (random_bytes, hello, forged_join, stray_forward),
}


def host(source: random.Random) -> str:
    return f"127.{source.randint(130, 254)}.{source.randint(0, 255)}.{source.randint(1, 254)}"


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    """struct mmsghdr of 64-bit Linux."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.c_void_p),
        ("vector_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("_padding", ctypes.c_int),  # the end of struct msghdr
        ("sent", ctypes.c_uint),
    ]


class Prepared:
    """Datagrams in the form in which the kernel takes them, each with its source."""

    def __init__(self, datagrams: list[tuple[bytes, str]], server: tuple[str, int]) -> None:
        self.count = len(datagrams)
        self._libc = ctypes.CDLL(None, use_errno=True)
        name = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", server[1], socket.inet_aton(server[0]))
        self._keep: list[object] = [(name_buffer := ctypes.create_string_buffer(name, len(name)))]
        self._messages = (_Message * self.count)()
        for message, (data, source) in zip(self._messages, datagrams, strict=True):
            body = ctypes.create_string_buffer(data, len(data))
            control = ctypes.create_string_buffer(
                struct.pack("=QiiI4s4s4x", 28, socket.IPPROTO_IP, IP_PKTINFO, 0, socket.inet_aton(source), bytes(4)), 32
            )
            vector = _Iovec(ctypes.addressof(body), len(data))
            self._keep += [body, control, vector]
            message.name, message.name_length = ctypes.addressof(name_buffer), len(name)
            message.vector, message.vector_length = ctypes.addressof(vector), 1
            message.control, message.control_length = ctypes.addressof(control), 32

    def send(self, sock: socket.socket, start: int, count: int) -> int:
        """How many went out of `count` from number `start` on."""
        at = ctypes.byref(self._messages, start * ctypes.sizeof(_Message))
        return max(0, int(self._libc.sendmmsg(sock.fileno(), at, count, 0)))


def main() -> None:
    kind, address, port = sys.argv[1:4]
    rate = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0  # datagrams a second; 0: as many as go
    source, makers = random.Random(SEED), KINDS[kind]
    prepared = Prepared(
        [(makers[index % len(makers)](source), host(source)) for index in range(PREPARED)], (address, int(port))
    )
    os.nice(19)  # it takes what the load leaves of its core, so that answers are not kept waiting for the clock
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody reads the answers
        sock.bind(("0.0.0.0", 0))
        start = said = time.monotonic()
        total = 0
        while True:
            total += prepared.send(sock, total // AT_ONCE % (PREPARED // AT_ONCE) * AT_ONCE, AT_ONCE)
            now = time.monotonic()
            if rate and (ahead := total / rate - (now - start)) > 0:
                time.sleep(ahead)
            if now - said >= 1.0:
                print(total, flush=True)
                said = now


if __name__ == "__main__":
    main()
