"""What a congestion controller sees and says; the one in use is p2p.core.transport.bbr."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AckSample:
    """What one ACK frame taught. Sizes in bytes of UDP payload, times in seconds.

    The rate sample follows draft-ietf-ccwg-bbr section 4.1.2 (delivery rate sampling): it spans the flight that
    ended with the newest packet acknowledged.
    """

    now: float
    bytes_acked: int
    rtt: float | None  # latest_rtt; None when this ACK gave no sample
    min_rtt: float
    smoothed_rtt: float
    bytes_in_flight: int  # after this ACK
    largest_acked: int  # packet number
    sent_at: float  # when the newest packet acknowledged was sent
    delivered: int  # bytes acknowledged in the life of the connection
    delivered_at_send: int  # the same when that packet was sent: tells rounds apart
    in_flight_at_send: int  # bytes in flight when that packet was sent
    lost_since_send: int  # bytes declared lost since then
    delivery_rate: float | None  # bytes a second
    app_limited: bool  # the sender had less to send than the window allowed: rate and window say nothing about the path


class CongestionController(Protocol):
    """Decides how much may be in flight and how fast it leaves. Path probes never reach it."""

    @property
    def window(self) -> int:
        """Congestion window in bytes."""
        ...

    def pacing_rate(self, smoothed_rtt: float) -> float:
        """Bytes a second."""
        ...

    def on_packets_sent(self, now: float, size: int, last_packet_number: int, bytes_in_flight: int) -> None:
        """`size` bytes left as one burst ending with `last_packet_number`; `bytes_in_flight` counts them."""
        ...

    def on_ack(self, sample: AckSample) -> None: ...

    def on_congestion_event(self, now: float, sent_at: float, bytes_lost: int, bytes_in_flight: int) -> None:
        """Bytes were declared lost, the newest of them sent at `sent_at`."""
        ...

    def on_persistent_congestion(self, now: float) -> None: ...

    def on_spurious_congestion_event(self, now: float) -> None:
        """Everything declared lost since the last congestion event began has arrived after all."""
        ...

    def on_reordering(self, now: float) -> None:
        """Packets overtake each other: round trips measured so far may be those of the quick ones."""

    def on_datagram_size(self, size: int) -> None:
        """The path MTU search changed the size of datagrams."""
        ...


# Makes one for datagrams of so many bytes. A new one begins when what the old one learnt says nothing any more.
NewController = Callable[[int], CongestionController]
