"""`p2p.receive_many`: one transfer after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from p2p.api.audience import Audience, OnEvent, OnProgress
from p2p.api.caller import Caller
from p2p.api.cancel import Cancel
from p2p.api.control import Control
from p2p.api.errors import CancelledError, TransferError
from p2p.api.results import Result
from p2p.api.running import Accept, Running, explained
from p2p.api.transfers import RECONNECT, Meeting, PathLike, Policy, check_taking, network_of
from p2p.core.role import Role
from p2p.core.transport.idle import IDLE_TIMEOUT
from p2p.io.plan import Plan
from p2p.io.waiting import STRANGER_PAUSE, ends_the_wait, is_of_a_stranger

MakeRunning = Callable[[Plan, Control, Caller, int], Running]


def receive_many(
    code: str | None = None,
    *,
    me: str,
    sender: str,
    out: PathLike = ".",
    policy: Policy = "rename",
    accept: Accept | None = None,
    size_limit: int | None = None,
    no_code: bool = False,
    remember: bool = False,
    server: str | None = None,
    stun: Sequence[str] = (),
    relay: bool = True,
    timeout: float | None = None,
    reconnect: float = RECONNECT,
    idle_timeout: float = IDLE_TIMEOUT,
    rate_limit: float | None = None,
    on_event: OnEvent | None = None,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> Iterator[Result | TransferError]:
    """Waits for one transfer after the other, and gives what became of each: its Result, or why it failed.

    The parameters are those of `receive`; `timeout` is that of each wait. Without `code` and `no_code`, `sender` is a
    contact. Nothing is waited for between two steps of the iterator, so whoever sends meanwhile waits for the next.

    It goes on until it is left by `break`, or raises what makes waiting senseless: CancelledError, NoPeerError when
    nobody came within `timeout`, WrongCodeError when the code is used up, StorageError when `out` takes nothing, and
    ArgumentError, at once.
    """
    folder = Path(out)
    with explained():
        check_taking(policy, size_limit)
        meeting = Meeting.of(Role.RECEIVER, me, sender, code, no_code=no_code, remember=remember)
        network = network_of(server, stun, relay, timeout, reconnect, idle_timeout, rate_limit)

    def make(plan: Plan, control: Control, caller: Caller, tries: int) -> Running:
        audience = Audience(caller, on_event=on_event, on_progress=on_progress, out=folder)
        return Running(plan, network, caller, control, audience, size_limit=size_limit, tries=tries)

    def receive(running: Running) -> Result:
        return running.receive(folder, policy, None, accept)

    return _each(meeting.plan((), server), make, receive, cancel or Cancel())


def _each(
    plan: Plan, make: MakeRunning, receive: Callable[[Running], Result], cancel: Cancel
) -> Iterator[Result | TransferError]:
    tries = 0
    while True:
        control = Control()
        caller = Caller(control)
        running = make(plan, control, caller, tries)
        is_contact = plan.remembering.is_contact
        became: Result | TransferError
        with cancel.watch(control.stop):
            try:
                became = caller.run(partial(receive, running))
            except TransferError as error:
                if not running.can_take or ends_the_wait(error.exit_code, is_contact=is_contact):
                    raise
                became = error
        yield became
        if isinstance(became, TransferError) and is_of_a_stranger(became.exit_code, is_contact=is_contact):
            _pause(cancel)
        tries = running.tries
        plan = replace(plan, remembering=plan.remembering.again())


def _pause(cancel: Cancel) -> None:
    """A stranger has come in the sender's place, and may come again at once."""
    is_cancelled = threading.Event()
    with cancel.watch(is_cancelled.set):
        if is_cancelled.wait(STRANGER_PAUSE):
            raise CancelledError(Control.alone.message)
