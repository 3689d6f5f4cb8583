"""Sets one run of `send` or `recv` up from its options, and runs it."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import selectors
import shlex
import sys
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from p2p.core.address import Address
from p2p.core.errors import CallerError, ExitCode, Failure
from p2p.core.introduction import NamePair, Nameplate, Pairing
from p2p.core.peer import events
from p2p.core.peer.config import PeerConfig
from p2p.core.peer.peer import Peer
from p2p.core.role import Role
from p2p.core.session.codes import generate_code, generate_nameplate, normalise_secret, split_code
from p2p.core.text import escape
from p2p.io.ends import NOT_ASKED, SAID_NO, End, ReceivingEnd, SendingEnd, decide
from p2p.io.files import Destination, FileError, Source, open_sources
from p2p.io.interfaces import local_addresses
from p2p.io.loop import PeerLoop
from p2p.io.memory import keep_freed_memory
from p2p.io.multicast import MulticastGroups
from p2p.io.resolve import resolve, resolve_stun
from p2p.io.screen import Screen
from p2p.io.sockets import UdpSockets
from p2p.io.surroundings import Surroundings
from p2p.io.tcp import TcpHub
from p2p.io.udp import UdpSocket
from p2p.io.worker import Worker

TELLING_PATIENCE = 10.0  # seconds in which we tell the other side, if it is there, that our folder takes no files
OFFER_NAMES = 2
LOCAL_ATTEMPT = 3  # attempts that a nameplate without a server counts as: four digits, for nobody says which are taken
LOOPBACK = Address("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for. `names` is (me, friend), or None with a one-time code."""

    role: Role
    names: tuple[str, str] | None
    nameplate: str | None
    secret: str | None
    paths: tuple[str, ...]
    server: str | None
    shows_code: bool = True  # a code that was given is known to both, and may be a secret that no log is to hold

    @property
    def friend(self) -> str:
        return escape(self.names[1]) if self.names else "the other side"

    def pairing(self, attempt: int) -> Pairing:
        if self.names:
            return NamePair(*self.names)
        if self.server is None:
            attempt += LOCAL_ATTEMPT
        return Nameplate(self.nameplate or generate_nameplate(secrets.token_bytes, attempt))

    def invitation(self, nameplate: str | None) -> tuple[str, str | None]:
        """The other side's command, and the code to be told beside it."""
        server = [] if self.server is None else ["--server", self.server]
        if self.names is None:
            words = ["recv", f"{nameplate}-{self.secret}" if self.shows_code else "CODE", *server]
            return "python -m p2p.peer " + shlex.join(words), None
        me, friend = self.names
        verb = "recv" if self.role is Role.SENDER else "send"
        words = [verb, friend, me, *(["PATH"] if verb == "send" else []), *server]
        if self.secret is None:
            words.append("--no-code")
        return "python -m p2p.peer " + shlex.join(words), self.secret if self.shows_code else None


def run(options: argparse.Namespace) -> ExitCode:
    """Raises CallerError for what is wrong with the options."""
    plan = _plan(options)
    servers = [] if plan.server is None else resolve(plan.server)
    screen = Screen(
        plan.role,
        plan.friend,
        plan.invitation,
        as_json=options.json,
        quiet=options.quiet,
        verbose=options.verbose,
        is_asked=plan.role is Role.RECEIVER and not options.yes and sys.stdin.isatty(),
    )
    if not servers and plan.server is not None:
        return _stop(screen, ExitCode.NO_PEER, f"No address can be found for the server {escape(plan.server)}")
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        worker = Worker()
        stack.callback(worker.close)
        sources: list[Source] = []
        refusal: FileError | None = None
        end: End
        receiving: ReceivingEnd | None = None
        if plan.role is Role.SENDER:
            try:
                sources = open_sources(plan.paths)
            except FileError as error:
                return _stop(screen, error.failure.code, error.failure.message)
            end = SendingEnd(sources)
            screen.prepare(sum(source.entry.size for source in sources))
        else:
            try:
                receiving = ReceivingEnd(Destination(options.out), worker)
            except FileError as error:
                refusal = error
                screen.say(f"{error.failure.message}. Telling {plan.friend}, if there ...")
            end = receiving or SendingEnd(())
        stack.callback(end.close)
        udp = stack.enter_context(contextlib.closing(UdpSocket.bind_all()))
        tcp = TcpHub(selector)
        stack.callback(tcp.close_all)
        groups: MulticastGroups | None = None
        if not servers:
            groups = stack.enter_context(contextlib.closing(MulticastGroups(selector, time.monotonic())))
            if not groups.is_on_a_network:
                screen.say("This machine is on no network. Waiting for one ...")
        sockets = UdpSockets(selector, udp)
        hosts = local_addresses(servers) or local_addresses([LOOPBACK])
        config = PeerConfig(
            role=plan.role,
            servers=servers,
            next_pairing=plan.pairing,
            secret=None if plan.secret is None else normalise_secret(plan.secret),
            udp_candidates=[Address(host, udp.address.port) for host in hosts],
            tcp_candidates=[Address(host, tcp.port) for host in hosts],
            udp_port=udp.address.port,
            scratch=sockets.open_scratch() if servers else {},
            stun_servers=resolve_stun(options.stun) if servers else (),
            entries=[source.entry for source in sources],
            takes_relay=not options.no_relay,
            idle_timeout=options.idle_timeout,
        )
        peer = Peer(config, secrets.token_bytes)
        end_of_output = Failure(ExitCode.STORAGE, "Stopped, because the events of --json can no longer be written")
        question = Question(peer, selector, screen, yes=getattr(options, "yes", False))

        def stop_without_output(now: float) -> None:
            if screen.output_is_gone:
                peer.fail(end_of_output, "its program was stopped", now)

        def on_event(event: events.PeerEvent, now: float) -> None:
            if isinstance(event, events.Failed):
                question.drop()
            if isinstance(event, events.Done) and peer.udp is not None:
                screen.note_transport(peer.udp.connection.stats)
            screen.handle_event(event, now)
            stop_without_output(now)
            if isinstance(event, events.Offered):
                if receiving is None:
                    assert refusal is not None
                    peer.refuse(refusal.failure, refusal.public, now)
                elif decide(peer, receiving, event.entries, now):
                    question.ask(now)
            if isinstance(event, events.Done | events.Failed) and peer.udp is not None:
                screen.show_transport(peer.udp.connection.stats)

        def on_tick(now: float) -> None:
            screen.tick(peer.machine.progress, now)
            stop_without_output(now)

        surroundings: Surroundings | None = None
        if servers:
            surroundings = Surroundings(
                peer,
                selector,
                servers,
                udp_port=udp.address.port,
                tcp_port=tcp.port,
                now=time.monotonic(),
                note=screen.note,
            )
            stack.callback(surroundings.close)
        loop = PeerLoop(
            peer,
            sockets=sockets,
            surroundings=surroundings,
            tcp=tcp,
            end=end,
            worker=worker,
            selector=selector,
            on_event=on_event,
            on_tick=on_tick,
            patience=TELLING_PATIENCE if refusal is not None else options.timeout,
            impatience=refusal.failure if refusal is not None else None,
            groups=groups,
        )
        try:
            code = loop.run()
        finally:
            screen.stop()
        return refusal.failure.code if refusal is not None else code


class Question:
    """Asks the person whether to take the offer, without keeping the loop waiting."""

    def __init__(self, peer: Peer, selector: selectors.BaseSelector, screen: Screen, *, yes: bool) -> None:
        self._peer = peer
        self._selector = selector
        self._screen = screen
        self._yes = yes
        self._asking = False

    def ask(self, now: float) -> None:
        if self._yes:
            self._peer.accept(now)
        elif not sys.stdin.isatty():
            self._peer.refuse(NOT_ASKED, "nobody is there to be asked (no terminal, and no --yes)", now)
        else:
            _forget_typed_ahead()
            self._screen.ask("Take it? [y/N] ")
            self._asking = True
            self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._answer)

    def drop(self) -> None:
        if self._asking:
            self._asking = False
            self._selector.unregister(sys.stdin.fileno())
            self._screen.ask("\n")

    def _answer(self, _: int) -> None:
        answer = os.read(sys.stdin.fileno(), 1024).decode(errors="replace").strip().casefold()
        self._asking = False
        self._selector.unregister(sys.stdin.fileno())
        now = time.monotonic()
        if answer in ("y", "yes"):
            self._peer.accept(now)
        elif answer not in ("", "n", "no"):
            self._screen.ask("Please type y or n: ")
            self._asking = True
            self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._answer)
        else:
            self._peer.refuse(SAID_NO, "the person there said no", now)


def _forget_typed_ahead() -> None:
    """An Enter of a while ago is no answer to what is asked now."""
    try:
        import termios  # noqa: PLC0415  (absent on Windows)
    except ImportError:
        return
    with contextlib.suppress(termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def _plan(options: argparse.Namespace) -> Plan:
    code = _given_code(options)
    if options.command == "send":
        return _plan_send(options, code)
    return _plan_recv(options, code)


def _plan_send(options: argparse.Namespace, code: str | None) -> Plan:
    words: list[str] = options.words
    if len(words) == 1:
        if options.no_code:
            raise CallerError("--no-code needs names: send --no-code ME FRIEND PATH...")
        if code:
            return Plan(Role.SENDER, None, *split_code(code), tuple(words), options.server, shows_code=False)
        return Plan(Role.SENDER, None, None, generate_code(secrets.token_bytes), tuple(words), options.server)
    if len(words) == OFFER_NAMES:
        raise CallerError("send takes ME FRIEND PATH..., or one PATH alone; a file to send seems to be missing")
    me, friend, *paths = words
    if os.path.isfile(me) and os.path.isfile(friend):
        raise CallerError(f"{me} and {friend} are files: several files need names, as in send ME FRIEND {me} {friend}")
    me, friend = _names(me, friend)
    secret = None if options.no_code else code or generate_code(secrets.token_bytes)
    if secret is not None:
        normalise_secret(secret)
    return Plan(Role.SENDER, (me, friend), None, secret, tuple(paths), options.server, shows_code=not code)


def _plan_recv(options: argparse.Namespace, code: str | None) -> Plan:
    words: list[str] = options.words
    if len(words) < OFFER_NAMES:
        if options.no_code:
            raise CallerError("--no-code needs names: recv --no-code ME FRIEND")
        whole = words[0] if words else code or _ask_code("the other side")
        return Plan(Role.RECEIVER, None, *split_code(whole), (), options.server, shows_code=False)
    if len(words) != OFFER_NAMES:
        raise CallerError("recv takes ME FRIEND, or a CODE")
    me, friend = _names(*words)
    secret = None if options.no_code else code or _ask_code(friend)
    if secret is not None:
        normalise_secret(secret)
    return Plan(Role.RECEIVER, (me, friend), None, secret, (), options.server, shows_code=False)


def _names(me: str, friend: str) -> tuple[str, str]:
    """One spelling for what looks the same, whatever keyboard it was typed on. Raises CallerError for bad names."""
    pair = NamePair(unicodedata.normalize("NFC", me), unicodedata.normalize("NFC", friend))
    return pair.me, pair.friend


def _given_code(options: argparse.Namespace) -> str | None:
    if options.no_code:
        return None
    if options.code_file is not None:
        try:
            lines = Path(options.code_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CallerError(f"cannot read the code from {options.code_file}: {error}") from error
        if not lines or not lines[0].strip():
            raise CallerError(f"there is no code in {options.code_file}")
        return lines[0].strip()
    code: str | None = options.code or None
    return code


def _ask_code(friend: str) -> str:
    if not sys.stdin.isatty():
        raise CallerError("no code given: pass --code, --code-file or P2P_CODE, or --no-code on both sides")
    print(f"The code that {escape(friend)}'s screen shows: ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise CallerError("that is not text") from None


def _stop(screen: Screen, code: ExitCode, message: str) -> ExitCode:
    screen.handle_event(events.Failed(Failure(code, message)), 0.0)
    return code
