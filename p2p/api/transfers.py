"""`p2p.send` and `p2p.receive`."""

from __future__ import annotations

import math
import os
import secrets
import selectors
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from p2p.api.audience import Audience, OnCode, OnEvent, OnProgress
from p2p.api.caller import Caller
from p2p.api.cancel import Cancel
from p2p.api.control import Control
from p2p.api.errors import ArgumentError
from p2p.api.results import Result
from p2p.api.running import Accept, Network, Running, explained
from p2p.api.streams import Readable, StreamReader, StreamWriter, Writable
from p2p.core.calling import option
from p2p.core.introduction import NamePair
from p2p.core.role import Role
from p2p.core.session.codes import generate_code, normalise_secret, split_code
from p2p.core.transfer.limits import MAX_TEXT
from p2p.core.transport.idle import IDLE_TIMEOUT, MIN_IDLE_TIMEOUT
from p2p.io import state
from p2p.io.net import resolve
from p2p.io.plan import Plan
from p2p.io.remembering import Remembering
from p2p.io.sending.end import SendingEnd
from p2p.io.sending.visits import Exclude

RECONNECT = 15 * 60.0  # seconds; a laptop that is carried from one place to the next

PathLike = str | os.PathLike[str]
Policy = Literal["rename", "overwrite", "skip"]


def send(
    paths: PathLike | Iterable[PathLike] = (),
    *,
    text: str | None = None,
    stream: Readable | None = None,
    name: str = "stream",
    exclude: Sequence[str] = (),
    me: str | None = None,
    to: str | None = None,
    code: str | None = None,
    no_code: bool = False,
    remember: bool = False,
    server: str | None = None,
    stun: Sequence[str] = (),
    relay: bool = True,
    timeout: float | None = None,
    reconnect: float = RECONNECT,
    idle_timeout: float = IDLE_TIMEOUT,
    rate_limit: float | None = None,
    on_code: OnCode | None = None,
    on_event: OnEvent | None = None,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> Result:
    """Sends files and folders, or `text`, or what `stream` gives, as a file called `name`. Returns when it has arrived.

    Two names, `me` and `to`, or none: then a one-time code is made, which `on_code` hears, and the other side gives to
    `receive`. With names, `code` is one that both know; without one, the two are contacts (see `remember`), or a code
    is made and told to `on_code`. `no_code`: encrypt without proving who is there; both sides must say so.
    `remember`: with names and a code, on both sides: later transfers between the two need no code.

    `exclude`: patterns by the rules of .gitignore. `server`: "host" or "host:port"; None: this network is searched.
    `stun`: more servers to ask how the network maps ports. `relay`: whether the server may forward, sealed, what finds
    no direct path. In seconds: `timeout`, to wait for the other side to come; `reconnect`, to look for it after the
    path was lost; `idle_timeout`, of silence before that is believed. `rate_limit`: bytes a second at most.

    The callbacks run in this thread, and may take their time; what one raises ends the transfer, and is raised here.
    Raises TransferError: see p2p.api.errors for which. May be called in any thread, several at once.
    """
    control = Control()
    caller = Caller(control)
    with explained():
        source = _Source.of(paths, text, stream, name, exclude)
        meeting = Meeting.of(Role.SENDER, me, to, code, no_code=no_code, remember=remember)
        if meeting.is_made and on_code is None:
            raise ArgumentError("on_code is missing: a code is made, and the other side needs to know it")
        network = network_of(server, stun, relay, timeout, reconnect, idle_timeout, rate_limit)
        audience = Audience(
            caller,
            on_code=on_code,
            on_event=on_event,
            on_progress=on_progress,
            secret=meeting.secret if meeting.is_made else None,
        )
        token = state.token(meeting.names, source.paths, source.exclude.patterns, audience.say)
    running = Running(meeting.plan(source.paths, server), network, caller, control, audience)
    with (cancel or Cancel()).watch(control.stop):
        return caller.run(partial(running.send, partial(source.open, token, caller), is_stream=stream is not None))


def receive(
    code: str | None = None,
    *,
    out: PathLike = ".",
    into: Writable | None = None,
    policy: Policy = "rename",
    accept: Accept | None = None,
    size_limit: int | None = None,
    me: str | None = None,
    sender: str | None = None,
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
) -> Result:
    """Receives what is sent, and returns when it is verified and safe on the disk. `send` says what is not said here.

    `code`: the one-time code alone, or with two names, `me` and `sender`, the one that both know.

    Files and folders go below `out`, which is made if it is missing; a text is `Result.text`. `policy`, where a name is
    taken: store under another name, overwrite, or skip what is the same. `into`: write the content there instead; takes
    one file, a stream or a text, and what was written before a failure cannot be taken back.

    `accept` is asked with the Offer whether to take it; without it, whatever comes is taken. If it says no,
    RefusedError is raised here, and there. `size_limit`: bytes, and a file or folder for each thousand of them (1,000
    in any case); more is refused, and what grows beyond is ended.
    """
    control = Control()
    caller = Caller(control)
    with explained():
        check_taking(policy, size_limit)
        meeting = Meeting.of(Role.RECEIVER, me, sender, code, no_code=no_code, remember=remember)
        network = network_of(server, stun, relay, timeout, reconnect, idle_timeout, rate_limit)
    folder = Path(out)
    audience = Audience(caller, on_event=on_event, on_progress=on_progress, out=None if into is not None else folder)
    running = Running(meeting.plan((), server), network, caller, control, audience, size_limit=size_limit)
    write = None if into is None else StreamWriter(into, caller.fail)
    with (cancel or Cancel()).watch(control.stop):
        return caller.run(partial(running.receive, folder, policy, write, accept))


def check_taking(policy: str, size_limit: int | None) -> None:
    """Raises ArgumentError."""
    if policy not in ("rename", "overwrite", "skip"):
        raise ArgumentError(f"policy is one of rename, overwrite and skip, not {policy!r}")
    if size_limit is not None and not size_limit >= 0:
        raise ArgumentError("size_limit is a number of bytes, or None")


@dataclass(frozen=True, slots=True)
class _Source:
    """What is sent: exactly one of the three."""

    paths: tuple[str, ...]
    text: str | None
    stream: Readable | None
    name: str
    exclude: Exclude

    @classmethod
    def of(
        cls,
        paths: PathLike | Iterable[PathLike],
        text: str | None,
        stream: Readable | None,
        name: str,
        exclude: Sequence[str],
    ) -> _Source:
        """Raises ArgumentError, CallerError, SourceError."""
        named = tuple(os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths))
        if bool(named) + (text is not None) + (stream is not None) != 1:
            raise ArgumentError("one of paths, text and stream is to be sent")
        if text is not None and not 0 < len(text.encode("utf-8", "surrogatepass")) <= MAX_TEXT:
            raise ArgumentError(f"a text has 1 to {MAX_TEXT:,} bytes: send a longer one as a stream")
        return cls(named, text, stream, name, Exclude([exclude] if isinstance(exclude, str) else exclude))

    def open(self, token: bytes, caller: Caller, selector: selectors.BaseSelector) -> SendingEnd:
        """In the thread of the loop. Raises SourceError, PipeError."""
        if self.text is not None:
            return SendingEnd.of_text(self.text, token, selector)
        if self.stream is not None:
            return SendingEnd.of_reader(StreamReader(self.stream, caller.fail), self.name, token, selector)
        return SendingEnd.of_tree(self.paths, self.exclude, token, selector)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Who meets whom, and what proves it. `is_made`: the code was made here, and somebody has to be told."""

    role: Role
    names: tuple[str, str] | None
    nameplate: str | None
    secret: str | None
    is_made: bool
    remembering: Remembering

    @classmethod
    def of(
        cls, role: Role, me: str | None, friend: str | None, code: str | None, *, no_code: bool, remember: bool
    ) -> Meeting:
        """Raises ArgumentError, CallerError, ContactsError."""
        if (me is None) is not (friend is None):
            raise ArgumentError(f"there are two names, me and {'to' if role is Role.SENDER else 'sender'}, or none")
        if no_code and code is not None:
            raise ArgumentError("there is a code, or no_code, and not both")
        if me is None or friend is None:
            if no_code or remember:
                raise ArgumentError(f"{'no_code' if no_code else 'remember'} needs names")
            if code is not None:
                return cls(role, None, *split_code(code), False, Remembering())
            if role is Role.RECEIVER:
                raise ArgumentError("code is missing: the one that the sender's on_code heard, or two names")
            return cls(role, None, None, generate_code(secrets.token_bytes), True, Remembering())
        pair = NamePair(unicodedata.normalize("NFC", me), unicodedata.normalize("NFC", friend))
        names = pair.me, pair.friend
        remembering = Remembering.of(names, code=code, no_code=no_code, remember=remember)
        if no_code or remembering.is_contact:
            return cls(role, names, None, None, False, remembering)
        if code is not None:
            normalise_secret(code)
            return cls(role, names, None, code, False, remembering)
        if role is Role.RECEIVER:
            raise ArgumentError("code is missing: the two do not remember each other, and no_code was not said")
        return cls(role, names, None, generate_code(secrets.token_bytes), True, remembering)

    def plan(self, paths: tuple[str, ...], server: str | None) -> Plan:
        return Plan(self.role, self.names, self.nameplate, self.secret, paths, server, remembering=self.remembering)


def network_of(  # noqa: PLR0917  (the callers name them alike)
    server: str | None,
    stun: Sequence[str],
    relay: bool,
    timeout: float | None,
    reconnect: float,
    idle_timeout: float,
    rate_limit: float | None,
) -> Network:
    """Raises ArgumentError, CallerError."""
    stun = [stun] if isinstance(stun, str) else [*stun]
    if server is not None:
        resolve.parse(server)
    for each in stun:
        resolve.parse(each, option("--stun"))
    if timeout is not None and not timeout > 0:
        raise ArgumentError("timeout is a number of seconds above 0, or None to wait for ever")
    if not reconnect >= 0:
        raise ArgumentError("reconnect is a number of seconds, or 0 to give up with the first path")
    if not idle_timeout >= MIN_IDLE_TIMEOUT:
        raise ArgumentError(f"idle_timeout is {MIN_IDLE_TIMEOUT:g} seconds at least")
    if rate_limit is not None and not rate_limit >= 1:
        raise ArgumentError("rate_limit is a number of bytes a second, or None")
    return Network(server, stun, relay, timeout, reconnect, idle_timeout, rate_limit or math.inf)
