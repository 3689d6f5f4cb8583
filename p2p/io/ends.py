"""What the run needs of the two ends of a transfer on this machine: files that are read, files that are written."""

from __future__ import annotations

from typing import Protocol

from p2p.core.errors import ExitCode, Failure
from p2p.core.peer.peer import Peer
from p2p.core.transfer.messages import Offer
from p2p.core.transfer.receiver import TransferReceiver


class End(Protocol):
    """What the loop does with files, once a turn. It outlives the path, and so the peer."""

    def advance(self, peer: Peer, now: float) -> bool:
        """Returns whether it produced something for the path to carry."""

    def close(self) -> None: ...


class Taking(End, Protocol):
    """A receiver's. The machine is the transfer itself."""

    machine: TransferReceiver

    def handle_offer(self, offer: Offer) -> None:
        """Raises StorageError or PipeError, before the person is asked, where the offer cannot be taken."""

    def accept(self, offer: Offer, peer: Peer, now: float) -> None:
        """Says yes."""


class NoEnd:
    """A receiver that has no place to put anything, and says so to whoever comes."""

    def __init__(self) -> None:
        self.machine = TransferReceiver()

    def advance(self, peer: Peer, now: float) -> bool:  # noqa: ARG002
        return False

    def handle_offer(self, offer: Offer) -> None: ...

    def accept(self, offer: Offer, peer: Peer, now: float) -> None: ...

    def close(self) -> None: ...


SAID_NO = Failure(ExitCode.REFUSED, "Refused, as you said. Nothing was written")
