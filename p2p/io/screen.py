"""What the person reads: talk and progress on stderr. With --json programs read the events on stdout."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2p.core.introduction import Nameplate
from p2p.core.peer import events
from p2p.core.role import Role
from p2p.core.text import escape
from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Entry
from p2p.core.transport.events import Stats
from p2p.io.event_lines import EventLines, Invitation, redirect_to_nowhere

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

RATE_WINDOW = 3.0  # seconds over which the rate is averaged
PLAIN_INTERVAL = 10.0  # seconds between two lines of progress where no bar can be drawn
SETTLING = 1.0  # seconds at 100 % after which we say what is still being waited for
SHOWN_FILES = 8  # files of an offer that are listed one by one


class Screen:
    """One of a run's two screens. `friend` is how the other side is called in sentences."""

    def __init__(
        self,
        role: Role,
        friend: str,
        invitation: Invitation,
        *,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        is_asked: bool,
    ) -> None:
        """`is_asked`: whether the person decides about the offer, and so has to see it however quiet we are."""
        self._role = role
        self._friend = friend
        self._invitation = invitation
        self._lines = EventLines(invitation) if as_json else None
        self._quiet = quiet
        self._verbose = verbose
        self._is_asked = is_asked
        self._has_bar = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._has_server = True
        self._total = 0
        self._saved = 0  # files
        self._rate = Rate()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._next_plain = 0.0
        self._started: float | None = None
        self._path: events.PathChosen | None = None
        self._complete_at: float | None = None
        self._transport: Stats | None = None

    @property
    def output_is_gone(self) -> bool:
        """Whether stdout takes no more events: whoever read them has gone, or its disk is full."""
        return self._lines is not None and self._lines.are_lost

    def say(self, text: str) -> None:
        if not self._quiet:
            self._print(text)

    def ask(self, question: str) -> None:
        """Leaves the cursor behind the question."""
        self._print(question, end="")

    def handle_event(self, event: events.PeerEvent, now: float) -> None:
        if self._lines is not None:
            self._lines.write(event, self._total, self._elapsed(now), self._transport)
        match event:
            case events.ServerSilent(seconds, ever, refused):
                self._say_silent(seconds, ever, refused)
            case events.ServerAnswering():
                self.say("The server answers again.")
            case events.WaitingForPeer(pairing, mapped):
                self._invite(pairing.text if isinstance(pairing, Nameplate) else None, has_server=mapped is not None)
                if mapped is not None:
                    self.note(f"this machine is seen by the server as {mapped}")
            case events.SeatTaken():
                self.say(
                    "Somebody is already there in our place (an earlier run that was cut off, perhaps). "
                    "Asking again for up to 17 seconds ..."
                )
            case events.PeerFound():
                self.say(f"{self._friend} is there. Agreeing on keys ...")
            case events.PeerGone():
                self.say(f"{self._friend} went away again. Still waiting ...")
            case events.PeerSilent(seconds):
                self.say(
                    f"{self._friend} is there, but has not answered for {seconds:.0f} seconds. Still trying ..."
                )
            case events.CodeRejected(tries, limit):
                self.say(f"Somebody tried a wrong code ({tries} of {limit} tries used up). Still waiting ...")
            case events.Connecting(verification):
                self._say_connecting(verification)
            case events.PathChosen(_, address, _, description):
                self._path = event
                self.say(f"Connected: {description}.")
                self.note(f"the other end is {address}")
            case events.PathMoved(address):
                self.say(f"{self._friend} is at another address now ({address}). Going on ...")
            case events.OfferSent():
                self.say(f"Asking {self._friend} to accept ...")
            case events.Offered(entries, total):
                self._list(entries, total)
            case events.TransferStarted():
                self._start(now)
            case events.FileDone(entry, digest, saved_as):
                self._say_file(entry.name, digest, saved_as)
            case events.Done(digest):
                self._finish(digest, now)
            case events.Failed(failure):
                self.stop()
                self._print(failure.message + ("" if failure.message.endswith((".", "!")) else "."))

    def tick(self, progress: Progress, now: float) -> None:
        """Shows how far it is; called ten times a second."""
        if self._started is None:
            return
        self._rate.add(now, progress.done)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress.done)
        elif now >= self._next_plain and progress.done < progress.total:
            self._next_plain = now + PLAIN_INTERVAL
            self.say(f"  {_line(progress, self._rate.bytes_per_second)}")
        if progress.done < progress.total:
            self._complete_at = None
        elif self._complete_at is None:
            self._complete_at = now
        elif now >= self._complete_at + SETTLING:
            self._complete_at = now + 1e9  # once is enough
            whose = "the other side's" if self._role is Role.SENDER else "this machine's"
            self.say(f"Everything is across; waiting until it is safe on {whose} disk ...")
        if self._lines is not None:
            self._lines.tick(progress, self._rate.bytes_per_second, now)

    def stop(self) -> None:
        """Takes the progress bar away."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
            self._bar = None
        self._started = None

    def prepare(self, total: int) -> None:
        self._total = total

    def note_transport(self, stats: Stats) -> None:
        """What the reliable UDP saw of the network, for the last event of --json."""
        self._transport = stats

    def show_transport(self, stats: Stats) -> None:
        """With --verbose: what the reliable UDP saw of the network."""
        share = stats.bytes_retransmitted / max(stats.bytes_sent, 1)
        self.note(
            f"RTT {stats.smoothed_rtt * 1000:.1f} ms (least {stats.min_rtt * 1000:.1f}), "
            f"datagrams of {stats.datagram_size} B, {stats.packets_sent} sent, {share:.2%} retransmitted"
        )

    # sentences

    def _say_silent(self, seconds: float, ever: bool, refused: bool) -> None:
        if refused:
            self.say("Nobody listens at the server's port. Trying again ...")
        elif ever:
            self.say(f"The server has not answered for {seconds:.0f} seconds. Still trying ...")
        else:
            self.say("The server does not answer yet. Still trying ...")

    def _invite(self, nameplate: str | None, *, has_server: bool) -> None:
        self._has_server = has_server
        command, code = self._invitation(nameplate)
        network = "" if has_server else " (on this network)"
        if self._role is Role.SENDER:
            self._say_needed(f"On {self._friend}'s machine{network}, run:\n\n    {command}\n")
            if code:
                self._say_needed(f"and give {self._friend} this code when it asks:  {code}\n")
        where = "" if has_server else " on this network, without a server"
        self.say(f"Waiting for {self._friend}{where} (Ctrl-C stops) ...")

    def _say_connecting(self, verification: str | None) -> None:
        if verification is not None:
            self._say_needed(
                "WARNING: without a code nothing proves who the other side is. "
                f"Both screens must show the same words:  {verification}"
            )
        else:
            self.say(f"The code is right: it is {self._friend}.")
        everywhere = "a direct path (same network first, then through both routers)"
        self.say(f"Looking for {everywhere if self._has_server else 'a path on this network'} ...")

    def _list(self, entries: Sequence[Entry], total: int) -> None:
        say = self._print if self._is_asked else self.say
        for entry in entries[:SHOWN_FILES]:
            say(f"  {escape(entry.name)}  ({size(entry.size)})")
        if len(entries) > SHOWN_FILES:
            say(f"  and {len(entries) - SHOWN_FILES} more")
        say(f"{self._friend} wants to send {_files(len(entries))}, {size(total)}.")
        self._total = total

    def _start(self, now: float) -> None:
        self._started = now
        self._rate = Rate()
        if self._role is Role.SENDER:
            self.say(f"{self._friend} accepted.")
        self._next_plain = now + PLAIN_INTERVAL
        if self._has_bar and not self._quiet:
            self._bar = _new_bar()
            self._task = self._bar.add_task("", total=max(self._total, 1))
            self._bar.start()

    def _say_file(self, name: str, digest: bytes, saved_as: str | None) -> None:
        if saved_as is not None:
            self._saved += 1
            renamed = f" (a file {escape(name)} was there already)" if saved_as != name else ""
            if renamed or self._saved <= SHOWN_FILES:
                self.say(f"Saved {escape(saved_as)}{renamed}")
        self.note(f"{escape(name)}: blake3 {digest.hex()}")

    def _finish(self, digest: bytes, now: float) -> None:
        seconds = max(self._elapsed(now), 1e-3)
        self.stop()
        verb, end = ("Sent", "verified by the other side") if self._role is Role.SENDER else ("Received", "verified")
        path = self._path.description.partition(" (")[0] if self._path else ""
        if self._saved > SHOWN_FILES:
            self.say(f"Saved {_files(self._saved)}.")
        self.say(f"{verb} {size(self._total)} in {seconds:.1f} s ({rate(self._total / seconds)}) by {path}; {end}.")
        self.say(f"blake3 {digest.hex()}")

    def _elapsed(self, now: float) -> float:
        """Seconds since the receiver said yes."""
        return now - self._started if self._started is not None else 0.0

    def note(self, text: str) -> None:
        if self._verbose:
            self.say(f"  {text}")

    def _say_needed(self, text: str) -> None:
        """Without it the two persons cannot go on, or would trust too much; --json says it on stdout."""
        if self._lines is None:
            self._print(text)
        else:
            self.say(text)

    def _print(self, text: str, end: str = "\n") -> None:
        try:
            if self._bar is not None:
                self._bar.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True, end=end)
            else:
                print(text, end=end, file=sys.stderr, flush=True)
        except OSError:  # the terminal or the reader of a pipe is gone; that is no reason to end a transfer
            redirect_to_nowhere(sys.stderr)

class Rate:
    """Bytes per second over the last few seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        self._samples.append((now, done))
        while self._samples[0][0] < now - RATE_WINDOW and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def bytes_per_second(self) -> float:
        if len(self._samples) < 2:
            return 0.0
        (first, from_done), (last, to_done) = self._samples[0], self._samples[-1]
        return (to_done - from_done) / (last - first) if last > first else 0.0


def size(count: int) -> str:
    """Decimal units, as rates have them: 1.5 MB."""
    if count < 1000:
        return f"{count} B"
    units = ("kB", "MB", "GB", "TB", "PB")
    power = next((p for p in range(1, len(units)) if count / 1000**p < 999.5), len(units))
    return f"{count / 1000**power:.3g} {units[power - 1]}"


def rate(bytes_per_second: float) -> str:
    return f"{size(round(bytes_per_second))}/s"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _line(progress: Progress, bytes_per_second: float) -> str:
    left = (progress.total - progress.done) / bytes_per_second if bytes_per_second else None
    when = f"{left:.0f} s left" if left is not None else "nothing moves"
    share = f"{100 * progress.done // progress.total} %"
    return f"{share}, {size(progress.done)} of {size(progress.total)}, {rate(bytes_per_second)}, {when}"


def _new_bar() -> Bar:
    """Imported here, because a run that fails early, or has no terminal, need not wait for it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # rich would send the events of --json to stderr
        redirect_stderr=False,
    )
