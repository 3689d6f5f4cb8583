"""The rendezvous server's sockets, bound."""

from __future__ import annotations

import contextlib
import socket

TCP_BACKLOG = 64
PORT_ATTEMPTS = 20  # free UDP ports tried until one is free for TCP too (--port 0)


def everywhere() -> str:
    """All addresses of this machine, of both IP versions; of IPv4 where IPv6 is switched off."""
    try:
        open_socket(socket.AF_INET6, socket.SOCK_DGRAM, "::", 0).close()
    except OSError:
        return "0.0.0.0"
    return "::"


def bind(
    stack: contextlib.ExitStack, host: str, port: int, alternate_port: int | None
) -> tuple[socket.socket, socket.socket, socket.socket]:
    """The first port, the alternate port, and TCP at the first port's number. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
    ip = str(address[0])
    for attempt in range(PORT_ATTEMPTS):
        first = open_socket(family, socket.SOCK_DGRAM, ip, port)
        try:
            tcp = open_socket(family, socket.SOCK_STREAM, ip, first.getsockname()[1])
            break
        except OSError:
            first.close()
            if port != 0 or attempt == PORT_ATTEMPTS - 1:
                raise
    stack.enter_context(first)
    stack.enter_context(tcp)
    if alternate_port is None:
        alternate_port = 0 if port == 0 else port + 1
    second = stack.enter_context(open_socket(family, socket.SOCK_DGRAM, ip, alternate_port))
    return first, second, tcp


def bind_other_host(
    stack: contextlib.ExitStack, alt_host: str, first: socket.socket, second: socket.socket
) -> tuple[socket.socket, socket.socket]:
    """The same two ports at another address of the same IP version. Raises OSError, also socket.gaierror."""
    ports = [bound.getsockname()[1] for bound in (first, second)]
    found = socket.getaddrinfo(alt_host, ports[0], family=first.family, type=socket.SOCK_DGRAM)
    ip = str(found[0][4][0])
    third, fourth = (stack.enter_context(open_socket(first.family, socket.SOCK_DGRAM, ip, port)) for port in ports)
    return third, fourth


def bind_tcp(stack: contextlib.ExitStack, first: socket.socket, port: int) -> socket.socket:
    """A further TCP port at the address of the first UDP port. Raises OSError."""
    return stack.enter_context(open_socket(first.family, socket.SOCK_STREAM, first.getsockname()[0], port))


def open_socket(family: int, kind: int, ip: str, port: int) -> socket.socket:
    opened = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if ip == "::" else 1)
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((ip, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(TCP_BACKLOG)
            opened.setblocking(False)
    except OSError as error:
        opened.close()
        error.filename = f"{'TCP' if kind == socket.SOCK_STREAM else 'UDP'} port {port} of {ip}"
        raise
    return opened
