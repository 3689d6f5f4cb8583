"""What one run is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from p2p.core.address import Address
from p2p.core.introduction import Pairing
from p2p.core.peer.rejoin import Rejoin
from p2p.core.role import Role
from p2p.core.transport.idle import IDLE_TIMEOUT


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """What one run needs to know. `servers`: the addresses of the server's first port, in the order in
    which to try them; candidates are our own host addresses.

    `next_pairing(n)` gives what to join for the n-th attempt; names give the same each time.
    Without a server the other side is looked for on this network; `udp_port` is that of our UDP socket.
    `scratch`: numbers of fresh sockets and the ports that they are bound to. `stun_servers`: others to ask as well.

    `secret` None means --no-code. `is_contact`: it is no code, but what two who remember each other have in common; a
    meeting after a path was lost is none of a contact. `receive_window` counts records of 62 KiB.
    `tries`: wrong codes that were tried before, against the same secret.
    `takes_relay`: whether the server may forward what finds no direct path.
    `rate_limit`: bytes a second that we send at most, on any path; the other side may ask for less.
    `idle_timeout`: seconds of silence on the path after which the other side is given up.

    `seat`: the secret that owns our seat at the server, where it is to be that of another meeting too; `former`: the
    tag of the other side's run that is not the one to be met. `rejoin`: by what this meeting goes, if it is one after a
    path was lost.
    """

    role: Role
    servers: Sequence[Address]
    next_pairing: Callable[[int], Pairing]
    secret: bytes | None
    udp_candidates: Sequence[Address]
    tcp_candidates: Sequence[Address]
    udp_port: int = 0
    scratch: Mapping[int, int] = field(default_factory=dict)
    stun_servers: Sequence[Address] = ()
    takes_relay: bool = True
    tries: int = 0
    receive_window: int = 512
    idle_timeout: float = IDLE_TIMEOUT
    rate_limit: float = math.inf
    is_contact: bool = False
    seat: bytes | None = None
    former: bytes | None = None
    rejoin: Rejoin | None = None
