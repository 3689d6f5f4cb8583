"""A mapping by UPnP: WANIPConnection 1 and 2, WANPPPConnection 1."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import assert_never

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.errors import DecodeError
from p2p.core.portmap import http, upnp
from p2p.core.portmap.client import ATTEMPTS, FIRST_RETRY, SILENT, WATCH_INTERVAL, MappingClient, State, Timer
from p2p.core.portmap.events import Close, Denied, Open, Ready, is_public
from p2p.core.portmap.http import ResponseReader, Url
from p2p.core.portmap.upnp import Service, SoapFault
from p2p.core.portmap.xml import Element

EXCHANGE_PATIENCE = 8.0  # seconds for one request; small routers write each mapping to their flash
MAX_LOCATIONS = 4  # descriptions that are asked for; a gateway has one
PORT_ATTEMPTS = 4  # external ports that are tried where others have them already
PORTS = range(20_000, 60_000)  # from which they are drawn
DESCRIPTION = "p2p file transfer"  # for whoever reads the router's list
AGAIN = 300.0  # seconds after which what may be a passing trouble is tried again

# WANIPConnection 2, section 2.5; UPnP Device Architecture 2.0, section 3.2.2
INVALID_ARGS, ACTION_FAILED = 402, 501
NO_SUCH_ENTRY, CONFLICT, ONLY_PERMANENT, NO_PORTS = 714, 718, 725, 728
WORDS = {
    ACTION_FAILED: "it failed to, as routers without a usable internet address do",
    606: "it refuses: not allowed to this machine, or switched off in its settings",
    CONFLICT: "other machines have all ports that were tried",
    NO_PORTS: "it has no port left",
    729: "another protocol has that port already",
}
SHORT_LIVED = frozenset({ACTION_FAILED, CONFLICT, NO_PORTS})


class Step(Enum):
    """What the open exchange is for."""

    DESCRIPTION = auto()
    ADDRESS = auto()
    ADD_ANY = auto()
    ADD = auto()
    CONFIRM = auto()  # whose is it now?
    WATCH_ADDRESS = auto()
    WATCH = auto()
    DELETE = auto()


class UpnpClient(MappingClient):
    """Searches the gateway, reads its description, and maps. One connection at a time, one request in each.

    `gateway` is the only device that is listened to; None: where it is not known, the first private address that
    describes a gateway. `client` is our address towards it; `numbers` are for connections, and not used twice.
    """

    def __init__(
        self,
        gateway: str | None,
        client: str,
        internal_port: int,
        lifetime: int,
        random_bytes: Callable[[int], bytes],
        *,
        numbers: Iterator[int],
    ) -> None:
        super().__init__(internal_port, lifetime, random_bytes)
        self._gateway = gateway
        self._client = client
        self._searches = 0
        self._interval = FIRST_RETRY
        self._locations: list[Url] = []  # all that were told
        self._where: Url | None = None  # the one that is read
        self._untried: list[Url] = []
        self._services: list[Service] = []
        self._service: Service | None = None  # the first with a public address, or else the first
        self._host: str | None = None  # its external address
        self._step = Step.DESCRIPTION
        self._numbers = numbers
        self._number = 0  # of the newest connection
        self._reader: ResponseReader | None = None  # of the open connection
        self._external_port = internal_port
        self._ports_left = PORT_ATTEMPTS
        self._lease = lifetime
        self._add_step = Step.ADD
        self._search_deadline: float | None = None

    @property
    def is_searching(self) -> bool:
        """Whether answers to a search are still of use."""
        return self._state is State.PROBING and len(self._locations) < MAX_LOCATIONS

    def start(self, now: float) -> None:
        self._state = State.PROBING
        self._search(now)

    def map(self, now: float) -> None:
        if self._state is not State.MAPPED:
            self._state = State.MAPPING
        if self._reader is None:
            self._add(now)

    def release(self, now: float) -> None:
        if self._state in (State.MAPPING, State.MAPPED):
            self._state = State.RELEASING
            for timer in (Timer.RENEW, Timer.WATCH, Timer.EXPIRE):
                self._timers.stop(timer)
            if self._reader is None or self._step in (Step.WATCH_ADDRESS, Step.WATCH):
                self._delete(now)  # else what is under way may be the mapping, and has to come first
        elif self._state not in (State.RELEASING, State.OVER):
            self._close()
            self._released()

    def drop(self) -> None:
        self._close()
        super().drop()

    def poll_timeout(self) -> float | None:
        deadlines = [at for at in (super().poll_timeout(), self._search_deadline) if at is not None]
        return min(deadlines, default=None)

    def handle_search_answer(self, data: bytes, source: Address, now: float) -> None:
        """Raises DecodeError."""
        if not self.is_searching or not self._is_believed(source.host):
            return
        where = upnp.parse_search_answer(data, source.host)
        if where in self._locations:
            return
        self._locations.append(where)
        self._untried.append(where)
        if self._reader is None:
            self._describe(now)

    def handle_data(self, number: int, data: bytes | memoryview, now: float) -> None:
        if self._reader is None or number != self._number:
            return
        try:
            response = self._reader.feed(data)
        except DecodeError as error:
            self._fail(str(error), now)
            return
        if response is not None:
            self._handle_response(response, now)

    def handle_closed(self, number: int, now: float, reason: str | None = None) -> None:
        """The connection was closed by the device, or could not be made (`reason`)."""
        if self._reader is None or number != self._number:
            return
        if reason is not None:
            self._fail(reason, now)
            return
        try:
            response = self._reader.end()
        except DecodeError as error:
            self._fail(str(error), now)
            return
        self._handle_response(response, now)

    def handle_timeout(self, now: float) -> None:
        if self._search_deadline is not None and self._search_deadline <= now:
            self._search(now)
        for timer in self._timers.pop_expired(now):
            match timer:
                case Timer.ASK:
                    self._fail("it is too slow to answer", now)
                case Timer.RENEW if self._reader is None:
                    self._add(now)
                case Timer.RENEW:
                    self._renew_later(now)
                case Timer.WATCH:
                    self._timers.set(Timer.WATCH, now + WATCH_INTERVAL)
                    if self._reader is None:
                        self._ask_address(Step.WATCH_ADDRESS, now)
                case Timer.EXPIRE:
                    self._close()
                    self._deny("it no longer answers, and the lease has run out")
                    return

    def _is_believed(self, host: str) -> bool:
        if self._gateway is not None:
            return host == self._gateway
        address = ipaddress.IPv4Address(host)
        return address.is_private and not address.is_loopback

    def _search(self, now: float) -> None:
        self._search_deadline = None
        if self._state is not State.PROBING:
            return
        if self._searches == ATTEMPTS:
            if self._reader is None:
                self._give_up(self._complaint or SILENT)
            return
        target = upnp.TARGETS[min(self._searches, len(upnp.TARGETS) - 1)]
        places = [upnp.SSDP_GROUP]
        if self._gateway is not None:  # what firewalls take for an answer, and switches let pass
            places.append(Address(self._gateway, upnp.SSDP_PORT))
        if self._reader is None:
            self._transmits.extend(Transmit(place, (upnp.search(target, place),)) for place in places)
        self._searches += 1
        self._search_deadline = now + self._interval
        self._interval *= 2

    def _give_up(self, reason: str) -> None:
        """The state stays, so that an answer to our search that comes later still counts."""
        self._events.append(Denied(reason))

    def _describe(self, now: float) -> None:
        self._where = self._untried.pop(0)
        self._services, self._service = [], None
        self._exchange(Step.DESCRIPTION, self._where.address, http.get(self._where), now)

    def _exchange(self, step: Step, address: Address, request: bytes, now: float) -> None:
        self._close()
        self._step = step
        self._number = next(self._numbers)
        self._reader = ResponseReader()
        self._timers.set(Timer.ASK, now + EXCHANGE_PATIENCE)
        self._actions.append(Open(self._number, address, request))

    def _close(self) -> None:
        self._timers.stop(Timer.ASK)
        if self._reader is not None:
            self._reader = None
            self._actions.append(Close(self._number))

    def _act(self, step: Step, service: Service, action: str, arguments: dict[str, str], now: float) -> None:
        body = upnp.envelope(service, action, arguments)
        request = http.post(service.control, f"{service.kind}#{action}", body)
        self._exchange(step, service.control.address, request, now)

    def _add(self, now: float) -> None:
        assert self._service is not None
        arguments = self._entry() | {
            "NewInternalPort": str(self._internal_port),
            "NewInternalClient": self._client,
            "NewEnabled": "1",
            "NewPortMappingDescription": DESCRIPTION,
            "NewLeaseDuration": str(self._lease),
        }
        action = "AddAnyPortMapping" if self._add_step is Step.ADD_ANY else "AddPortMapping"
        self._act(self._add_step, self._service, action, arguments, now)

    def _look_up(self, step: Step, now: float) -> None:
        assert self._service is not None
        self._act(step, self._service, "GetSpecificPortMappingEntry", self._entry(), now)

    def _delete(self, now: float) -> None:
        assert self._service is not None
        self._act(Step.DELETE, self._service, "DeletePortMapping", self._entry(), now)

    def _entry(self) -> dict[str, str]:
        return {"NewRemoteHost": "", "NewExternalPort": str(self._external_port), "NewProtocol": "UDP"}

    def _handle_response(self, response: http.Response, now: float) -> None:
        self._close()
        try:
            if self._step is Step.DESCRIPTION:
                assert self._where is not None
                self._services = upnp.parse_services(response, self._where)
                self._ask_address(Step.ADDRESS, now)
            else:
                self._handle_result(upnp.parse_result(response), now)
        except SoapFault as fault:
            self._handle_fault(fault, now)
        except DecodeError as error:
            self._fail(str(error), now)

    def _handle_result(self, result: Element, now: float) -> None:
        match self._step:
            case Step.DESCRIPTION:
                raise AssertionError(self._step)
            case Step.ADDRESS:
                self._handle_address(_host(result), now)
            case Step.ADD_ANY:
                self._external_port = upnp.port_of(result, "NewReservedPort")
                self._handle_added(now)
            case Step.ADD:
                self._handle_added(now)
            case Step.CONFIRM | Step.WATCH:
                self._handle_entry(result, now)
            case Step.WATCH_ADDRESS:
                self._host = _host(result)
                self._look_up(Step.WATCH, now)
            case Step.DELETE:
                self._released()
            case _:
                assert_never(self._step)

    def _ask_address(self, step: Step, now: float) -> None:
        service = self._service if step is Step.WATCH_ADDRESS else self._services[0]
        assert service is not None
        self._act(step, service, "GetExternalIPAddress", {}, now)

    def _handle_address(self, host: str, now: float) -> None:
        service = self._services.pop(0)
        if self._service is None or is_public(host):
            self._service, self._host = service, host
        if self._services and not is_public(host):
            self._ask_address(Step.ADDRESS, now)
            return
        self._add_step = Step.ADD_ANY if self._service.picks_ports else Step.ADD
        self._state = State.READY
        self._untried.clear()
        self._events.append(Ready(self._host))

    def _handle_added(self, now: float) -> None:
        if self._state is State.RELEASING:
            self._delete(now)
        else:
            self._look_up(Step.CONFIRM, now)  # an answer to AddPortMapping does not say what was added

    def _handle_entry(self, result: Element, now: float) -> None:
        """What the router says that it maps: to us, or it lies, or another machine has taken the port over."""
        if self._state is State.RELEASING:
            self._delete(now)
            return
        whose, port = result.find("NewInternalClient"), upnp.port_of(result, "NewInternalPort")
        if (whose, port) != (self._client, self._internal_port):
            self._deny("it maps the port to another machine or port than ours")
        elif self._step is Step.CONFIRM or self._granted is None or self._granted.external.host != self._host:
            self._confirmed(now)

    def _confirmed(self, now: float) -> None:
        assert self._host is not None
        self._add_step = Step.ADD  # a renewal is for the port that we have
        self._grant(Address(self._host, self._external_port), self._lease, now)

    def _handle_fault(self, fault: SoapFault, now: float) -> None:
        match self._step:
            case Step.ADD | Step.ADD_ANY:
                self._handle_add_fault(fault, now)
            case Step.DELETE:
                self._released()
            case Step.ADDRESS | Step.DESCRIPTION:
                self._fail(f"it does not tell its external address: {fault}", now)
            case Step.CONFIRM | Step.WATCH | Step.WATCH_ADDRESS if self._state is State.RELEASING:
                self._delete(now)
            case Step.CONFIRM if fault.code == NO_SUCH_ENTRY:
                self._deny("it says that it maps the port, and then that it does not")
            case Step.CONFIRM:
                self._confirmed(now)  # it cannot be asked, so it is believed
            case Step.WATCH if fault.code == NO_SUCH_ENTRY:
                self._add(now)  # it has restarted
            case _:
                pass

    def _handle_add_fault(self, fault: SoapFault, now: float) -> None:
        if self._state is State.RELEASING:
            self._released()
        elif fault.code in (ONLY_PERMANENT, INVALID_ARGS) and self._lease:
            self._lease = 0  # until it is deleted; some say 402 for it
            self._add(now)
        elif self._add_step is Step.ADD_ANY:
            self._add_step = Step.ADD
            self._add(now)
        elif self._state is State.MAPPED:
            self._renew_later(now)
        elif fault.code == CONFLICT and self._ports_left > 1:
            self._ports_left -= 1
            self._external_port = PORTS[int.from_bytes(self._random_bytes(4), "big") % len(PORTS)]
            self._add(now)
        else:
            words = WORDS.get(fault.code, "it refuses")
            self._deny(f"{words} ({fault})", AGAIN if fault.code in SHORT_LIVED else None)

    def _fail(self, reason: str, now: float) -> None:
        """An exchange came to nothing."""
        self._close()
        match self._state:
            case State.RELEASING if self._step is Step.DELETE:
                self._released()
            case State.RELEASING:
                self._delete(now)
            case State.MAPPED:
                self._renew_later(now)
            case State.PROBING:
                self._complaint = reason
                if self._untried:
                    self._describe(now)
                elif self._search_deadline is None:
                    self._give_up(reason)
            case _:
                self._deny(reason)


def _host(result: Element) -> str:
    """The external address, 0.0.0.0 where the router has none. Raises DecodeError."""
    try:
        return str(ipaddress.IPv4Address(result.find("NewExternalIPAddress") or "0.0.0.0"))
    except ValueError as error:
        raise DecodeError("its external address is none") from error
