"""The events of --json: one a line on stdout, for programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Protocol, TextIO

from p2p.core.introduction import Nameplate
from p2p.core.peer import events
from p2p.core.transfer.events import Progress
from p2p.core.transport.events import Stats

PROGRESS_INTERVAL = 1.0  # seconds between two progress events

_NAMES = {
    events.ServerAnswering: "server_answering",
    events.SeatTaken: "seat_taken",
    events.PeerFound: "peer_found",
    events.PeerGone: "peer_gone",
    events.OfferSent: "offer_sent",
    events.TransferStarted: "started",
}


class Invitation(Protocol):
    """Builds what the person on the other machine has to type, once the pairing is known."""

    def __call__(self, nameplate: str | None) -> tuple[str, str | None]:
        """Returns the command, and the code that is to be told beside it (None: it is in the command)."""


class EventLines:
    """Writes them; `are_lost` tells that stdout takes no more: whoever read it has gone, or its disk is full."""

    def __init__(self, invitation: Invitation) -> None:
        self._invitation = invitation
        self._next_progress = 0.0
        self.are_lost = False

    def write(self, event: events.PeerEvent, total: int, seconds: float, transport: Stats | None) -> None:
        """The last three stand in the event `done`: bytes, time since the receiver said yes, what the UDP path saw."""
        match event:
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
                path = {"kind": kind.value, "address": str(address), "rtt": rtt, "description": description}
                self._write({"event": "path", **path})
            case events.PathMoved(address):
                self._write({"event": "moved", "address": str(address)})
            case events.Offered(entries, offered):
                files = [{"name": entry.name, "size": entry.size} for entry in entries]
                self._write({"event": "offer", "files": files, "total": offered})
            case events.FileDone(entry, digest, saved_as):
                done = {"name": entry.name, "size": entry.size, "blake3": digest.hex(), "saved_as": saved_as}
                self._write({"event": "file", **done}, flush=False)  # thousands a second; a tick flushes them
            case events.Done(digest):
                done = {"blake3": digest.hex(), "total": total, "seconds": round(seconds, 3)}
                self._write({"event": "done", **done, "transport": _transport(transport)})
            case events.Failed(failure):
                self._write({"event": "failed", "code": int(failure.code), "message": failure.message})
            case _:
                self._write({"event": _NAMES[type(event)]})

    def tick(self, progress: Progress, bytes_per_second: float, now: float) -> None:
        """Sends off what waits, and says now and then how far it is."""
        try:
            sys.stdout.flush()
        except OSError:
            self._lose_output()
        if progress.done and now >= self._next_progress:
            self._next_progress = now + PROGRESS_INTERVAL
            rate = round(bytes_per_second)
            self._write({"event": "progress", "bytes": progress.done, "total": progress.total, "rate": rate})

    def _write(self, event: dict[str, object], *, flush: bool = True) -> None:
        try:
            print(json.dumps(event), flush=flush)
        except OSError:
            self._lose_output()

    def _lose_output(self) -> None:
        self.are_lost = True
        redirect_to_nowhere(sys.stdout)


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
