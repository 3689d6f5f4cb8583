"""What the person reads: talk and progress on stderr. With --json programs read the events on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable

from p2p.core.calling import PEER_PROGRAM
from p2p.core.errors import Failure
from p2p.core.introduction import Nameplate
from p2p.core.peer import events
from p2p.core.role import Role
from p2p.core.text import escape
from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Offer, OfferKind, Totals
from p2p.core.transport.events import Stats
from p2p.io.receiving.outlets import printable
from p2p.io.terminal.awaited import SERVER, Awaited
from p2p.io.terminal.event_lines import EventLines, Invitation, redirect_to_nowhere
from p2p.io.terminal.offer_words import counts, everything, others, thing
from p2p.io.terminal.qr import lines_for
from p2p.io.terminal.status_line import Rate, plain_line
from p2p.io.terminal.summary import Repaired, Summary, is_passed_on, is_renamed
from p2p.io.terminal.talk import Talk
from p2p.io.terminal.words import UNNAMED, clock, duration, files, rate, size

PLAIN_INTERVAL = 10.0  # seconds between two lines of progress where no line can be written over
FIRST_PLAIN = 1.0  # seconds until the first of them
SETTLING = 1.0  # seconds at 100 % after which we say what is still being waited for
SHOWN_FILES = 8  # things of an offer, and files that were saved, that are listed one by one
NOTHING_YET = Progress(0, 0, 0, 0, 0, False, "")


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
        shows_qr: bool = False,
        program: str = PEER_PROGRAM,
    ) -> None:
        """`is_asked`: whether the person decides about the offer, and so has to see it however quiet we are.

        `shows_qr`: the other side's command as a picture too. `program`: how it was called here.
        """
        self._role = role
        self._friend = friend
        self._friend_first = friend.capitalize() if friend == UNNAMED else friend  # at the beginning of a sentence
        self._invitation = invitation
        self._lines = EventLines(invitation, program) if as_json else None
        self._quiet = quiet
        self.is_verbose = verbose
        self._is_asked = is_asked
        self._shows_qr = shows_qr
        self._talk = Talk(program, shows_line=not quiet)
        self._awaited = Awaited(role, friend)
        self._has_server = True
        self._question = ""
        self._path: events.PathChosen | None = None
        self._transport: Stats | None = None
        self.is_reconnecting = False
        """Whether the two look for each other again: how they do that is said in one line and not in ten."""
        self.begin()

    def begin(self, repaired: Callable[[], Repaired] = lambda: ((), 0)) -> None:
        """A transfer is ahead: nothing of an earlier one counts. `repaired`: names that cannot be sent as they are."""
        self._summary = Summary()
        self._repaired = repaired
        self._saved = self._said = 0  # files, and those of them that were named
        self._files = 0  # when it was looked at last
        self._rate = Rate()
        self._started: float | None = None
        self._next_plain = 0.0
        self._complete_at: float | None = None
        self._is_told_of_disk = False
        self._offered: Totals | None = None
        self._awaited.begin(SERVER)

    @property
    def shows_waiting(self) -> bool:
        """Whether it wants to be ticked before there is a path: a line can be written over."""
        return self._talk.has_line

    @property
    def output_is_gone(self) -> bool:
        """Whether stdout takes no more events: whoever read them has gone, or its disk is full."""
        return self._lines is not None and self._lines.are_lost

    def say(self, text: str) -> None:
        if not self._quiet:
            self._talk.print(text)

    def ask(self, question: str) -> None:
        """Leaves the cursor behind the question, which stands until `end_question`."""
        self._question = question
        self._talk.print(question, end="")

    def end_question(self, *, is_answered: bool) -> None:
        self._question = ""
        if not is_answered:
            self._talk.print("")

    def handle_event(self, event: events.PeerEvent, now: float, progress: Progress = NOTHING_YET) -> None:
        """`progress` is needed with Done alone."""
        if self.is_reconnecting and isinstance(event, events.OfAMeeting):
            return
        if isinstance(event, events.Done):
            self._finish(event, progress, now)
            return
        if self._lines is not None:
            self._lines.write(event)
        if not isinstance(event, events.FileDone):
            self._awaited.handle_event(event)
        match event:
            case events.FileDone():  # thousands a second
                self._say_file(event)
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
                self.say(f"{self._friend_first} is there. Agreeing on keys ...")
            case events.PeerGone():
                self.say(f"{self._friend_first} went away again. Still waiting ...")
            case events.PeerSilent(seconds):
                silent = f"has not answered for {seconds:.0f} seconds"
                self.say(f"{self._friend_first} is there, but {silent}. Still trying ...")
            case events.CodeRejected(_, _, True):
                self.say(f"Somebody came as {self._friend} without the remembered key. Still waiting ...")
            case events.CodeRejected(tries, limit):
                self.say(f"Somebody tried a wrong code ({tries} of {limit} tries used up). Still waiting ...")
            case events.Connecting(verification, is_contact):
                self._say_connecting(verification, is_contact=is_contact)
            case events.PathChosen(_, address, _, description):
                self._path = event
                self.say(f"Connected{' again' if self.is_reconnecting else ''}: {description}.")
                self.note(f"the other end is {address}")
            case events.PathMoved(address):
                self.say(f"{self._friend_first} is at another address now ({address}). Going on ...")
            case events.PathLost(why, is_open):
                self._talk.take_line_away()
                again = "start it" if is_open else "press Ctrl-C, and run both commands"
                command = " there with the same command" if is_open else ""
                self.say(
                    f"The connection was lost ({why}). Looking for {self._friend} again. "
                    f"If the program there has ended, {again} again{command} ..."
                )
            case events.PeerRestarted():
                self.stop()
                self.begin(self._repaired)
                self.say(f"{self._friend_first}'s program was started again. Going on with what has arrived ...")
            case events.OfferSent():
                self.say(f"Asking {self._friend} to accept ...")
            case events.Offered(offer):
                self._show_offer(offer)
            case events.TransferStarted(goes_on):
                self._start(now, goes_on=goes_on)
            case events.Renamed(path, saved_as):
                self._summary.add_renamed(path, saved_as)
            case events.NotTransferred():
                self._summary.add_problem(event)
            case events.Failed(failure):
                self.stop()
                self._say_summary()
                self._talk.print(_sentence(failure.message))

    def say_refused(self, failure: Failure, patience: float) -> None:
        """The other side said no, or left before anything was sent; we wait again for so many seconds."""
        self.stop()
        if self._lines is not None:
            self._lines.write_refused(failure)
        self.say(f"{_sentence(failure.message)} Waiting {duration(patience)} more, should it come again ...")

    def say_looked(self, failure: Failure) -> None:
        """We said no ourselves, because this is a dry run."""
        self.stop()
        if self._lines is not None:
            self._lines.write_refused(failure)
        self.say(_sentence(failure.message))

    def show_text(self, text: str) -> None:
        """What the other side wrote to us, on stdout."""
        self._talk.take_line_away()
        if self._lines is not None:
            self._lines.write_text(text)
            return
        try:
            print(printable(text), flush=True)
        except OSError:
            redirect_to_nowhere(sys.stdout)

    def tick(self, progress: Progress, checked: tuple[int, int], now: float, reread: tuple[int, int] = (0, 0)) -> None:
        """Shows how far it is; called ten times a second. `checked`: bytes compared here, and bytes to compare.

        `reread`: the same of what is kept here and is read once more in the end.
        """
        if self._started is None:
            self._recount(progress)
            self._show_waiting(now)
            return
        self._rate.add(now, progress.crossed)
        is_across = progress.total is not None and progress.is_final and progress.done >= progress.total
        if progress.files != self._files:  # empty ones add nothing to what is across
            self._files, is_across = progress.files, False
        if checked[0] < checked[1]:
            self._show_comparing(checked, now)
        elif not is_across:
            self._complete_at = None
            self._awaited.begin("")
            if self._talk.has_line:
                path = _KINDS[self._path.kind] if self._path else ""
                self._talk.show_progress(progress, self._rate.bytes_per_second, path)
            elif now >= self._next_plain:
                self._next_plain = now + PLAIN_INTERVAL
                self.say(f"  {plain_line(progress, self._rate.bytes_per_second)}")
        else:
            self._wait_for_disk(reread, now)
        if self._lines is not None:
            self._lines.tick(progress, self._rate.bytes_per_second, now)

    def show_looking(self, left: float, now: float) -> None:
        """While the two look for each other again, for `left` seconds more."""
        self._show(f"Looking for {self._friend} again, for {clock(max(0.0, left))} more", now)

    def stop(self) -> None:
        """Nothing is under way any more."""
        self._awaited.begin("")
        self._talk.take_line_away()
        self._started = None

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

    def note(self, text: str) -> None:
        if self.is_verbose:
            self.say(f"  {text}")

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
            if self._shows_qr and (picture := lines_for(command, sys.stderr)) is not None:
                self._say_needed("\n".join(picture))
            if code:
                self._say_needed(f"and give {self._friend} this code when it asks:  {code}\n")
        where = "" if has_server else " on this network, without a server"
        self.say(f"Waiting for {self._friend}{where} (Ctrl-C stops) ...")

    def _say_connecting(self, verification: str | None, *, is_contact: bool) -> None:
        if verification is not None:
            self._say_needed(
                "WARNING: without a code nothing proves who the other side is. "
                f"Both screens must show the same words:  {verification}"
            )
        elif is_contact:
            self.say(f"It is {self._friend}: the remembered key is right.")
        else:
            self.say("The code is right." if self._friend == UNNAMED else f"The code is right: it is {self._friend}.")
        everywhere = "a direct path (same network first, then through both routers)"
        self.say(f"Looking for {everywhere if self._has_server else 'a path on this network'} ...")

    def _show_offer(self, offer: Offer) -> None:
        self._offered = offer.totals
        say = self._talk.print if self._is_asked else self.say
        # A hidden file may be one that a shell runs, and is not to slip in behind eight photos.
        hidden = [root for root in offer.shown[SHOWN_FILES:] if root.name.startswith(".")]
        shown = [*offer.shown[:SHOWN_FILES], *hidden] if offer.kind is not OfferKind.TEXT else []
        for root in shown:
            say(f"  {thing(root)}")
        if shown and offer.roots > len(shown):
            say(f"  and {others(offer, shown)}")
        say(f"{self._friend_first} wants to send {everything(offer)}.")

    def _recount(self, progress: Progress) -> None:
        """The offer was made before everything was counted."""
        if self._offered is None or self._offered.is_final or not progress.is_final:
            return
        others = max(0, progress.things - progress.files_total)
        self._offered = Totals(progress.files_total, progress.total, is_final=True, others=others)
        counted = f"It is all counted now: {counts(self._offered)}."
        if self._question:
            self._talk.print(f"\n{counted}\n{self._question}", end="")
        else:
            self.say(counted)

    def _start(self, now: float, *, goes_on: bool) -> None:
        self._started = now
        self._rate = Rate()
        if self._role is Role.SENDER:
            self.say(f"{self._friend_first} accepted.")
        if goes_on:
            whose = f"{self._friend_first} has" if self._role is Role.SENDER else "There is"
            self.say(f"{whose} something of it already, from a run that was interrupted. What is the same stays ...")
        self._next_plain = now + FIRST_PLAIN

    def _say_file(self, done: events.FileDone) -> None:
        if done.saved_as is not None and not is_passed_on(done):
            self._saved += 1
            is_alone = "/" not in done.path  # below a folder, all that a person wants to read is that it arrived
            if is_alone and self._saved <= SHOWN_FILES:
                there = f" (a file {escape(done.path)} was there already)" if is_renamed(done) else ""
                self.say(f"Saved {escape(done.saved_as)}{there}")
                self._said += 1
            elif is_renamed(done):
                self._summary.add_renamed(done.path, done.saved_as)
        if self.is_verbose:
            self.note(f"{escape(done.path)}: blake3 {done.digest.hex()}")

    def _finish(self, done: events.Done, progress: Progress, now: float) -> None:
        seconds = max(now - self._started if self._started is not None else 0.0, 1e-3)
        self._summary.count_problems(done.missed)
        if self._lines is not None:
            self._lines.write_repaired(self._repaired()[0])
            self._lines.write_done(done, progress, self._summary.problems, seconds, self._transport)
        self.stop()
        verb, end = ("Sent", "verified by the other side") if self._role is Role.SENDER else ("Received", "verified")
        path = f" by {self._path.description.partition(' (')[0]}" if self._path else ""
        crossed = progress.crossed
        kept = f" {size(progress.kept)} were there already." if progress.kept else ""
        kept += f" {size(progress.holes)} are holes, which do not cross." if progress.holes else ""
        if self._saved > self._said:
            self.say(f"Saved {files(self._saved)}.")
        if progress.files or not done.missed:  # of one file that broke off, nobody is to read that it was verified
            self.say(f"{verb} {size(crossed)} in {seconds:.1f} s ({rate(crossed / seconds)}){path}; {end}.{kept}")
            self.say(f"blake3 {done.digest.hex()}")
        self._say_summary()

    def _say_summary(self) -> None:
        self._summary.repaired = self._repaired()
        for line in self._summary.lines(is_sender=self._role is Role.SENDER):
            (self._talk.print if self._summary.problems else self.say)(line)
        self._summary = Summary()

    def _say_needed(self, text: str) -> None:
        """Without it the two persons cannot go on, or would trust too much; --json says it on stdout."""
        if self._lines is None:
            self._talk.print(text)
        else:
            self.say(text)

    # the stream

    def _show_comparing(self, checked: tuple[int, int], now: float) -> None:
        if self._talk.has_line:
            self._talk.show_words(self._awaited.line_of_work("Comparing", checked, now))
        else:
            share = 100 * checked[0] // checked[1]
            self._show(f"Comparing what is here already: {share} % of {size(checked[1])}", now)

    def _wait_for_disk(self, reread: tuple[int, int], now: float) -> None:
        """A sentence once, and then only a line that can be written over."""
        if self._complete_at is None:
            self._complete_at = now
        if now < self._complete_at + SETTLING:
            return
        is_sender = self._role is Role.SENDER
        if not self._is_told_of_disk:
            self._is_told_of_disk = True
            whose = "the other side's" if is_sender else "this machine's"
            self.say(f"Everything is across; waiting until it is safe on {whose} disk ...")
        if reread[0] < reread[1]:
            self._talk.show_words(self._awaited.line_of_work("Checking", reread, now))
        else:
            self._awaited.begin(f"Waiting for the disk{' there' if is_sender else ''}")
            self._show_waiting(now)

    def _show_waiting(self, now: float) -> None:
        if not self._question and (line := self._awaited.line(now)):
            self._talk.show_words(line)

    def _show(self, text: str, now: float) -> None:
        """In the place of the progress."""
        if self._talk.has_line:
            self._talk.show_words(text)
        elif now >= self._next_plain:
            self._next_plain = now + PLAIN_INTERVAL
            self.say(f"  {text} ...")


_KINDS = {events.PathKind.TCP: "direct TCP", events.PathKind.UDP: "direct UDP", events.PathKind.RELAY: "relay"}


def _sentence(text: str) -> str:
    return text + ("" if text.endswith((".", "!")) else ".")
