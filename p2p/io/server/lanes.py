"""Several queues for one UDP port of the rendezvous server, so that a flood of one kind fills none of the others.

Linux only. The sockets share the port (SO_REUSEPORT), and a program of classic BPF, attached to all of them, tells the
kernel into which socket each datagram goes: by what its first bytes say it is, and then by a hash of the network that
it comes from. So a flood from a few networks fills few queues, a flood of HELLOs from everywhere fills those of
newcomers, and who waits with a good cookie loses nothing by either. What cannot be for us goes to a socket that
drops all it gets, before it costs us anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from dataclasses import dataclass
from enum import Enum, unique

from p2p.core.rendezvous.cookies import FIRST_SHIFT, SECOND_SHIFT, TagKey
from p2p.core.rendezvous.messages import HEADER_SIZE, MAGIC, TRANSACTION_SIZE, VERSION, Forward, Join, Leave, Relay
from p2p.io.net.udp import IS_LINUX, SO_RCVBUFFORCE

# asm-generic/socket.h, absent from `socket`.
SO_ATTACH_FILTER = 26
SO_ATTACH_REUSEPORT_CBPF = 51
SO_MEMINFO = 55
MEMINFO_DROPS = 8  # index of 32-bit words (linux/sock_diag.h)
MEMINFO_SIZE = 36  # bytes

BINDING_REQUEST = 0x0001  # RFC 8489 section 5: the only STUN message that a server answers
RELAYED, RELAYED_MASK = 0xC0, 0xE0  # first byte (p2p.core.rendezvous.relay.RELAYED_FIRST_BYTES)


@dataclass(frozen=True, slots=True)
class Queue:
    """`lanes` sockets (a power of two), by source network; `reads` from one before others get their turn."""

    lanes: int
    reads: int
    buffer: int  # bytes of each socket as the kernel counts them: 768 for a short datagram


@unique
class Kind(Enum):
    """What a datagram can be, in the order of the sockets. The first socket is that of the garbage."""

    # Nobody without a cookie gets in here: deep, so that nothing is lost while the loop is busy, and emptied at every
    # turn. All others together get some 150 reads a turn, 2 ms.
    RENEWAL = Queue(4, 512, 2 << 20)
    SEATED = Queue(4, 8, 1 << 18)  # FORWARD, LEAVE, RELAY: whether their client is known only the machine can tell
    # HELLO, JOIN without a good cookie, other versions. Short, 0.2 s at most: what is answered later than after
    # RETRY_FIRST was asked again by then.
    NEWCOMER = Queue(16, 4, 1 << 18)
    STUN = Queue(4, 4, 1 << 17)
    RELAYED = Queue(4, 32, 8 << 20)  # super-packets

    @property
    def first(self) -> int:
        """The index of its first socket."""
        kinds = list(Kind)
        return 1 + sum(kind.value.lanes for kind in kinds[: kinds.index(self)])


@dataclass(frozen=True, slots=True)
class Lane:
    """One socket, and how many reads from it before others get their turn."""

    socket: socket.socket
    reads: int


def open_lanes(stack: contextlib.ExitStack, bound: socket.socket, key: TagKey) -> tuple[Lane, ...]:
    """The lanes of the port to which `bound` is bound, which takes the garbage from now on.

    None where the system has no such thing; then `bound` takes all, as before. The port was bound without sharing it,
    so whoever has it already was noticed.
    """
    if not IS_LINUX or os.environ.get("P2P_NO_LANES") == "1":
        return ()
    made: list[Lane] = []
    with contextlib.ExitStack() as opened:
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for kind in Kind:
                queue = kind.value
                for _ in range(queue.lanes):
                    sock = opened.enter_context(socket.socket(bound.family, socket.SOCK_DGRAM))
                    _share(sock, bound)
                    for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
                        with contextlib.suppress(OSError):  # the second needs CAP_NET_ADMIN
                            sock.setsockopt(socket.SOL_SOCKET, option, queue.buffer // 2)  # the kernel doubles it
                    made.append(Lane(sock, queue.reads))
            _attach(bound, SO_ATTACH_REUSEPORT_CBPF, classifier(key))
            _attach(bound, SO_ATTACH_FILTER, [(RET_K, 0, 0, 0)])
        except OSError:  # the port stays with `bound`, which the others are about to leave
            with contextlib.suppress(OSError):
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
            return ()
        stack.push(opened.pop_all())
    return tuple(made)


def dropped(sock: socket.socket) -> int:
    """Datagrams that the kernel has dropped here: the queue was full, or the filter refused them."""
    return int(struct.unpack_from("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO_SIZE))[MEMINFO_DROPS])


def _share(sock: socket.socket, bound: socket.socket) -> None:
    if bound.family == socket.AF_INET6:
        only = bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(bound.getsockname())


Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand: struct sock_filter

# linux/bpf_common.h
LD_WORD, LD_HALF, LD_BYTE, LD_MEM, LDX_MEM = 0x20, 0x28, 0x30, 0x60, 0x61
LD_IMM, ST, TAX, RET_K, RET_A = 0x00, 0x02, 0x07, 0x06, 0x16
ADD_K, MUL_K, AND_K, RSH_K, XOR_X = 0x04, 0x24, 0x54, 0x74, 0xAC
JMP, JEQ_K, JEQ_X = 0x05, 0x15, 0x1D
IP_HEADER = 0xFFF0_0000  # SKF_NET_OFF: offsets from here on count from the IP header, others from the UDP payload
V4_SOURCE, V6_SOURCE = 12, 8  # offsets in the IP header (RFC 791 section 3.1, RFC 8200 section 3)
TAG, NETWORK = 0, 1  # words of scratch memory


def classifier(key: TagKey) -> list[Instruction]:
    """Returns the index of the socket. A load behind the end of the datagram returns 0, which is the garbage."""
    code = _Program()
    code.add(LD_BYTE, IP_HEADER).add(RSH_K, 4).jump(JEQ_K, 6, then="v6")
    _hash(code, key, [V4_SOURCE], [(V4_SOURCE, 8)])  # /24
    code.go("classify").mark("v6")
    _hash(code, key, [V6_SOURCE + 4 * word for word in range(4)], [(V6_SOURCE, 0), (V6_SOURCE + 4, 8)])  # /56
    code.mark("classify")
    code.add(LD_WORD, 0).jump(JEQ_K, int.from_bytes(MAGIC + bytes([VERSION]), "big"), then="ours")
    code.add(RSH_K, 8).jump(JEQ_K, int.from_bytes(MAGIC, "big"), then=Kind.NEWCOMER.name)
    code.add(LD_BYTE, 0).add(AND_K, RELAYED_MASK).jump(JEQ_K, RELAYED, then=Kind.RELAYED.name)
    code.add(LD_HALF, 0).jump(JEQ_K, BINDING_REQUEST, then=Kind.STUN.name)
    code.add(RET_K, 0).mark("ours").add(LD_BYTE, HEADER_SIZE - 1)
    for of_seated in (Forward.TYPE, Leave.TYPE, Relay.TYPE):
        code.jump(JEQ_K, of_seated, then=Kind.SEATED.name)
    code.jump(JEQ_K, Join.TYPE, then="join").go(Kind.NEWCOMER.name).mark("join")
    code.add(LDX_MEM, TAG).add(LD_WORD, HEADER_SIZE + TRANSACTION_SIZE)
    code.jump(JEQ_X, 0, then=Kind.RENEWAL.name).go(Kind.NEWCOMER.name)
    for kind in Kind:
        code.mark(kind.name).add(LD_MEM, NETWORK).add(AND_K, kind.value.lanes - 1).add(ADD_K, kind.first).add(RET_A, 0)
    return code.assembled()


def _hash(code: _Program, key: TagKey, words: list[int], network: list[tuple[int, int]]) -> None:
    """Tag of the source into TAG (see `source_tag`), hash of its network into NETWORK: (offset, bits to cut off)."""
    for target, parts in ((TAG, [(word, 0) for word in words]), (NETWORK, network)):
        code.add(LD_IMM, key.seed if target == TAG else key.seed ^ key.first).add(ST, target)
        for offset, cut in parts:
            code.add(LDX_MEM, target).add(LD_WORD, IP_HEADER + offset)
            if cut:
                code.add(RSH_K, cut)
            code.add(XOR_X, 0)
            for factor, shift in ((key.first, FIRST_SHIFT), (key.second, SECOND_SHIFT)):
                code.add(MUL_K, factor).add(TAX, 0).add(RSH_K, shift).add(XOR_X, 0)
            code.add(ST, target)


class _Program:
    """Instructions with labels for their jumps, which only lead forward."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | None]] = []
        self._labels: dict[str, int] = {}

    def add(self, code: int, operand: int) -> _Program:
        self._code.append((code, operand, None))
        return self

    def jump(self, code: int, operand: int, then: str) -> _Program:
        """To the label if it holds, else on."""
        self._code.append((code, operand, then))
        return self

    def go(self, to: str) -> _Program:
        self._code.append((JMP, 0, to))
        return self

    def mark(self, label: str) -> _Program:
        self._labels[label] = len(self._code)
        return self

    def assembled(self) -> list[Instruction]:
        made: list[Instruction] = []
        for index, (code, operand, label) in enumerate(self._code):
            distance = self._labels[label] - index - 1 if label is not None else 0
            made.append((code, 0, 0, distance) if code == JMP else (code, distance, 0, operand))
        return made


def _attach(sock: socket.socket, option: int, program: list[Instruction]) -> None:
    """Raises OSError."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
