"""A mapping by PCP: RFC 6887."""

from __future__ import annotations

from collections.abc import Callable

from p2p.core.address import Address
from p2p.core.portmap import pcp
from p2p.core.portmap.client import DatagramClient, Question
from p2p.core.portmap.pcp import Announced, AnnounceRequest, ErrorAnswer, MapAnswer, MapRequest

# Seconds; what is said of an error's lifetime is believed within these bounds. Section 7.4 suggests 30 s and 30 min.
AGAIN = (30, 1800)


class PcpClient(DatagramClient):
    """Finds out with ANNOUNCE whether the gateway speaks PCP, then maps. What bears our nonce is about our mapping.

    `client` is our address towards the gateway; `nonce` belongs to the mapping, whoever asks for it again.
    What the gateway announces unasked is not listened to.
    """

    def __init__(
        self,
        gateway: Address,
        client: str,
        internal_port: int,
        lifetime: int,
        random_bytes: Callable[[int], bytes],
        *,
        nonce: bytes,
    ) -> None:
        super().__init__(gateway, internal_port, lifetime, random_bytes)
        self._client = client
        self._nonce = nonce

    def _read_answer(self, data: bytes, now: float) -> None:
        match pcp.decode(data):
            case Announced(epoch):
                self._handle_epoch(epoch, now)
                self._handle_spoken(None, now)
            case MapAnswer(epoch, lifetime, nonce, protocol, internal, external, external_host):
                if nonce != self._nonce:
                    self._complaint = "it answered with another nonce than ours"
                elif protocol != pcp.UDP:
                    self._complaint = "it answered for another protocol than UDP"
                else:
                    self._handle_epoch(epoch, now)
                    self._handle_granted(internal, Address(external_host, external), lifetime, now)
            case ErrorAnswer() as error:
                self._handle_error(error, now)

    def handle_other_version(self, now: float) -> None:
        """What speaks NAT-PMP only answers PCP in NAT-PMP's words: RFC 6887 section 9, RFC 6886 section 3.5."""
        if self._question is Question.PROBE:
            self._handle_refused("it speaks NAT-PMP only", None, now)

    def _handle_error(self, error: ErrorAnswer, now: float) -> None:
        if self._question is Question.PROBE:
            if error.result == pcp.UNSUPP_OPCODE and error.opcode == AnnounceRequest.OPCODE:
                self._handle_spoken(None, now)  # so it speaks PCP
            elif error.opcode == AnnounceRequest.OPCODE:
                self._refuse(error, now)
        elif error.opcode == MapRequest.OPCODE:
            if error.nonce in (None, self._nonce):
                self._refuse(error, now)
            else:
                self._complaint = "it answered with another nonce than ours"

    def _refuse(self, error: ErrorAnswer, now: float) -> None:
        words = pcp.WORDS.get(error.result, f"it refuses with an unknown result, {error.result}")
        least, most = AGAIN
        again = min(max(error.lifetime, least), most) if error.result in pcp.SHORT_LIVED else None
        self._handle_refused(words, again, now)

    def _request(self, question: Question) -> bytes:
        if question is Question.PROBE:
            return pcp.encode(AnnounceRequest(self._client))
        wish = Address(pcp.ANY_IPV4, self._internal_port)
        if self._granted is not None:
            wish = self._granted.external
        if question is Question.RELEASE:  # section 15.1: as it was asked for, with a lifetime of 0
            return pcp.encode(MapRequest(self._client, 0, self._nonce, self._internal_port))
        return pcp.encode(
            MapRequest(self._client, self._lifetime, self._nonce, self._internal_port, wish.port, wish.host)
        )
