"""What a connection tells the program that drives it."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.core.address import Address


@dataclass(frozen=True, slots=True)
class Closed:
    """No record will be sent or received any more; those already received can still be polled."""

    exit_code: int
    reason: str
    by_peer: bool


@dataclass(frozen=True, slots=True)
class IdleTimedOut:
    """Nothing genuine was heard from the peer for the idle time-out. The connection is over."""

    silence: float  # seconds


@dataclass(frozen=True, slots=True)
class PathMtuChanged:
    """Datagrams now carry `size` bytes of UDP payload."""

    size: int


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """The peer's packets came from another address, which answered: it is the peer's from now on."""

    address: Address


Event = Closed | IdleTimedOut | PathMtuChanged | PeerMoved


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a connection. Times in seconds, sizes in bytes of UDP payload unless said otherwise."""

    smoothed_rtt: float
    min_rtt: float
    rtt_variance: float
    congestion_window: int
    bytes_in_flight: int
    pacing_rate: float  # bytes a second
    datagram_size: int
    bytes_sent: int
    bytes_acked: int
    bytes_lost: int
    bytes_retransmitted: int  # of ciphertext
    packets_sent: int
    packets_dropped: int  # received ones that were not genuine, not well-formed, or from elsewhere
    records_sent: int
    records_delivered: int
    records_received: int
    records_failed: int  # received ones whose tag was wrong
    is_sealing_segments: bool
