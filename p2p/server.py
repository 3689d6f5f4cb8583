"""The rendezvous server: `python -m p2p.server`. See docs/server.md."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before the imports below, in which Ctrl-C would be a traceback
    from p2p import scripts

    sys.exit(scripts.server())

import argparse
import errno
import logging
import math
import os
import socket
import time
from collections.abc import Sequence
from functools import partial

from p2p.core.rendezvous.relay import RelayLimits
from p2p.io.server.bind import everywhere
from p2p.io.server.log import EventLog
from p2p.io.server.loop import ServerLoop, stop_signals

PROGRAM = "python -m p2p.server"
DEFAULT_PORT = 8080
LAST_PORT = 65535
MOST = 1e6  # Mbit/s, or GB: above any machine, and its kB/s fit the field of RELAYED

FAILED = 1
USAGE = 2


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Returns the exit code: 0 stopped by a signal, 1 the ports cannot be had, 2 usage or an unknown host."""
    options = _parse(arguments, program)
    logging.raiseExceptions = False  # whoever reads the log may go away; the server stays
    level = logging.DEBUG if options.verbose else logging.WARNING if options.quiet else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    with stop_signals() as signalled:  # before the line that says that we listen: then a signal is a clean stop
        try:
            events = EventLog(options.verbose)
            loop = ServerLoop(
                options.host or everywhere(),
                options.port,
                options.alternate_port,
                events,
                time.monotonic,
                alt_host=options.alt_host,
                tcp_ports=options.tcp_port,
                relay=_relay_limits(options),
            )
        except (socket.gaierror, UnicodeError):
            return _fail(USAGE, _explain_hosts(options.host or everywhere(), options.alt_host))
        except OSError as error:
            return _fail(FAILED, _explain(error))
        print(f"listening on {' and '.join(loop.hosts)} ports {loop.ports[0]} and {loop.ports[1]}", flush=True)
        loop.run(signalled)
    return 0


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """`program`: how the person has called it."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Introduces two peers to each other. It sees their names and public addresses, never their files.",
    )
    parser.add_argument(
        "--host", metavar="ADDR", help="address to listen on (default: all of this machine, IPv6 and IPv4)"
    )
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, metavar="N", help="UDP and TCP port (default: %(default)s; 0: any)"
    )
    parser.add_argument(
        "--alternate-port", type=_port, metavar="N", help="second UDP port (default: the one after; 0: any)"
    )
    parser.add_argument(
        "--alt-host",
        metavar="ADDR",
        help="a second address of this machine: lets peers tell more of their NATs; needs --host with the first",
    )
    parser.add_argument(
        "--tcp-port",
        type=_port,
        action="append",
        default=[],
        metavar="N",
        help="a further TCP port, for networks that let no UDP through: 443 passes nearly everywhere; may be repeated",
    )
    _add_relay_options(parser)
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--verbose", action="store_true", help="log more, and peers' addresses in full")
    level.add_argument("--quiet", action="store_true", help="log warnings and errors only")
    return parser


def _parse(arguments: Sequence[str] | None, program: str) -> argparse.Namespace:
    parser = build_parser(program)
    options = parser.parse_args(arguments)
    if options.alternate_port is None and options.port == LAST_PORT:
        parser.error(f"no port comes after {LAST_PORT}: name the second one with --alternate-port")
    if options.port != 0 and options.port == options.alternate_port:
        parser.error("--port and --alternate-port are the same: peers need two different ones")
    if options.port in options.tcp_port or len(set(options.tcp_port)) < len(options.tcp_port):
        parser.error("a port is named twice: TCP listens at --port and at each --tcp-port")
    if 0 in options.tcp_port:
        parser.error("--tcp-port has to be a number that peers can know")
    if options.alt_host is not None and options.host in (None, "0.0.0.0", "::"):
        parser.error("--alt-host needs --host with the first address: all of them cannot be told apart")
    if options.alt_host is not None and options.alt_host == options.host:
        parser.error("--host and --alt-host are the same: peers learn nothing from one address twice")
    return options


def _add_relay_options(parser: argparse.ArgumentParser) -> None:
    relay = parser.add_argument_group("relay", "for pairs that no direct path joins; what it carries is sealed")
    relay.add_argument("--no-relay", action="store_true", help="forward nothing")
    limits = RelayLimits()
    for option, unit, factor, default, what in (
        ("--relay-rate", "MBIT", 1e6 / 8, limits.pair_rate, "Mbit/s of one pair"),
        ("--relay-total", "MBIT", 1e6 / 8, limits.total_rate, "Mbit/s of all pairs, shared fairly"),
        ("--relay-bytes", "GB", 1e9, limits.pair_bytes, "GB that one pair may carry in one run"),
    ):
        relay.add_argument(
            option,
            type=partial(_amount, factor=factor),
            default=default,
            metavar=unit,
            help=f"{what} (default: {default / factor:g}; 0: no limit)",
        )


def _relay_limits(options: argparse.Namespace) -> RelayLimits | None:
    if options.no_relay:
        return None
    return RelayLimits(options.relay_rate, options.relay_bytes, options.relay_total)


def _amount(text: str, factor: float) -> int:
    """Bytes, of a number that counts `factor` of them."""
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST:g}")
    return math.ceil(amount * factor)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 0 to {LAST_PORT}")
    return int(text)


def _explain_hosts(host: str, alt_host: str | None) -> str:
    if alt_host is None:
        return f"no address for the host {host!r}: pass one of this machine with --host"
    return (
        f"no address for the hosts {host!r} and {alt_host!r}: pass two of this machine, of one IP version, "
        "with --host and --alt-host"
    )


def _explain(error: OSError) -> str:
    where = error.filename or "the port"
    match error:
        case PermissionError():
            return f"cannot listen on {where}: permission denied. Ports below 1024 need root; choose one with --port"
        case _ if error.errno == errno.EADDRINUSE:
            return f"cannot listen on {where}: it is in use. Choose others with --port, --alternate-port and --tcp-port"
        case _ if error.errno == errno.EADDRNOTAVAIL:
            return f"cannot listen on {where}: not an address of this machine. Choose another with --host"
        case _:
            return f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"


def _fail(code: int, sentence: str) -> int:
    print(f"p2p.server: {sentence}", file=sys.stderr)
    return code
