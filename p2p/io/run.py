"""Sets one run of `send` or `recv` up from its options, and lives through its transfers."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import selectors
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from p2p.core.calling import spoken
from p2p.core.errors import CallerError, ExitCode, Failure
from p2p.core.introduction import Pairing
from p2p.core.peer import events
from p2p.core.peer.acceptance import Acceptance
from p2p.core.peer.peer import Peer
from p2p.core.role import Role
from p2p.core.text import escape
from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Offer
from p2p.io import state
from p2p.io.attempts import Settings, Wish
from p2p.io.contacts import ContactsError
from p2p.io.crossing import Crossing
from p2p.io.ends import SAID_NO
from p2p.io.interrupts import Interrupts
from p2p.io.memory import keep_freed_memory
from p2p.io.net.resolve import resolve, resolve_stun
from p2p.io.plan import PIPE, Plan
from p2p.io.planning import make_plan
from p2p.io.receiving.journal import JournalInUse, Journals
from p2p.io.receiving.taking import TakingEnd
from p2p.io.sending.end import COUNT_PATIENCE, SendingEnd
from p2p.io.sending.pipes import CommandReader, PipeError
from p2p.io.sending.preview import preview
from p2p.io.sending.sources import SourceError
from p2p.io.sending.visits import Exclude
from p2p.io.stopping import break_down, stop
from p2p.io.terminal.question import Question
from p2p.io.terminal.screen import Screen
from p2p.io.terminal.summary import Repaired
from p2p.io.waiting import STRANGER_PAUSE, ends_the_wait, is_of_a_stranger, wait

TELLING_PATIENCE = 10.0  # seconds in which we tell the other side, if it is there, that our folder takes no files
REFUSED_PATIENCE = 60.0  # seconds for the person there to start again, after a no that was a slip of the finger
NOT_ASKED = Failure(
    ExitCode.USAGE,
    "Refused, because there is no terminal to ask on: pass --yes to take whatever the other side sends",
)
LOOKED = Failure(ExitCode.REFUSED, "Dry run: nothing was taken, and nothing written")
# Ends whose words say by themselves that the same command goes on.
_SAYS_WHAT_IS_LEFT = (ExitCode.CANCELLED, ExitCode.INTERRUPTED)


def run(options: argparse.Namespace) -> ExitCode:
    """Raises CallerError for what is wrong with the options."""
    try:
        if options.command == "recv" and options.discard and _discard(options):
            return ExitCode.DONE
    except JournalInUse as error:
        print(f"{spoken(str(error), options.program)}.", file=sys.stderr)
        return ExitCode.STORAGE
    try:
        plan = make_plan(options)
    except ContactsError as error:
        print(f"{spoken(str(error), options.program)}.", file=sys.stderr)
        return error.failure.code
    acceptance = Acceptance.parse(getattr(options, "accept_from", []))
    if acceptance and (plan.names is None or options.yes):
        raise CallerError("--accept-from is for names, as in recv --wait ME FRIEND, and not together with --yes")
    if getattr(options, "out", None) == PIPE and options.json:
        raise CallerError("--json and --out - both want standard output: choose one")
    patterns = _patterns(options)
    servers = [] if plan.server is None else resolve(plan.server)
    yes = getattr(options, "yes", False) or bool(acceptance)
    screen = Screen(
        plan.role,
        plan.friend,
        plan.invitation,
        as_json=options.json,
        quiet=options.quiet,
        verbose=options.verbose,
        is_asked=plan.role is Role.RECEIVER and not yes and sys.stdin.isatty(),
        shows_qr=options.qr,
        program=options.program,
    )
    if not servers and plan.server is not None:
        return stop(screen, ExitCode.NO_PEER, f"No address can be found for the server {escape(plan.server)}")
    if options.dry_run and plan.role is Role.SENDER:
        return _preview(plan, patterns, screen, options)
    keep_freed_memory()
    settings = Settings(
        plan.role,
        servers,
        resolve_stun(options.stun) if servers else (),
        takes_relay=not options.no_relay,
        idle_timeout=options.idle_timeout,
        rate_limit=options.limit_rate or math.inf,
    )
    with selectors.DefaultSelector() as selector, Interrupts(selector) as interrupts:
        one = _Run(options, plan, settings, screen=screen, selector=selector, interrupts=interrupts)
        one.acceptance = acceptance
        if plan.remembering.note is not None:
            screen.say(plan.remembering.note)
        try:
            return one.send(patterns) if plan.role is Role.SENDER else one.receive()
        except CallerError:
            raise
        except Exception as error:
            return break_down(screen, error)
        finally:
            screen.stop()


class _Run:
    """The transfers of one command."""

    def __init__(
        self,
        options: argparse.Namespace,
        plan: Plan,
        settings: Settings,
        *,
        screen: Screen,
        selector: selectors.BaseSelector,
        interrupts: Interrupts,
    ) -> None:
        self._options = options
        self._plan = plan
        self._settings = settings
        self._screen = screen
        self._selector = selector
        self._interrupts = interrupts
        self._question = Question(selector, screen)
        self._remembering = plan.remembering
        self._wish = self._wish_for(plan.pairing, patience=options.timeout)
        self.acceptance = Acceptance([])

    # sending

    def send(self, patterns: list[str]) -> ExitCode:
        """Once, and again after a no, for as long as somebody may have meant a yes."""
        token = state.token(self._plan.names, self._plan.paths, patterns, self._screen.note)
        while True:
            try:
                end = self._open_source(patterns, token)
            except (SourceError, PipeError) as error:
                return stop(self._screen, error.failure.code, error.failure.message)
            may_begin_again = self._plan.command is None and not self._plan.is_pipe
            renew = partial(self._open_source, patterns, token) if may_begin_again else None
            crossing = self._crossing(end, self._hear_no, renew)
            with contextlib.closing(crossing):
                self._count(end)
                self._screen.begin(partial(_repaired, crossing))
                crossing.run(self._wish)
            if crossing.code is not None:
                return crossing.code
            assert crossing.failure is not None, "it is done or has failed"
            if not self._waits_again(crossing, crossing.failure):
                return crossing.failure.code
            self._remembering = self._remembering.again()
            self._wish = self._wish_for(
                partial(_same, crossing.pairing) if crossing.pairing is not None else self._plan.pairing,
                tries=crossing.tries,
                patience=min(REFUSED_PATIENCE, self._options.timeout or math.inf),
                impatience=self._wish.impatience or crossing.failure,
            )

    def _open_source(self, patterns: list[str], token: bytes) -> SendingEnd:
        """Raises SourceError, PipeError."""
        if self._plan.text is not None:
            return SendingEnd.of_text(self._plan.text, token, self._selector)
        if self._plan.command is not None:
            reader = CommandReader(self._plan.command)
            return SendingEnd.of_reader(reader, "output", token, self._selector)
        if self._plan.is_pipe:
            return SendingEnd.of_pipe(sys.stdin.fileno(), "stdin", token, self._selector)
        return SendingEnd.of_tree(self._plan.paths, Exclude(patterns), token, self._selector)

    def _count(self, end: SendingEnd) -> None:
        """Waits until the offer can say how much it is, if that is soon."""
        wait(self._selector, COUNT_PATIENCE, lambda: end.is_counted or self._interrupts.is_asked)
        if not end.is_counted:
            self._screen.say("Counting what is to be sent, meanwhile ...")

    def _hear_no(self, crossing: Crossing, failure: Failure) -> None:
        if self._waits_again(crossing, failure):
            self._screen.say_refused(failure, min(REFUSED_PATIENCE, self._options.timeout or math.inf))
        else:
            self._screen.handle_event(events.Failed(failure), 0.0)

    def _waits_again(self, crossing: Crossing, failure: Failure) -> bool:
        """Whether the other side said no, or left, before anything was sent."""
        is_theirs = failure.code in (ExitCode.REFUSED, ExitCode.STORAGE, ExitCode.INTERRUPTED)
        is_over = crossing.has_begun or self._interrupts.is_asked or self._screen.output_is_gone
        return is_theirs and not is_over and not self._options.once and failure is not self._wish.impatience

    # receiving

    def receive(self) -> ExitCode:
        """One transfer, or with --wait one after the other."""
        last: ExitCode | None = None
        while True:
            self._screen.begin()
            end = self._open_target()
            if end.refusal is not None:
                self._screen.say(f"{end.refusal.message}. Telling {self._plan.friend}, if there ...")
                self._wish = replace(self._wish, patience=TELLING_PATIENCE, impatience=end.refusal)
            renew = self._open_target if self._options.out != PIPE else None
            crossing = self._crossing(end, self._show_failed, renew)
            with contextlib.closing(crossing):
                crossing.run(self._wish)
            code = self._end_of(crossing)
            if not self._options.wait or end.refusal is not None:
                return code
            if self._interrupts.is_asked:  # the wait is ended, however the last transfer did
                return ExitCode.CANCELLED
            is_contact = self._remembering.is_contact
            if crossing.failure is not None and ends_the_wait(code, is_contact=is_contact):
                return last if code is ExitCode.NO_PEER and last is not None else code
            last = code
            if is_of_a_stranger(code, is_contact=is_contact):
                self._pause()
            self._remembering = self._remembering.again()
            self._wish = self._wish_for(self._plan.pairing, tries=crossing.tries, patience=self._options.timeout)
            self._screen.say("")

    def _open_target(self) -> TakingEnd:
        folder = state.state_folder(self._screen.note)
        end = TakingEnd(
            self._options.out or ".",
            self._options.policy or "rename",
            None if folder is None else Journals(folder),
            self._selector,
            on_text=self._screen.show_text,
        )
        end.machine.rate_limit = self._options.limit_rate or math.inf
        return end

    def _decide(self, crossing: Crossing, peer: Peer, offer: Offer, now: float) -> None:
        assert isinstance(crossing.end, TakingEnd), "a sender is offered nothing"
        refused = crossing.end.handle_offer(offer)
        if refused is not None:
            peer.refuse(*refused, now)
        elif self._options.dry_run:
            peer.refuse(LOOKED, "the person there wanted to see what it is, and takes nothing (--dry-run)", now)
        elif self.acceptance:
            assert self._plan.names is not None
            no = self.acceptance.decide(self._plan.names[1], offer, is_contact=self._remembering.is_contact)
            if no is None:
                self._accept(crossing, peer, offer, now)
            else:
                peer.refuse(no.failure, no.told, now)
        elif self._options.yes or crossing.was_accepted(offer):
            self._accept(crossing, peer, offer, now)
        elif not sys.stdin.isatty():
            peer.refuse(NOT_ASKED, "nobody is there to be asked (no terminal, and no --yes)", now)
        else:

            def answer(is_yes: bool, now: float) -> None:
                if is_yes:
                    self._accept(crossing, peer, offer, now)
                else:
                    peer.refuse(SAID_NO, "the person there said no", now)

            self._question.ask(answer)

    def _accept(self, crossing: Crossing, peer: Peer, offer: Offer, now: float) -> None:
        assert isinstance(crossing.end, TakingEnd), "a sender takes nothing"
        crossing.end.accept(offer, peer, now)
        for note in crossing.end.take_notes():
            self._screen.say(f"{note}.")
        if peer.failure is None:
            crossing.start(now, goes_on=crossing.end.machine.answers)

    def _show_failed(self, _: Crossing, failure: Failure) -> None:
        self._question.drop()
        if failure is LOOKED:
            self._screen.say_looked(failure)
        else:
            self._screen.handle_event(events.Failed(failure), 0.0)

    def _end_of(self, crossing: Crossing) -> ExitCode:
        end = crossing.end
        assert isinstance(end, TakingEnd), "it takes"
        if end.regret is not None and crossing.code is not ExitCode.DONE:
            self._screen.say(f"{end.regret}.")
        is_said = crossing.failure is not None and crossing.failure.code in _SAYS_WHAT_IS_LEFT
        if end.remains is not None and not is_said:
            self._screen.say(f"{end.remains}.")
        if crossing.code is not None:
            return crossing.code
        assert crossing.failure is not None, "it is done or has failed"
        return ExitCode.DONE if crossing.failure is LOOKED else crossing.failure.code

    def _watch(self, peer: Peer, progress: Progress, now: float) -> None:
        """What was taken without a question stays within its limit."""
        if self.acceptance and self._plan.names is not None:
            no = self.acceptance.watch(self._plan.names[1], progress)
            if no is not None:
                peer.fail(no.failure, no.told, now)

    def _pause(self) -> None:
        """A stranger has come in the friend's place, and may come again at once."""
        wait(self._selector, STRANGER_PAUSE, lambda: self._interrupts.is_asked)

    # both

    def _wish_for(
        self,
        next_pairing: Callable[[int], Pairing],
        *,
        tries: int = 0,
        patience: float | None = None,
        impatience: Failure | None = None,
    ) -> Wish:
        secret = self._plan.session_secret(self._remembering)
        return Wish(
            next_pairing, secret, tries, patience, impatience, is_contact=self._remembering.is_contact
        )

    def _crossing(
        self,
        end: SendingEnd | TakingEnd,
        on_failed: Callable[[Crossing, Failure], None],
        renew: Callable[[], SendingEnd | TakingEnd] | None,
    ) -> Crossing:
        def tick(peer: Peer, now: float) -> None:
            end = crossing.end
            self._watch(peer, end.machine.progress, now)
            checked, reread = (end.checked, end.reread) if isinstance(end, TakingEnd) else ((0, 0), (0, 0))
            self._screen.tick(end.machine.progress, checked, now, reread)

        crossing = Crossing(
            self._settings,
            end,
            selector=self._selector,
            interrupts=self._interrupts,
            screen=self._screen,
            reconnect=self._options.reconnect,
            remembering=self._remembering,
            on_offer=self._decide,
            on_failed=on_failed,
            on_tick=tick,
            renew=renew,
        )
        return crossing


def _same(pairing: Pairing, _: int) -> Pairing:
    return pairing


def _repaired(crossing: Crossing) -> Repaired:
    end = crossing.end
    assert isinstance(end, SendingEnd), "it sends"
    return end.notes, end.notes_count


def _preview(plan: Plan, patterns: list[str], screen: Screen, options: argparse.Namespace) -> ExitCode:
    if not plan.paths or plan.is_pipe:
        raise CallerError("--dry-run looks at files and folders; what a text or a pipe holds shows when it is sent")
    try:
        return preview(plan.paths, patterns, as_json=options.json, quiet=options.quiet)
    except SourceError as error:
        return stop(screen, error.failure.code, error.failure.message)


def _discard(options: argparse.Namespace) -> bool:
    """Forgets what earlier runs left in the folder. Returns whether that was all. Raises JournalInUse."""
    folder = state.state_folder(lambda text: print(text, file=sys.stderr))
    out = Path(options.out or ".")
    count = Journals(folder).discard(out) if folder is not None else 0
    runs = {0: "No interrupted run has left", 1: "Forgot what 1 interrupted run left"}
    if not options.quiet:
        said = runs.get(count, f"Forgot what {count} interrupted runs left")
        print(f"{said}{' anything' if not count else ''} in {escape(str(out))}.", file=sys.stderr)
    is_code_given = options.code_file is not None or options.code != os.environ.get("P2P_CODE")
    return not options.words and not is_code_given


def _patterns(options: argparse.Namespace) -> list[str]:
    """Those of the options, then those of the files. Raises CallerError."""
    if options.command != "send":
        return []
    patterns: list[str] = [*options.exclude]
    for name in options.exclude_from:
        try:
            patterns += Path(name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CallerError(f"cannot read patterns from {name}: {error}") from error
    return patterns
