"""The receiving end as the options want it: a folder, standard output, or the screen for a text."""

from __future__ import annotations

import selectors
from collections.abc import Callable

from p2p.core.calling import option
from p2p.core.errors import Failure
from p2p.core.peer.peer import Peer
from p2p.core.text import escape
from p2p.core.transfer.messages import Offer, OfferKind
from p2p.io.ends import NoEnd, Taking
from p2p.io.plan import PIPE
from p2p.io.receiving.destination import Policy
from p2p.io.receiving.end import ReceivingEnd
from p2p.io.receiving.journal import Journals
from p2p.io.receiving.outlets import StdoutEnd, TextEnd, WriteSome
from p2p.io.receiving.storage_errors import StorageError
from p2p.io.sending.pipes import PipeError


class TakingEnd:
    """Only the offer says whether it is a text, so the end is chosen then; the machine is one and the same.

    `refusal` is set where nothing can be received: who comes is told so.
    """

    def __init__(
        self,
        out: str,
        policy: str,
        journals: Journals | None,
        selector: selectors.BaseSelector,
        on_text: Callable[[str], None],
        *,
        write: WriteSome | None = None,
    ) -> None:
        """`write`: takes the content of the one file, instead of a folder (see StdoutEnd)."""
        self.refusal: Failure | None = None
        self._told = ""
        self._on_text = on_text
        self._journals = journals
        self._end: Taking
        self._text: TextEnd | None = None
        try:
            if write is not None:
                self._end = StdoutEnd(selector, name="the stream", write=write)
            elif out == PIPE:
                self._end = StdoutEnd(selector)
            else:
                self._end = ReceivingEnd(out, Policy[policy.upper()], journals, selector)
        except StorageError as error:
            self.refusal, self._told = error.failure, error.public
            self._end = NoEnd()
        self.machine = self._end.machine

    @property
    def checked(self) -> tuple[int, int]:
        """Bytes compared so far, and bytes to compare, of what an earlier run left here."""
        return self._end.checked if isinstance(self._end, ReceivingEnd) else (0, 0)

    @property
    def reread(self) -> tuple[int, int]:
        """Bytes read once more so far, and bytes to be read so, of files of which something was kept."""
        return self._end.reread if isinstance(self._end, ReceivingEnd) else (0, 0)

    @property
    def regret(self) -> str | None:
        """What a person has to know after a run that failed."""
        return self._end.regret if isinstance(self._end, StdoutEnd) else None

    @property
    def remains(self) -> str | None:
        """What lies here after a run that did not get everything, and what to do with it. Known once it is closed."""
        if not isinstance(self._end, ReceivingEnd) or not self._end.is_left:
            return None
        if self.machine.is_finished:
            return (
                "The same two commands again send only what is missing, once it can be read and stored; "
                f"{option('recv --discard')} forgets that"
            )
        return (
            f"What has arrived stays in {escape(self._end.destination.path)}: the same two commands go on with it, "
            f"and {option('recv --discard')} with the same {option('--out')} takes away what is unfinished"
        )

    def take_notes(self) -> list[str]:
        """Why what an earlier run left, or what this one leaves, cannot be gone on with."""
        notes: list[str] = []
        if self._journals is not None:
            notes, self._journals.notes = self._journals.notes, notes
        if isinstance(self._end, ReceivingEnd) and self._end.note is not None:
            notes.append(self._end.note)
        return notes

    def handle_offer(self, offer: Offer) -> tuple[Failure, str] | None:
        """Why it cannot be taken: for the person here, and for the other side."""
        if self.refusal is not None:
            return self.refusal, self._told
        if offer.kind is OfferKind.TEXT and isinstance(self._end, ReceivingEnd):
            self._text = TextEnd(self._on_text, self.machine)
        try:
            self._chosen.handle_offer(offer)
        except (StorageError, PipeError) as error:
            return error.failure, error.public
        return None

    def accept(self, offer: Offer, peer: Peer, now: float) -> None:
        self._chosen.accept(offer, peer, now)

    def advance(self, peer: Peer, now: float) -> bool:
        return self._chosen.advance(peer, now)

    def close(self) -> None:
        self._end.close()

    @property
    def _chosen(self) -> Taking:
        return self._text or self._end
