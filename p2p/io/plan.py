"""What is asked for: who meets whom, with what code, to send or take what."""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass, field

from p2p.core.calling import PEER_PROGRAM
from p2p.core.introduction import NamePair, Nameplate, Pairing
from p2p.core.role import Role
from p2p.core.session.codes import generate_nameplate, normalise_secret
from p2p.core.text import escape
from p2p.io.remembering import Remembering
from p2p.io.terminal.words import UNNAMED

OFFER_NAMES = 2
LOCAL_ATTEMPT = 3  # attempts that a nameplate without a server counts as: four digits, for nobody says which are taken
PIPE = "-"  # in the place of a path, or of the folder: standard input, standard output


@dataclass(frozen=True, slots=True)
class Plan:
    """`names` is (me, friend), or None with a one-time code. `text` or the output of `command` is sent for `paths`.

    `secret` is None with --no-code, and where `remembering` has the key of a contact.
    """

    role: Role
    names: tuple[str, str] | None
    nameplate: str | None
    secret: str | None
    paths: tuple[str, ...]
    server: str | None
    shows_code: bool = True  # a code that was given is known to both, and may be a secret that no log is to hold
    text: str | None = None
    command: str | None = None
    remembering: Remembering = field(default_factory=Remembering)

    @property
    def friend(self) -> str:
        return escape(self.names[1]) if self.names else UNNAMED

    @property
    def is_pipe(self) -> bool:
        return self.paths == (PIPE,)

    def session_secret(self, remembering: Remembering) -> bytes | None:
        if remembering.is_contact:
            return remembering.secret
        return None if self.secret is None else normalise_secret(self.secret)

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
            return f"{PEER_PROGRAM} " + shlex.join(words), None
        me, friend = self.names
        verb = "recv" if self.role is Role.SENDER else "send"
        words = [verb, friend, me, *(["PATH"] if verb == "send" else []), *server]
        if self.remembering.wants:
            words.insert(1, "--remember")
        if self.secret is None and not self.remembering.is_contact:
            words.append("--no-code")
        return f"{PEER_PROGRAM} " + shlex.join(words), self.secret if self.shows_code else None
