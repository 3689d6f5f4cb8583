"""The events of --json: one a line on stdout, for programs (docs/json.md)."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Protocol, TextIO

from p2p.core.calling import PEER_PROGRAM, spoken
from p2p.core.errors import Failure
from p2p.core.introduction import Nameplate
from p2p.core.peer import events
from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Offer
from p2p.core.transport.events import Stats
from p2p.io.sending.walk import Renamed
from p2p.io.terminal.summary import is_renamed

PROGRESS_INTERVAL = 1.0  # seconds between two progress events

_NAMES = {
    events.ServerAnswering: "server_answering",
    events.SeatTaken: "seat_taken",
    events.PeerFound: "peer_found",
    events.PeerGone: "peer_gone",
    events.OfferSent: "offer_sent",
    events.PeerRestarted: "peer_restarted",
}


class Invitation(Protocol):
    """Builds what the person on the other machine has to type, once the pairing is known."""

    def __call__(self, nameplate: str | None) -> tuple[str, str | None]:
        """Returns the command, and the code that is to be told beside it (None: it is in the command)."""


class EventLines:
    """Writes them; `are_lost` tells that stdout takes no more: whoever read it has gone, or its disk is full."""

    def __init__(self, invitation: Invitation, program: str = PEER_PROGRAM) -> None:
        """`program`: how it was called here."""
        self._invitation = invitation
        self._program = program
        self._next_progress = 0.0
        self.are_lost = False

    def write(self, event: events.PeerEvent) -> None:
        """Done has a method of its own."""
        match event:
            case events.FileDone(path, size, digest, saved_as, kept):
                done = {"path": path, "size": size, "blake3": digest.hex(), "saved_as": saved_as, "kept": kept}
                self._write({"event": "file", **done}, flush=False)  # thousands a second; a tick flushes them
                if is_renamed(event):
                    self._write({"event": "renamed", "path": path, "saved_as": saved_as}, flush=False)
            case events.WaitingForPeer(pairing, mapped):
                command, code = self._invitation(pairing.text if isinstance(pairing, Nameplate) else None)
                seen_as = None if mapped is None else str(mapped)
                self._write({"event": "waiting", "command": command, "code": code, "mapped": seen_as})
            case events.ServerSilent(silence, _, refused):
                self._write({"event": "server_silent", "seconds": silence, "refused": refused})
            case events.PeerSilent(silence):
                self._write({"event": "peer_silent", "seconds": silence})
            case events.CodeRejected(tries, limit):
                self._write({"event": "code_rejected", "tries": tries, "limit": limit})
            case events.Connecting(verification):
                self._write({"event": "connecting", "verification": verification})
            case events.PathChosen(kind, address, rtt, description):
                chosen = {"kind": kind.value, "address": str(address), "rtt": rtt, "description": description}
                self._write({"event": "path", **chosen})
            case events.PathMoved(address):
                self._write({"event": "moved", "address": str(address)})
            case events.PathLost(why):
                self._write({"event": "path_lost", "why": why})
            case events.Offered(offer):
                self._write({"event": "offer", **_offer(offer)})
            case events.TransferStarted(goes_on):
                self._write({"event": "started", "goes_on": goes_on})
            case events.Renamed(path, saved_as):
                self._write({"event": "renamed", "path": path, "saved_as": saved_as}, flush=False)
            case events.NotTransferred(path, reason, code, by_peer):
                problem = {"path": path, "reason": reason, "code": int(code), "by_peer": by_peer}
                self._write({"event": "problem", **problem}, flush=False)
            case events.ContactRemembered():
                self._write({"event": "remembered"})
            case events.ContactNotRemembered(why, by_peer):
                self._write({"event": "not_remembered", "why": why.name.lower(), "by_peer": by_peer})
            case events.Failed(failure):
                self._write({"event": "failed", **self._message(failure)})
            case events.ContactHeard():
                pass  # what becomes of it is told
            case events.Done():
                raise TypeError("write_done is for that one")
            case _:
                self._write({"event": _NAMES[type(event)]})

    def write_done(
        self, done: events.Done, progress: Progress, problems: int, seconds: float, transport: Stats | None
    ) -> None:
        """`seconds` since the receiver said yes; `transport`: what the UDP path saw."""
        counts = {"total": progress.done, "files": progress.files, "kept": progress.kept, "problems": problems}
        end = {"blake3": done.digest.hex(), **counts, "code": int(done.exit_code), "seconds": round(seconds, 3)}
        self._write({"event": "done", **end, "transport": _transport(transport)})

    def write_refused(self, failure: Failure) -> None:
        """The other side said no or left, and this one waits again."""
        self._write({"event": "refused", **self._message(failure)})

    def write_text(self, text: str) -> None:
        self._write({"event": "text", "text": text})

    def tick(self, progress: Progress, bytes_per_second: float, now: float) -> None:
        """Sends off what waits, and says now and then how far it is."""
        try:
            sys.stdout.flush()
        except OSError:
            self._lose_output()
        if progress.done and now >= self._next_progress:
            self._next_progress = now + PROGRESS_INTERVAL
            counts = {"bytes": progress.done, "total": progress.total, "kept": progress.kept}
            files = {"files": progress.files, "files_total": progress.files_total}
            rate = round(bytes_per_second)
            self._write({"event": "progress", **counts, **files, "rate": rate, "path": progress.path})

    def write_repaired(self, notes: Sequence[Renamed]) -> None:
        """Names that could not be sent as they are."""
        for note in notes:
            self._write({"event": "renamed", "path": note.path, "saved_as": note.sent_as})

    def _write(self, event: dict[str, object], *, flush: bool = True) -> None:
        try:
            print_event(event, flush=flush)
        except OSError:
            self._lose_output()

    def _message(self, failure: Failure) -> dict[str, object]:
        return {"code": int(failure.code), "message": spoken(failure.message, self._program)}

    def _lose_output(self) -> None:
        self.are_lost = True
        redirect_to_nowhere(sys.stdout)


def print_event(event: dict[str, object], *, flush: bool = True) -> None:
    """Raises OSError."""
    print(json.dumps(event), flush=flush)


def _offer(offer: Offer) -> dict[str, object]:
    roots = [{"name": root.name, "kind": root.kind.name.lower(), "size": root.size} for root in offer.shown]
    totals = offer.totals
    counts = {"files": totals.files, "total": totals.size, "counted": totals.is_final}
    return {"kind": offer.kind.name.lower(), "roots": roots, "roots_total": offer.roots, **counts}


def _transport(stats: Stats | None) -> dict[str, object] | None:
    if stats is None:
        return None
    return {
        "rtt": stats.smoothed_rtt,
        "min_rtt": stats.min_rtt,
        "datagram": stats.datagram_size,
        "packets_sent": stats.packets_sent,
        "bytes_sent": stats.bytes_sent,
        "bytes_retransmitted": stats.bytes_retransmitted,
    }


def redirect_to_nowhere(stream: TextIO) -> None:
    """So that what is still in the stream's buffer does not fail once more when the program ends."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
