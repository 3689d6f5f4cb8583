"""What doctor shows: what comes in while it looks on stderr, the report (or the events of --json) on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
import time
from typing import Final, assert_never

from p2p.core.doctor import words
from p2p.core.doctor.doctor import DEADLINE, Event, Found, Over, Topic
from p2p.core.doctor.facts import Facts, Network
from p2p.core.errors import ExitCode
from p2p.core.nat_report import NatReport
from p2p.core.portmap.events import BehindAnotherNat, Mapped, NoMapper
from p2p.core.text import escape

MAX_WIDTH: Final = 110  # columns; longer lines are hard to read
STILL_AFTER: Final = 10.0  # seconds between two words that it goes on, where no line can be written over
LIFETIME: Final = "how long an unused port is kept: up to five minutes"  # what goes on after all else is known
LABELS: Final = {
    Topic.NAT: ("Ports", "Address", "IPv6"),
    Topic.FILTERING: ("Who gets in", "IPv6"),
    Topic.HAIRPIN: ("Neighbours",),
    Topic.LIFETIME: ("Idle ports",),
    Topic.TCP: ("TCP",),
    Topic.PORT_MAPPER: ("Port opening",),
    Topic.MTU: ("Packets",),
}


class DoctorScreen:
    def __init__(self, *, as_json: bool, quiet: bool, verbose: bool, with_lifetime: bool = False) -> None:
        self._json = as_json
        self._quiet = quiet
        self._verbose = verbose
        self._has_line = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and not quiet
        self._started = time.monotonic()
        self._said_still = self._started
        self._last = ""
        self._with_lifetime = with_lifetime
        self._shown: dict[str, str] = {}
        self.output_is_gone = False  # stdout takes no more

    def begin(self, known: Facts) -> None:
        self._write(
            {
                "event": "interfaces",
                "interfaces": [
                    {"name": each.name, "addresses": each.hosts, "vpn": each.is_tunnel, "virtual": each.is_virtual}
                    for each in known.interfaces
                ],
            }
        )
        if not self._has_line:
            self._say("Looking at this network ...")
        self._draw()

    def close(self) -> None:
        self._clear()
        self._has_line = False

    def tick(self, now: float) -> float:
        """Seconds until the next call is due."""
        if self._has_line:
            self._draw()
        elif now >= self._said_still + STILL_AFTER:
            self._said_still = now
            self._say(f"Still looking, for {now - self._started:.0f} s ...")
        return 1.0

    def handle_event(self, event: Event) -> None:
        match event:
            case Found(topic, facts, version):
                self._write(finding(topic, facts, version))
                self._show(topic, facts)
            case Over(facts, seconds):
                self._write(conclusion(facts, seconds))
                self._clear()
                self._print(report(facts, self._width(), quiet=self._quiet))
            case _:
                assert_never(event)

    def fail(self, message: str | None, *, known: Facts) -> ExitCode:
        """Nobody answered: the report has said so; a `message` is what it cannot know."""
        self._write({"event": "failed", "code": int(ExitCode.NO_PEER), "message": message or words.verdict(known)})
        if message is not None:
            self._talk(f"{escape(message)}.")
        return ExitCode.NO_PEER

    def _show(self, topic: Topic, facts: Facts) -> None:
        """The sentences that are new."""
        for label, sentence in words.rows(facts):
            if label in LABELS[topic] and self._shown.get(label) != sentence:
                self._shown[label] = sentence
                self._last = f"{label}: {sentence}"
                if self._verbose:
                    self._clear()
                    self._say(f"  {self._last}")
        self._draw()

    def _draw(self) -> None:
        if self._has_line:
            seconds = time.monotonic() - self._started
            last = LIFETIME if self._with_lifetime and seconds > DEADLINE else self._last
            line = f"Looking at this network, {seconds:.0f} s ... {last}"
            self._talk("\r" + line[: self._width() - 1] + "\x1b[K", end="")

    def _clear(self) -> None:
        if self._has_line:
            self._talk("\r\x1b[K", end="")

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._talk(text)

    def _talk(self, text: str, end: str = "\n") -> None:
        with contextlib.suppress(OSError):  # the terminal is gone; the report may go elsewhere
            print(text, end=end, file=sys.stderr, flush=True)

    def _print(self, text: str) -> None:
        if not self._json:
            self._output(text)

    def _write(self, event: dict[str, object]) -> None:
        if self._json:
            self._output(json.dumps(event))

    def _output(self, text: str) -> None:
        if self.output_is_gone:
            return
        try:
            print(text, flush=True)
        except OSError:
            self.output_is_gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _width(self) -> int:
        return min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH)


def report(facts: Facts, width: int, *, quiet: bool = False) -> str:
    """The whole report; with `quiet` its first line only."""
    lines = textwrap.wrap(words.verdict(facts), width)
    if quiet:
        return "\n".join(lines)
    rows = words.rows(facts)
    column = max((len(label) for label, _ in rows), default=0) + 4
    lines += ["", "This network"]
    for label, sentence in rows:
        lines += textwrap.wrap(
            sentence,
            width,
            initial_indent=f"  {label}".ljust(column),
            subsequent_indent=" " * column,
            break_on_hyphens=False,
        )
    if table := words.table(facts):
        column = max(len(friend) for friend, _ in table) + 4
        lines += ["", words.heading(facts), *(f"  {friend}".ljust(column) + reach for friend, reach in table)]
    lines += ["", "What you can change"]
    for piece in words.advice(facts) or ["Nothing: no change would make it more direct."]:
        lines += textwrap.wrap(piece, width, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


# events for programs


def finding(topic: Topic, facts: Facts, version: int | None) -> dict[str, object]:
    network = facts.v6 if version == 6 else facts.v4
    event: dict[str, object] = {"event": topic.value}
    if version is not None:
        event["version"] = version
    match topic:
        case Topic.NAT:
            return event | _nat(network)
        case Topic.FILTERING:
            return event | {"filtering": None if network.filtering is None else network.filtering.value}
        case Topic.HAIRPIN:
            return event | {"hairpinning": network.hairpins}
        case Topic.LIFETIME:
            found = network.lifetime
            return event | {"at_least": found and found.at_least, "at_most": found and found.at_most}
        case Topic.TCP:
            return event | {"ports": _tcp(facts)}
        case Topic.PORT_MAPPER:
            return event | _mapper(facts)
        case Topic.MTU:
            return event | {"mtu": facts.mtu}
        case _:
            assert_never(topic)


def conclusion(facts: Facts, seconds: float) -> dict[str, object]:
    return {
        "event": "diagnosis",
        "verdict": words.verdict(facts),
        "network": facts.ease.name.lower(),
        "answered": facts.is_answered,
        "udp_blocked": facts.is_udp_blocked,
        "another_nat": facts.upstream.value,
        "vpn": facts.vpn,
        "friends": {friend.name.lower(): reach.name.lower() for friend, reach in facts.table},
        "facts": dict(words.rows(facts)),
        "advice": words.advice(facts),
        "seconds": round(seconds, 3),
    }


def _nat(network: Network) -> dict[str, object]:
    nat = network.nat or NatReport()
    return {
        "address": network.host,
        "reflexive": [str(each) for each in network.reflexive],
        "translates": network.translates if network.has_udp else None,
        "mapping": nat.mapping.name.lower().replace("_", "-"),
        "port_preservation": nat.preserves_ports,
        "stride": nat.stride,
        "ports": [nat.ports[0], nat.ports[-1]] if nat.ports else None,
    }


def _tcp(facts: Facts) -> list[dict[str, object]]:
    return [{"address": str(each.address), "outcome": each.outcome.value} for each in facts.tcp]


def _mapper(facts: Facts) -> dict[str, object]:
    match facts.mapper:
        case Mapped(external, protocol):
            how = {"outcome": "mapped", "protocol": protocol.value, "external": str(external)}
            return how | {"reached": facts.proved}
        case BehindAnotherNat(protocol, host):
            return {"outcome": "behind another NAT", "protocol": protocol.value, "external": host}
        case NoMapper(reasons):
            return {"outcome": "none", "reasons": {protocol.value: reason for protocol, reason in reasons}}
        case None:
            return {"outcome": "unknown"}
        case _:
            assert_never(facts.mapper)
