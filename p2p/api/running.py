"""One transfer of a program, composed of the same parts as one of the commands."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from p2p.api.audience import Audience, offer_of
from p2p.api.caller import Caller
from p2p.api.control import Abandoned, Control
from p2p.api.errors import ArgumentError, CancelledError, IncompleteError, NoPeerError, TransferError, error_of
from p2p.api.results import Offer, Result
from p2p.core.errors import CallerError, ExitCode, Failure, P2PError
from p2p.core.peer import explain
from p2p.core.peer.peer import Peer
from p2p.core.text import escape
from p2p.core.transfer import messages
from p2p.core.transfer.limits import most_things
from p2p.io import state
from p2p.io.attempts import Settings, Wish
from p2p.io.contacts import ContactsError
from p2p.io.crossing import Crossing
from p2p.io.ends import SAID_NO
from p2p.io.net.resolve import resolve, resolve_stun
from p2p.io.plan import Plan
from p2p.io.receiving.journal import Journals
from p2p.io.receiving.outlets import WriteSome
from p2p.io.receiving.taking import TakingEnd
from p2p.io.sending.end import COUNT_PATIENCE, SendingEnd
from p2p.io.sending.sources import FileError
from p2p.io.waiting import wait

OpenSource = Callable[[selectors.BaseSelector], SendingEnd]
Accept = Callable[[Offer], object]


@dataclass(frozen=True, slots=True)
class Network:
    """What both sides say alike: see `p2p.send`."""

    server: str | None
    stun: Sequence[str]
    relay: bool
    timeout: float | None
    reconnect: float
    idle_timeout: float
    rate_limit: float


class Running:
    """Its methods run in a thread of their own (`Caller.run`), and raise TransferError and nothing else."""

    def __init__(
        self,
        plan: Plan,
        network: Network,
        caller: Caller,
        control: Control,
        audience: Audience,
        *,
        size_limit: int | None = None,
        tries: int = 0,
    ) -> None:
        """`size_limit`: bytes that are received at most. `tries`: wrong codes of transfers before, under this one."""
        self._plan = plan
        self._network = network
        self._caller = caller
        self._control = control
        self._audience = audience
        self._size_limit = size_limit
        self.tries = tries
        self.can_take = True
        """Whether there is a place for what arrives."""

    def send(self, open_source: OpenSource, *, is_stream: bool) -> Result:
        """`is_stream`: what is sent can be read only once."""
        with self._loop() as (selector, settings):
            end = open_source(selector)
            renew = None if is_stream else partial(open_source, selector)
            crossing = self._crossing(selector, settings, end, _offered_nothing, renew)
            with contextlib.closing(crossing):
                wait(selector, COUNT_PATIENCE, lambda: end.is_counted or self._control.is_asked)
                return self._cross(crossing)

    def receive(self, out: Path, policy: str, write: WriteSome | None, accept: Accept | None) -> Result:
        """`write`: what takes the content, instead of the folder."""
        with self._loop() as (selector, settings):
            folder = state.state_folder(self._audience.say)
            journals = None if folder is None else Journals(folder)

            def open_target() -> TakingEnd:
                end = TakingEnd(str(out), policy, journals, selector, self._audience.take_text, write=write)
                end.machine.rate_limit = self._network.rate_limit
                return end

            end = open_target()
            decision = _Decision(self._caller, self._control, accept, self._size_limit)
            crossing = self._crossing(selector, settings, end, decision, None if write is not None else open_target)
            with contextlib.closing(crossing):
                if end.refusal is not None:
                    self.can_take = False
                    raise error_of(end.refusal)
                return self._cross(crossing)

    @contextlib.contextmanager
    def _loop(self) -> Iterator[tuple[selectors.BaseSelector, Settings]]:
        with explained(), selectors.DefaultSelector() as selector, self._control.at(selector):
            if self._plan.remembering.note is not None:
                self._audience.say(self._plan.remembering.note)
            yield selector, self._settings()

    def _settings(self) -> Settings:
        network = self._network
        servers = [] if network.server is None else resolve(network.server)
        if network.server is not None and not servers:
            raise NoPeerError(f"No address can be found for the server {escape(network.server)}")
        return Settings(
            self._plan.role,
            servers,
            resolve_stun(network.stun) if servers else (),
            takes_relay=network.relay,
            idle_timeout=network.idle_timeout,
            rate_limit=network.rate_limit,
        )

    def _crossing(
        self,
        selector: selectors.BaseSelector,
        settings: Settings,
        end: SendingEnd | TakingEnd,
        on_offer: Callable[[Crossing, Peer, messages.Offer, float], None],
        renew: Callable[[], SendingEnd | TakingEnd] | None,
    ) -> Crossing:
        def tick(peer: Peer, now: float) -> None:
            end = crossing.end
            progress = end.machine.progress
            size = max(progress.done, progress.total or 0)
            too_much = _too_much(size, progress.things, self._size_limit)
            if too_much is not None:
                peer.fail(*too_much, now)
            checked = end.checked if isinstance(end, TakingEnd) else (0, 0)
            self._audience.tick(progress, checked, now)

        crossing = Crossing(
            settings,
            end,
            selector=selector,
            interrupts=self._control,
            screen=self._audience,
            reconnect=self._network.reconnect,
            remembering=self._plan.remembering,
            on_offer=on_offer,
            on_failed=lambda _, __: None,
            on_tick=tick,
            renew=renew,
        )
        return crossing

    def _cross(self, crossing: Crossing) -> Result:
        remembering = self._plan.remembering
        secret = self._plan.session_secret(remembering)
        patience, is_contact = self._network.timeout, remembering.is_contact
        crossing.run(Wish(self._plan.pairing, secret, self.tries, patience, is_contact=is_contact))
        self.tries = crossing.tries
        if crossing.code is None:
            assert crossing.failure is not None, "it is done or has failed"
            raise error_of(crossing.failure)
        result = self._audience.result
        assert result is not None, "it is done"
        if crossing.code:
            raise IncompleteError(result, crossing.code)
        return result


class _Decision:
    """About the offer, in the thread of whoever called, who may take his time."""

    def __init__(self, caller: Caller, control: Control, accept: Accept | None, size_limit: int | None) -> None:
        self._caller = caller
        self._control = control
        self._accept = accept
        self._size_limit = size_limit

    def __call__(self, crossing: Crossing, peer: Peer, offer: messages.Offer, now: float) -> None:
        assert isinstance(crossing.end, TakingEnd), "a sender is offered nothing"
        totals = offer.totals
        too_much = _too_much(totals.size or 0, totals.files + totals.others, self._size_limit)
        refused = crossing.end.handle_offer(offer) or too_much
        if refused is not None:
            peer.refuse(*refused, now)
        elif (accept := self._accept) is None or crossing.was_accepted(offer):
            self._answer(crossing, peer, offer, is_yes=True)
        else:

            def ask(shown: Offer) -> None:
                is_yes = bool(accept(shown))
                self._control.tell(lambda: self._answer(crossing, peer, offer, is_yes=is_yes))

            self._caller.call(ask, offer_of(offer))

    def _answer(self, crossing: Crossing, peer: Peer, offer: messages.Offer, *, is_yes: bool) -> None:
        now = time.monotonic()
        if crossing.failure is not None or peer.failure is not None:
            return  # it came too late
        if not is_yes:
            peer.refuse(SAID_NO, "the program there said no", now)
            return
        assert isinstance(crossing.end, TakingEnd), "a sender is offered nothing"
        crossing.end.accept(offer, peer, now)
        if peer.failure is None:
            crossing.start(now, goes_on=crossing.end.machine.answers)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Whatever is raised inside, as a TransferError."""
    try:
        yield
    except TransferError:
        raise
    except (FileError, ContactsError) as error:
        raise error_of(error.failure) from error
    except CallerError as error:
        raise ArgumentError(str(error)) from error
    except Abandoned as error:
        raise CancelledError("Stopped at once: the other side was not told") from error
    except P2PError as error:
        raise TransferError(explain.internal_error(error)) from error
    except OSError as error:
        raise TransferError(explain.system_refuses(error)) from error


def _too_much(size: int, things: int, limit: int | None) -> tuple[Failure, str] | None:
    """Why so many bytes, or files, folders and links, are not taken: for here, and for the other side."""
    if limit is None:
        return None
    if things > (most := most_things(limit)):
        message = f"Refused, because size_limit has no room for so many files and folders: {things:,}, and not {most:,}"
        return Failure(ExitCode.REFUSED, message), f"it takes at most {most:,} files and folders at a time"
    if size <= limit:
        return None
    message = f"Refused, because it is more than size_limit allows: {size:,} bytes, and not {limit:,}"
    return Failure(ExitCode.REFUSED, message), f"it takes at most {limit:,} bytes at a time"


def _offered_nothing(_: Crossing, __: Peer, ___: messages.Offer, ____: float) -> None:
    raise AssertionError("a sender is offered nothing")
