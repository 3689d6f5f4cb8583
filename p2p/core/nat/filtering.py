"""Whom a mapping lets in: RFC 5780 section 4.4."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.stun.client import Answered, Question, Questions, Unanswered

SENDS: Final = 3  # of each request: what does not come three times in a row is filtered, not lost


class Filtering(Enum):
    """Filtering behaviour (RFC 4787 section 5), as far as the server's addresses and ports can tell."""

    UNKNOWN = "unknown"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    NOT_PORT_DEPENDENT = "endpoint-independent or address-dependent"  # a server with one address cannot tell


@dataclass(frozen=True, slots=True)
class FilteringFound:
    filtering: Filtering


class FilteringTest:
    """From a fresh socket to the server's first endpoint; then its other sockets are asked to answer there.

    `endpoints` as NatProbe has them: none but the first must have heard of the socket `local`.
    """

    def __init__(
        self, endpoints: Sequence[Address], local: int, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._endpoints = endpoints
        self._local = local
        self._questions = Questions(random_bytes)
        self._opening: Question | None = None
        self._by_port: Question | None = None  # "answer from your other port"
        self._by_host: Question | None = None  # "answer from your other address and port"
        self._host_passes: bool | None = None
        self._port_passes: bool | None = None
        self._is_over = False
        self._events: deque[FilteringFound] = deque()

    def start(self, now: float) -> None:
        if len(self._endpoints) < 2:
            self._end(Filtering.UNKNOWN)
        else:
            self._opening = self._questions.ask(self._endpoints[0], self._local, now, sends=SENDS)

    def handle_datagram(
        self, data: bytes | bytearray | memoryview, source: Address, local: int, now: float
    ) -> None:
        self._questions.handle_datagram(data, source, local, now)
        self._advance(now)

    def handle_timeout(self, now: float) -> None:
        self._questions.handle_timeout(now)
        self._advance(now)

    def poll_transmit(self) -> Transmit | None:
        return self._questions.poll_transmit()

    def poll_event(self) -> FilteringFound | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        return None if self._is_over else self._questions.poll_timeout()

    def _advance(self, now: float) -> None:
        while (result := self._questions.poll_result()) is not None:
            if result.question is self._opening:
                if isinstance(result, Answered):
                    self._ask_others(now)
                else:
                    self._end(Filtering.UNKNOWN)
            elif isinstance(result, Answered | Unanswered):
                # A server that answers from the socket that was asked, whatever it was asked, proves nothing.
                # Nor does what came to another socket of ours: a NAT may have given one port to two of them.
                passes = (
                    isinstance(result, Answered)
                    and result.source != result.question.destination
                    and result.local == result.question.local
                )
                self._handle_verdict(result.question, passes=passes)
            else:
                self._end(Filtering.UNKNOWN)

    def _ask_others(self, now: float) -> None:
        first = self._endpoints[0]
        if len(self._endpoints) > 2:
            self._by_host = self._questions.ask(
                first, self._local, now, sends=SENDS, change_ip=True, change_port=True
            )
        self._by_port = self._questions.ask(first, self._local, now, sends=SENDS, change_port=True)

    def _handle_verdict(self, question: Question, *, passes: bool) -> None:
        if question is self._by_host:
            self._host_passes = passes
        elif question is self._by_port:
            self._port_passes = passes
        match self._host_passes, self._port_passes:
            case True, _:
                self._end(Filtering.ENDPOINT_INDEPENDENT)
            case False, True:
                self._end(Filtering.ADDRESS_DEPENDENT)
            case False, False:
                self._end(Filtering.ADDRESS_AND_PORT_DEPENDENT)
            case None, _ if self._by_host is not None:
                pass  # what the other port says does not settle it
            case None, True:
                self._end(Filtering.NOT_PORT_DEPENDENT)
            case None, False:
                self._end(Filtering.ADDRESS_AND_PORT_DEPENDENT)

    def _end(self, filtering: Filtering) -> None:
        if not self._is_over:
            self._is_over = True
            self._events.append(FilteringFound(filtering))
