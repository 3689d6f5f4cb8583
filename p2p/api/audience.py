"""What happens in a transfer, passed on to the callbacks of a program, and kept for its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from p2p.api.caller import Caller, Latest
from p2p.api.events import Event, Note
from p2p.api.results import MAX_FILES, File, Missed, Offer, Offered, Progress, Result
from p2p.core.calling import as_parameters
from p2p.core.introduction import Nameplate, Pairing
from p2p.core.peer import events
from p2p.core.transfer import events as transfer
from p2p.core.transfer import messages
from p2p.core.transport.events import Stats
from p2p.io.terminal.status_line import Rate
from p2p.io.terminal.summary import is_passed_on

OnCode = Callable[[str], object]
OnEvent = Callable[[Event], object]
OnProgress = Callable[[Progress], object]


class Audience:
    """Watches a crossing. `result` is there when it is done."""

    output_is_gone = False
    shows_waiting = False

    def __init__(
        self,
        caller: Caller,
        *,
        on_code: OnCode | None = None,
        on_event: OnEvent | None = None,
        on_progress: OnProgress | None = None,
        secret: str | None = None,
        out: Path | None = None,
    ) -> None:
        """`secret`: that of a code that was made here, which `on_code` is to hear. `out`: the folder at a receiver."""
        self._caller = caller
        self._on_code = on_code
        self._on_event = on_event
        self._on_progress = Latest(caller, on_progress) if on_progress is not None else None
        self._secret = secret
        self._out = out
        self._code: str | None = None  # the one that was told last
        self._files: list[events.FileDone] = []
        self._renamed: dict[str, str] = {}
        self._missed: list[Missed] = []  # MAX_LISTED of them are told at most
        self._route: events.PathChosen | None = None
        self._started: float | None = None
        self._rate = Rate()
        self.is_reconnecting = False
        self.text: str | None = None
        self.result: Result | None = None

    def handle_event(self, event: events.PeerEvent, now: float, progress: transfer.Progress | None = None) -> None:
        if self.is_reconnecting and isinstance(event, events.OfAMeeting):
            return
        match event:
            case events.WaitingForPeer(pairing):
                self._tell_code(pairing)
            case events.PathChosen():
                self._route = event
            case events.PeerRestarted():
                self._files, self._renamed, self._missed = [], {}, []
            case events.TransferStarted() if self._started is None:
                self._started = now
            case events.FileDone() if len(self._files) < MAX_FILES:
                self._files.append(event)
            case events.Renamed(path, saved_as) if len(self._renamed) < MAX_FILES:
                self._renamed[path] = saved_as
            case events.NotTransferred(path, reason, code, by_peer):
                self._missed.append(Missed(path, reason, code, by_peer))
            case _:
                pass
        match event:
            case events.Done() if progress is not None:
                self.tick(progress, (0, 0), now)
                self._finish(event, progress, now)
            case events.Done() | events.Failed() | events.ContactHeard():
                pass  # how it ends is returned or raised
            case events.Offered(offer):
                self._tell(Offered(offer_of(offer)))
            case _:
                self._tell(event)

    def say(self, text: str) -> None:
        self._tell(Note(as_parameters(text)))

    def note(self, text: str) -> None: ...

    def note_transport(self, stats: Stats) -> None: ...

    def show_transport(self, stats: Stats) -> None: ...

    def show_looking(self, left: float, now: float) -> None: ...

    def tick(self, progress: transfer.Progress, checked: tuple[int, int], now: float) -> None:
        if self._on_progress is None or self._started is None:
            return
        self._rate.add(now, progress.crossed)
        self._on_progress.put(
            Progress(
                progress.done,
                progress.total,
                progress.kept,
                progress.files,
                progress.files_total,
                progress.is_final,
                self._rate.bytes_per_second,
                progress.path,
                *checked,
            )
        )

    def take_text(self, text: str) -> None:
        self.text = text

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._caller.call(self._on_event, event)

    def _tell_code(self, pairing: Pairing) -> None:
        if self._secret is None or self._on_code is None:
            return
        code = f"{pairing.text}-{self._secret}" if isinstance(pairing, Nameplate) else self._secret
        if code != self._code:
            self._code = code
            self._caller.call(self._on_code, code)

    def _finish(self, done: events.Done, progress: transfer.Progress, now: float) -> None:
        self.result = Result(
            files=tuple(map(self._file, self._files)),
            files_count=progress.files,
            missed=tuple(self._missed),
            missed_count=max(done.missed, len(self._missed)),
            size=progress.done,
            kept=progress.kept,
            seconds=now - self._started if self._started is not None else 0.0,
            blake3=done.digest.hex(),
            route=self._route,
            text=self.text,
        )

    def _file(self, done: events.FileDone) -> File:
        return File(done.path, done.size, done.digest.hex(), self._place(done), done.kept)

    def _place(self, done: events.FileDone) -> Path | None:
        """Folders above it may have other names here than they had there, which are known when they are complete."""
        if self._out is None or done.saved_as is None or is_passed_on(done):
            return None
        place, path = self._out, ""
        for name in done.path.split("/")[:-1]:
            path = f"{path}/{name}" if path else name
            place /= self._renamed.get(path, name)
        return place / done.saved_as


def offer_of(offer: messages.Offer) -> Offer:
    totals = offer.totals
    names = tuple(root.name for root in offer.shown)
    return Offer(offer.kind.name.lower(), names, offer.roots, totals.files, totals.size, totals.is_final)
