"""A router and its LAN in memory, in virtual time: it answers, refuses, lies, is slow, restarts, and loses packets."""

from __future__ import annotations

import heapq
import itertools
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

from p2p.core.address import Address
from p2p.core.portmap.events import Close, Event, Open, Protocol
from p2p.core.portmap.race import PortMapping

GATEWAY, CLIENT, WAN = "192.168.1.1", "192.168.1.10", "8.8.4.4"
PORT = 5000
CONTROL = Address(GATEWAY, 5431)
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"


@dataclass
class Router:
    """Mappings by external port: (client, internal port, end of the lease or None). Knobs are what it does wrong."""

    offers: set[Protocol] = field(default_factory=lambda: set(Protocol))
    wan: str = WAN
    booted: float = -1000.0
    mappings: dict[int, tuple[str, int, float | None]] = field(default_factory=dict)
    refuse: dict[Protocol, int] = field(default_factory=dict)  # result or error codes to MAP
    refusal_lifetime: int = 30  # of PCP errors
    most: int = 7200  # seconds that it grants
    only_permanent: bool = False
    service: str = SERVICE
    wan_told: str | None = None  # a lie
    lie: Callable[[bytes], bytes] = lambda answer: answer  # on answers of PCP and NAT-PMP
    entry: tuple[str, int] | None = None  # a lie of UPnP about whose a mapping is
    description: bytes | None = None
    location: str = f"http://{GATEWAY}:5431/desc.xml"
    wan_by_path: dict[str, str] = field(default_factory=dict)  # of several connection services
    asked: list[str] = field(default_factory=list)

    def restart(self, now: float) -> None:
        self.booted = now
        self.mappings.clear()

    def take(self, wish: int, client: str, internal: int, lifetime: int, now: float) -> int:
        held = [port for port, (who, port_in, _) in self.mappings.items() if (who, port_in) == (client, internal)]
        free = (port for port in itertools.count(wish or internal) if port not in self.mappings)
        port = held[0] if held else next(free)
        self.mappings[port] = (client, internal, now + lifetime if lifetime else None)
        return port

    def drop(self, client: str, internal: int) -> None:
        for port in [p for p, (who, port_in, _) in self.mappings.items() if (who, port_in) == (client, internal)]:
            del self.mappings[port]

    def expire(self, now: float) -> None:
        for port in [p for p, (_, _, end) in self.mappings.items() if end is not None and end <= now]:
            del self.mappings[port]

    # PCP and NAT-PMP

    def answer(self, data: bytes, now: float) -> list[bytes]:
        epoch = int(now - self.booted)
        if data[0] == 2:
            if Protocol.PCP in self.offers:
                return [self.lie(self._pcp(data, epoch, now))]
            return [struct.pack("!BBHI", 0, 128 + data[1], 1, epoch)] if Protocol.NAT_PMP in self.offers else []
        if Protocol.NAT_PMP in self.offers:
            return [self.lie(self._nat_pmp(data, epoch, now))]
        return []

    def _pcp(self, data: bytes, epoch: int, now: float) -> bytes:
        self.asked.append("PCP announce" if data[1] == 0 else "PCP map")
        code = self.refuse.get(Protocol.PCP, 0) if data[1] else 0
        lifetime = int.from_bytes(data[4:8], "big")
        body = data[24:]
        if code:
            lifetime = self.refusal_lifetime
        elif data[1]:
            internal, wish = struct.unpack_from("!HH", body, 16)
            external = 0
            if lifetime:
                lifetime = min(lifetime, self.most)
                external = self.take(wish, CLIENT, internal, lifetime, now)
            else:
                self.drop(CLIENT, internal)
            body = body[:18] + struct.pack("!H10sH4s", external, bytes(10), 0xFFFF, IPv4Address(self.wan).packed)
        return struct.pack("!BBBBII12x", 2, 128 + data[1], 0, code, lifetime, epoch) + body

    def _nat_pmp(self, data: bytes, epoch: int, now: float) -> bytes:
        self.asked.append("NAT-PMP address" if data[1] == 0 else "NAT-PMP map")
        if code := self.refuse.get(Protocol.NAT_PMP, 0):
            return struct.pack("!BBHI", 0, 128 + data[1], code, epoch)
        if data[1] == 0:
            return struct.pack("!BBHI4s", 0, 128, 0, epoch, IPv4Address(self.wan_told or self.wan).packed)
        internal, wish, lifetime = struct.unpack_from("!HHI", data, 4)
        external = 0
        if lifetime:
            lifetime = min(lifetime, self.most)
            external = self.take(wish, CLIENT, internal, lifetime, now)
        else:
            self.drop(CLIENT, internal)
        return struct.pack("!BBHIHHI", 0, 129, 0, epoch, internal, external, lifetime)

    # UPnP

    def search_answer(self) -> bytes:
        return f"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: {self.location}\r\n\r\n".encode()

    def http(self, request: bytes, now: float) -> bytes:
        head, _, body = request.decode().partition("\r\n\r\n")
        if head.startswith("GET "):
            self.asked.append(head.split()[1])
            return _ok(self.description if self.description is not None else describe(self.service))
        action = re.search(r'SOAPAction: "[^#"]+#(\w+)"', head)
        assert action is not None
        self.asked.append(action[1])
        given = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
        code, result = self._act(action[1], given, now)
        if action[1] == "GetExternalIPAddress":
            result["NewExternalIPAddress"] = self.wan_by_path.get(head.split()[1], result["NewExternalIPAddress"])
        if code:
            fault = f"<UPnPError><errorCode>{code}</errorCode><errorDescription>no</errorDescription></UPnPError>"
            return _response(500, f"<s:Envelope xmlns:s='s'><s:Fault>{fault}</s:Fault></s:Envelope>".encode())
        fields = "".join(f"<{name}>{value}</{name}>" for name, value in result.items())
        return _ok(f"<s:Envelope xmlns:s='s'><s:Body>{fields}</s:Body></s:Envelope>".encode())

    def _act(self, action: str, given: dict[str, str], now: float) -> tuple[int, dict[str, str]]:
        if action == "GetExternalIPAddress":
            return 0, {"NewExternalIPAddress": self.wan_told or self.wan}
        port = int(given["NewExternalPort"])
        held = self.mappings.get(port)
        if action in ("AddPortMapping", "AddAnyPortMapping"):
            return self._add(action, port, given, now)
        if held is None:
            return 714, {}
        if action == "GetSpecificPortMappingEntry":
            client, internal = self.entry or held[:2]
            return 0, {"NewInternalClient": client, "NewInternalPort": str(internal)}
        del self.mappings[port]
        return 0, {}

    def _add(self, action: str, port: int, given: dict[str, str], now: float) -> tuple[int, dict[str, str]]:
        target = given["NewInternalClient"], int(given["NewInternalPort"])
        lifetime = int(given["NewLeaseDuration"])
        if code := self.refuse.get(Protocol.UPNP):
            return code, {}
        if self.only_permanent and lifetime:
            return 725, {}
        if action == "AddAnyPortMapping":
            if not self.service.endswith(":2"):
                return 401, {}
            return 0, {"NewReservedPort": str(self.take(port, *target, lifetime, now))}
        if port in self.mappings and self.mappings[port][:2] != target:
            return 718, {}
        self.mappings[port] = (*target, now + lifetime if lifetime else None)
        return 0, {}


def describe(service: str = SERVICE, control: str = "/ctl", base: str = "") -> bytes:
    url_base = f"<URLBase>{base}</URLBase>" if base else ""
    return f"""<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{url_base}<device>
      <friendlyName>Box</friendlyName><deviceList><device><deviceList><device><serviceList><service>
      <serviceType>{service}</serviceType><controlURL>{control}</controlURL></service></serviceList></device>
      </deviceList></device></deviceList></device></root>""".encode()


def _ok(body: bytes) -> bytes:
    return _response(200, body)


def _response(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class World:
    """Runs the machine beside the router. `loss` of datagrams, `delay` of all answers."""

    def __init__(self, router: Router, *, lifetime: int = 3600, loss: float = 0.0, delay: float = 0.002, seed: int = 1,
                 is_guess: bool = False) -> None:  # fmt: skip
        self.router = router
        self.now = 0.0
        self.loss = loss
        self.delay = delay
        self.is_dark = False
        self.strangers: set[Address] = set()  # devices whose pages may be asked for, in vain
        self.delays: Callable[[str], float] = lambda _: self.delay
        self.random = random.Random(seed)
        self.machine = PortMapping(
            GATEWAY, CLIENT, PORT, random.Random(seed).randbytes, lifetime=lifetime, is_guess=is_guess
        )
        self.events: list[tuple[float, Event]] = []
        self.opened: list[Open] = []
        self.sent: list[tuple[float, bytes]] = []
        self._closed: set[int] = set()
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def start(self, until: float = 10.0) -> World:
        self.machine.start(self.now)
        return self.run(until)

    def close(self) -> World:
        self.machine.close(self.now)
        return self.run(self.now + 5)

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), do))

    def run(self, until: float) -> World:
        self._carry()
        while True:
            timeout = self.machine.poll_timeout()
            queued = self._queue[0][0] if self._queue else None
            soonest = min((at for at in (timeout, queued) if at is not None), default=None)
            if soonest is None or soonest > until:
                break
            assert soonest >= self.now - 1e-9, "a deadline in the past is a loop that spins"
            self.now = max(self.now, soonest)
            self.router.expire(self.now)
            if self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            else:
                self.machine.handle_timeout(self.now)
            self._carry()
        self.now = until
        return self

    @property
    def said(self) -> list[Event]:
        return [event for _, event in self.events]

    def _carry(self) -> None:
        machine = self.machine
        while (event := machine.poll_event()) is not None:
            self.events.append((self.now, event))
        while (transmit := machine.poll_transmit()) is not None:
            data = b"".join(transmit.buffers)
            self.sent.append((self.now, data))
            self._send(data, transmit.destination)
        while (action := machine.poll_action()) is not None:
            match action:
                case Open():
                    self.opened.append(action)
                    self.at(self.now + self.delays("UPnP"), partial(self._serve, action))
                case Close(number):
                    self._closed.add(number)

    def _send(self, data: bytes, destination: Address) -> None:
        if self.is_dark or self.random.random() < self.loss:
            return
        if destination.port == 1900:
            if Protocol.UPNP in self.router.offers:
                answered = partial(self.deliver, self.router.search_answer(), Address(GATEWAY, 1900))
                self.at(self.now + self.delays("search"), answered)
            return
        kind = ("PCP" if data[0] else "NAT-PMP") + ("" if data[1] == 0 else " map")
        for answer in self.router.answer(data, self.now):
            if self.random.random() >= self.loss:
                deliver = partial(self.deliver, answer, Address(GATEWAY, 5351))
                self.at(self.now + self.delays(kind), deliver)

    def deliver(self, data: bytes, source: Address) -> None:
        self.machine.handle_datagram(data, source, self.now)

    def _serve(self, action: Open) -> None:
        if action.number in self._closed or self.is_dark:
            return
        if action.address in self.strangers:
            self.machine.handle_closed(action.number, self.now, "it is a television")
            return
        assert action.address == CONTROL, action.address
        answer = self.router.http(action.data, self.now)
        for start in range(0, len(answer), 100):
            self.machine.handle_data(action.number, answer[start : start + 100], self.now)
        self.machine.handle_closed(action.number, self.now)
