"""Sealed records over one TCP connection: authenticated handshake, then framing (docs/protocol.md, section 5)."""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError, RemoteError

MAX_RECORD = 63_488  # bytes of plaintext; section 6
TAG_LENGTH = 16
MAX_QUEUED_RECORDS = 16  # about 1 MiB waits for the socket, so that a slow link shows up as back-pressure
RESERVED_RECORDS = 4  # places that only urgent records (ABORT, KEEPALIVE) may take

_MAGIC = b"p2pt"
_VERSION = 1
_HEAD = _MAGIC + bytes([_VERSION])
_NONCE_LENGTH = 16
_MAC_LENGTH = 32
_LENGTH = 2  # bytes of a record's length field
_CONNECT_LENGTH = len(_HEAD) + _NONCE_LENGTH + _MAC_LENGTH
_LISTEN_LENGTH = _NONCE_LENGTH + _MAC_LENGTH


@dataclass(frozen=True, slots=True)
class TcpKeys:
    """Keys of 32 bytes: `hello_*` authenticate the handshake, `records_*` seed the record keys."""

    hello_out: bytes
    hello_in: bytes
    records_out: bytes
    records_in: bytes


class State(Enum):
    AWAIT_CONNECT = auto()  # listener: nothing proved yet
    AWAIT_LISTEN = auto()  # connector: sent its hello
    IGNORE_CONNECT = auto()  # connector that met another one, which yields: its hello counts for nothing
    AWAIT_ANSWER = auto()  # connector: after that, nothing but a listener's answer may come
    AWAIT_PROOF = auto()  # listener: answered, waits for proof of freshness
    OPEN = auto()


_EXPECTED_LENGTH = {
    State.AWAIT_CONNECT: _CONNECT_LENGTH,
    State.AWAIT_LISTEN: _LISTEN_LENGTH,
    State.IGNORE_CONNECT: _CONNECT_LENGTH,
    State.AWAIT_ANSWER: _LISTEN_LENGTH,
    State.AWAIT_PROOF: _MAC_LENGTH,
}


class TcpChannel:
    """One connection. Raises RemoteError from `handle_data` when the other end is not our peer, or no longer sound.

    Outputs buffers for a socket; the caller asks for the next only when the last has gone out.
    """

    def __init__(
        self, keys: TcpKeys, *, connector: bool, random_bytes: Callable[[int], bytes], yields: bool = False
    ) -> None:
        """`yields`: a connector that meets another connector (TCP simultaneous open) is the listener then.

        Exactly one of the two sides must.
        """
        self._keys = keys
        self._yields = yields
        self._output: deque[Buffer] = deque()
        self._queued_records = 0
        self._input = bytearray()
        self._records: deque[bytes] = deque()
        self._seal: AESGCM | None = None
        self._open: AESGCM | None = None
        self._next_out = 0
        self._next_in = 0
        self._nonce = random_bytes(_NONCE_LENGTH)
        self._transcript = b""
        self.state = State.AWAIT_CONNECT
        if connector:
            head = _HEAD + self._nonce
            self._transcript = head + _mac(keys.hello_out, head)
            self._output.append(self._transcript)
            self.state = State.AWAIT_LISTEN

    @property
    def is_open(self) -> bool:
        """Whether both ends have proved that they hold the session's keys."""
        return self.state is State.OPEN

    @property
    def has_record(self) -> bool:
        return bool(self._records)

    @property
    def unread(self) -> int:
        """Records that `poll_record` has not handed out yet. The caller bounds them by reading no more."""
        return len(self._records)

    def handle_data(self, data: Buffer) -> None:
        """Takes bytes as they came. Whole records are opened where they stand; only a cut one is copied."""
        view = memoryview(data)
        while self.state is not State.OPEN:
            view = self._collect(view, len(_HEAD))
            if self.state is State.AWAIT_LISTEN and bytes(self._input) == _HEAD:
                self._meet_connector()
            length = _EXPECTED_LENGTH[self.state]
            view = self._collect(view, length)
            if self.state is State.AWAIT_CONNECT and not _MAGIC.startswith(self._input[: len(_MAGIC)]):
                raise RemoteError("not a peer of ours: wrong first bytes")
            if len(self._input) < length:
                return
            message = bytes(self._input)
            self._input.clear()
            self._handle_handshake(message)
        while self._input and view:
            view = self._collect(view, self._wanted(self._input))
            if len(self._input) >= _LENGTH and len(self._input) == self._wanted(self._input):
                self._open_records(memoryview(bytes(self._input)))
                self._input.clear()
        self._input += view[self._open_records(view) :]

    def room(self) -> int:
        """Records that it takes now."""
        return max(0, MAX_QUEUED_RECORDS - self._queued_records) if self.state is State.OPEN else 0

    def send(self, plaintext: Buffer, *, urgent: bool = False) -> None:
        """Seals and queues one record. Raises CallerError when there is no `room()` or the record is too long."""
        room = MAX_QUEUED_RECORDS + (RESERVED_RECORDS if urgent else 0)
        if self._seal is None or self._queued_records >= room or len(plaintext) > MAX_RECORD:
            raise CallerError("record does not fit the channel")
        ciphertext = self._seal.encrypt(_record_nonce(self._next_out), plaintext, None)
        self._next_out += 1
        self._queued_records += 1
        self._output.append(len(ciphertext).to_bytes(2, "big"))
        self._output.append(ciphertext)

    def poll_output(self) -> list[Buffer]:
        """Everything queued, for one gathering write; empty when there is nothing."""
        buffers = list(self._output)
        self._output.clear()
        self._queued_records = 0
        return buffers

    def poll_record(self) -> bytes | None:
        return self._records.popleft() if self._records else None

    def _handle_handshake(self, message: bytes) -> None:
        keys = self._keys
        match self.state:
            case State.AWAIT_CONNECT:
                head, mac = message[:-_MAC_LENGTH], message[-_MAC_LENGTH:]
                _check(keys.hello_in, head, mac)
                if head[len(_MAGIC)] != _VERSION:
                    raise RemoteError(f"TCP handshake of version {head[len(_MAGIC)]}: please update")
                answer = self._nonce + _mac(keys.hello_out, message + self._nonce)
                self._transcript = message + answer
                self._output.append(answer)
                self.state = State.AWAIT_PROOF
            case State.IGNORE_CONNECT:
                self.state = State.AWAIT_ANSWER
            case State.AWAIT_LISTEN | State.AWAIT_ANSWER:
                nonce, mac = message[:_NONCE_LENGTH], message[_NONCE_LENGTH:]
                _check(keys.hello_in, self._transcript + nonce, mac)
                self._transcript += message
                self._output.append(_mac(keys.hello_out, self._transcript))
                self._start_records(self._nonce + nonce)
            case State.AWAIT_PROOF:
                _check(keys.hello_in, self._transcript, message)
                connector_nonce = self._transcript[len(_HEAD) :][:_NONCE_LENGTH]
                self._start_records(connector_nonce + self._nonce)
            case State.OPEN:
                raise CallerError("the handshake is over")

    def _meet_connector(self) -> None:
        """The other side opened as well, at the same time: one connection of two connectors.

        A listener's answer begins with a random number, which is these five bytes once in 2^40 times.
        """
        self.state = State.AWAIT_CONNECT if self._yields else State.IGNORE_CONNECT

    def _start_records(self, salt: bytes) -> None:
        self._seal = AESGCM(_expand(self._keys.records_out, salt))
        self._open = AESGCM(_expand(self._keys.records_in, salt))
        self.state = State.OPEN

    def _collect(self, view: memoryview, length: int) -> memoryview:
        """Moves bytes from `view` to the input until that has `length`; returns what is left."""
        missing = max(0, length - len(self._input))
        self._input += view[:missing]
        return view[missing:]

    @staticmethod
    def _wanted(start: Buffer) -> int:
        """Bytes of the record that begins so, its length field included. Raises RemoteError."""
        if len(start) < _LENGTH:
            return _LENGTH
        length = start[0] << 8 | start[1]
        if not TAG_LENGTH < length <= MAX_RECORD + TAG_LENGTH:
            raise RemoteError(f"record of {length} bytes")
        return _LENGTH + length

    def _open_records(self, view: memoryview) -> int:
        """Opens the whole records at the front; returns their length."""
        assert self._open is not None
        start = 0
        while len(view) - start > _LENGTH:
            end = start + self._wanted(view[start : start + _LENGTH])
            if len(view) < end:
                break
            try:
                record = self._open.decrypt(_record_nonce(self._next_in), view[start + _LENGTH : end], None)
            except InvalidTag:
                raise RemoteError("a record was altered on its way") from None
            self._records.append(record)
            self._next_in += 1
            start = end
        return start


def _record_nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha256)


def _check(key: bytes, data: bytes, mac: bytes) -> None:
    if not hmac.compare_digest(_mac(key, data), mac):
        raise RemoteError("not a peer of ours: it does not hold the session's keys")


def _expand(key: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"p2p tcp records").derive(key)
