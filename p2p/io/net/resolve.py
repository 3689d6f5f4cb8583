"""The server's addresses, from what the command line calls it."""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence

from p2p.core.address import Address, split_zone
from p2p.core.calling import option
from p2p.core.errors import CallerError
from p2p.core.peer.eyeballs import interleave
from p2p.io.net.addresses import zone_name
from p2p.io.net.interfaces import source_address

DEFAULT_PORT = 8080
STUN_PORT = 3478  # RFC 8489 section 14.15
RESOLUTION_DELAY = 0.25  # seconds that the second version is waited for; RFC 8305 section 3 has 50 ms, of a connect
PATIENCE = 10.0  # seconds for any answer; the system's resolver asks each of its servers for 5 s

_FAMILIES = (socket.AF_INET6, socket.AF_INET)


def parse(server: str, called: str = option("--server"), default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """HOST, HOST:PORT, an IPv6 address alone or [ADDRESS]:PORT. Raises CallerError."""
    host, port_text = server, str(default_port)
    if server.startswith("["):
        host, _, rest = server[1:].partition("]")
        port_text = rest.removeprefix(":") if rest else port_text
        if not _is_literal(host) or rest[:1] not in ("", ":") or "]" not in server:
            host = ""
    elif server.count(":") == 1:
        host, _, port_text = server.partition(":")
    elif ":" in server and not _is_literal(server):
        host = ""
    if not port_text.isdecimal() or not 0 < int(port_text) < 65536 or not host:
        raise CallerError(
            f"{called} wants HOST, HOST:PORT or [IPV6]:PORT with a port from 1 to 65535, not {server!r}"
        )
    return host, int(port_text)


def resolve(
    server: str, *, patience: float = PATIENCE, called: str = option("--server"), default_port: int = DEFAULT_PORT
) -> list[Address]:
    """All addresses in the order in which to try them; none when the name is not known. Raises CallerError.

    The system is asked for both versions at once, in threads, for it may be long in answering: what has come soon
    after the first answer counts. Addresses that this machine has no route to are left out, if there are others.
    """
    host, port = parse(server, called, default_port)
    if _is_literal(host):
        return [Address(_with_named_zone(str(ipaddress.ip_address(host))), port)]
    found = interleave(_ask(lambda family: _look_up(host, port, family), patience))
    routed = [address for address in found if source_address(address) is not None]
    return routed or found


def resolve_stun(names: Sequence[str], *, patience: float = PATIENCE) -> list[Address]:
    """An IPv4 address of each, for it is IPv4 that has NATs. One that is not known is left out: others tell as much."""
    found = [resolve(name, patience=patience, called=option("--stun"), default_port=STUN_PORT) for name in names]
    return [address for each in found for address in [a for a in each if a.version == 4][:1]]


def _ask(look_up: Callable[[socket.AddressFamily], Sequence[Address]], patience: float) -> list[Address]:
    """Both questions at once; a thread whose answer comes too late is left to itself."""
    answers: queue.SimpleQueue[Sequence[Address]] = queue.SimpleQueue()
    for family in _FAMILIES:
        threading.Thread(target=lambda family=family: answers.put(look_up(family)), daemon=True).start()
    found: list[Address] = []
    deadline = time.monotonic() + patience
    for _ in _FAMILIES:
        with contextlib.suppress(queue.Empty):
            found += answers.get(timeout=max(0.0, deadline - time.monotonic()))
            if found:
                deadline = min(deadline, time.monotonic() + RESOLUTION_DELAY)
    return found


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[Address]:
    try:
        answers = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # the latter for what can be no name: a..b
        return []
    return [Address(str(answer[4][0]), port) for answer in answers]


def _with_named_zone(host: str) -> str:
    """As the sources of datagrams are named."""
    address, zone = split_zone(host)
    return f"{address}%{zone_name(int(zone))}" if zone.isdecimal() else host


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
