"""A mapping by NAT-PMP: RFC 6886."""

from __future__ import annotations

from p2p.core.address import Address
from p2p.core.portmap import nat_pmp
from p2p.core.portmap.client import DatagramClient, Question
from p2p.core.portmap.nat_pmp import AddressAnswer, AddressRequest, ErrorAnswer, MapAnswer, MapRequest

AGAIN = 300.0  # seconds after which what may be a passing trouble of the router is tried again; NAT-PMP does not say


class NatPmpClient(DatagramClient):
    """Asks for the external address, then for the mapping. Nothing but the internal port marks an answer as ours."""

    _host = "0.0.0.0"

    def _read_answer(self, data: bytes, now: float) -> None:
        match nat_pmp.decode(data):
            case AddressAnswer(epoch, host):
                self._handle_epoch(epoch, now)
                self._host = host
                self._handle_spoken(host, now)
            case MapAnswer(epoch, internal, external, lifetime):
                self._handle_epoch(epoch, now)
                self._handle_granted(internal, Address(self._host, external), lifetime, now)
            case ErrorAnswer(opcode, result):
                if opcode == (AddressRequest.OPCODE if self._question is Question.PROBE else MapRequest.OPCODE):
                    words = nat_pmp.WORDS.get(result, f"it refuses with an unknown result, {result}")
                    self._handle_refused(words, AGAIN if result in nat_pmp.SHORT_LIVED else None, now)

    def _request(self, question: Question) -> bytes:
        match question:
            case Question.PROBE:
                return nat_pmp.encode(AddressRequest())
            case Question.MAP:
                wish = self._granted.external.port if self._granted else self._internal_port
                return nat_pmp.encode(MapRequest(self._internal_port, wish, self._lifetime))
            case Question.RELEASE:
                return nat_pmp.encode(MapRequest(self._internal_port, 0, 0))
