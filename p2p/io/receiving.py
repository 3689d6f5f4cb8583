"""The receiving end of a transfer: what arrives goes to the disk, beside a loop that never waits for it."""

from __future__ import annotations

import selectors

from p2p.core.peer.peer import Peer
from p2p.core.transfer.messages import Offer
from p2p.core.transfer.receiver import TransferReceiver
from p2p.io.destination import Destination, Policy
from p2p.io.journal import Journals
from p2p.io.sources import PathLike


class ReceivingEnd:
    """Takes the actions of `machine`, and tells it what became of them."""

    def __init__(
        self, directory: PathLike, policy: Policy, journals: Journals | None, selector: selectors.BaseSelector
    ) -> None:
        """Raises StorageError: nothing can be written there."""
        self.machine = TransferReceiver()
        self.destination = Destination(directory, policy=policy)
        self.checked = (0, 0)
        """Bytes of what is here that were compared, and that are to be compared."""

    def handle_offer(self, offer: Offer) -> None:
        """Raises StorageError for what cannot fit. To be called before the person is asked."""
        raise NotImplementedError

    def accept(self, offer: Offer, peer: Peer, now: float) -> None:
        """Says yes, and opens the journal of the offer."""
        raise NotImplementedError

    def advance(self, peer: Peer, now: float) -> bool:
        """Once a turn of the loop. Returns False: nothing is produced for the path but answers."""
        raise NotImplementedError

    def close(self) -> None:
        """Removes what is unfinished, unless a journal names it."""
        raise NotImplementedError
