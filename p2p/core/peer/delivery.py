"""The third part of a run: the transfer over the path that won, to a verified end that both sides know of."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from p2p.core.errors import ExitCode, Failure, RemoteError, VersionError
from p2p.core.peer import events, explain
from p2p.core.peer.channel import Channel, Damaged, Ended, Lost, Vanished
from p2p.core.transfer import events as transfer
from p2p.core.transfer.messages import Entry
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import Read, ReadWhole, TransferSender

LINGER = 3.0  # seconds after our last word in which the other side may still close first
LINGER_AGAIN = 0.5  # seconds between two looks whether the last word has arrived; the idle time-out ends them

FileAction = transfer.Open | transfer.Write | transfer.Complete | transfer.Whole


class Delivery:
    """Composes a channel and one of the transfer machines."""

    def __init__(
        self, channel: Channel, machine: TransferSender | TransferReceiver, entries: Sequence[Entry], now: float
    ) -> None:
        self._channel = channel
        self._machine = machine
        self._events: deque[events.PeerEvent] = deque()
        self._file_actions: deque[FileAction] = deque()
        self._entries = entries
        self._digests: dict[int, bytes] = {}  # of files that are being stored
        self._linger: float | None = None
        self._ended = False
        self._closed = False
        if isinstance(machine, TransferSender):
            machine.start()
            self._events.append(events.OfferSent())
        self.advance(now)

    @property
    def is_over(self) -> bool:
        return self._ended and self._channel.is_over

    # command

    def accept(self, now: float) -> None:
        self._receiver.accept()
        self._events.append(events.TransferStarted())
        self.advance(now)

    def refuse(self, code: ExitCode, reason: str, now: float) -> None:
        self._ended = True
        self._receiver.refuse(code, reason)
        self._linger = now + LINGER
        self.advance(now)

    def fail(self, failure: Failure, told: str, now: float) -> None:
        """Ends with `failure` here and tells the other side `told`."""
        if not self._ended:
            self._ended = True
            self._events.append(events.Failed(failure))
            self._close(failure.code, told, now)

    # input

    def handle_timeout(self, now: float) -> None:
        if (at := self._channel.poll_timeout()) is not None and at <= now:
            self._channel.handle_timeout(now)
        if self._linger is not None and self._linger <= now:
            if self._channel.is_delivered:
                self._linger = None
                self._close(ExitCode.DONE, "", now)
            else:
                self._linger = now + LINGER_AGAIN
        self.advance(now)

    def handle_read(self, read: Read, records: Sequence[bytearray | memoryview], now: float) -> None:
        """The bytes that `poll_read` asked for stand in `records`."""
        assert isinstance(self._machine, TransferSender)
        if self._machine.handle_read(read, records):
            for record in records:
                self._channel.send(record, now)
            self._send_control(now)  # the end of a file follows its last piece at once

    def handle_whole(self, read: ReadWhole, contents: Sequence[bytes], now: float) -> None:
        """The small files that `poll_read` asked for."""
        assert isinstance(self._machine, TransferSender)
        if (record := self._machine.handle_whole(read, contents)) is not None:
            self._channel.send(record, now)
            self._send_control(now)

    def handle_stored(self, names: Sequence[tuple[int, str]], now: float) -> None:
        """These files are durable and bear these names."""
        for file, final_name in names:
            self._receiver.handle_stored(file, final_name)
            self._events.append(events.FileDone(self._entries[file], self._digests.pop(file), final_name))
        self.advance(now)

    def advance(self, now: float) -> None:
        """Moves records and events between the channel and the machine. To be called after every input to either."""
        while self._takes_record() and (record := self._channel.poll_record()) is not None:
            try:
                self._machine.handle_record(record)
            except RemoteError as error:
                self._break_off(error, now)
        self._take_events(now)
        self._send_control(now)
        self._take_events(now)
        self._take_end(now)
        if (address := self._channel.poll_moved()) is not None:
            self._events.append(events.PathMoved(address))

    # output

    def poll_read(self, now: float) -> Read | ReadWhole | None:
        """Sender: the next bytes to read, if the path takes them, and no control record has to go before them."""
        self._send_control(now)
        if self._ended or not isinstance(self._machine, TransferSender):
            return None
        return self._machine.poll_read(self._channel.room())

    def poll_file_action(self) -> FileAction | None:
        if self._ended:
            return None  # what is left of a transfer that failed is not to be written
        return self._file_actions.popleft() if self._file_actions else None

    def poll_event(self) -> events.PeerEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        timeouts = (self._channel.poll_timeout(), self._linger)
        return min((t for t in timeouts if t is not None), default=None)

    # inside

    @property
    def _receiver(self) -> TransferReceiver:
        assert isinstance(self._machine, TransferReceiver)
        return self._machine

    def _takes_record(self) -> bool:
        """Back-pressure: a receiver whose disk lags behind leaves records where they are."""
        return not self._ended and (isinstance(self._machine, TransferSender) or self._machine.ready)

    def _send_control(self, now: float) -> None:
        while not self._closed and self._channel.room() and (record := self._machine.poll_record()) is not None:
            self._channel.send(record, now)

    def _close(self, code: ExitCode, reason: str, now: float) -> None:
        self._closed = True
        self._channel.close(code, reason, now)

    def _break_off(self, error: RemoteError, now: float) -> None:
        if isinstance(error, VersionError):
            words = explain.outdated("the other side", error.version)
            self.fail(Failure(ExitCode.INTERNAL, words), words, now)
            return
        message = f"The other side sent what makes no sense ({error}). Nothing half-received was kept"
        self.fail(Failure(ExitCode.INTEGRITY, message), f"it does not understand what this side sent ({error})", now)

    def _take_events(self, now: float) -> None:
        while (event := self._machine.poll_event()) is not None:
            match event:
                case transfer.Open() | transfer.Write():
                    self._file_actions.append(event)
                case transfer.Complete(file, digest) | transfer.Whole(file, digest=digest):
                    self._digests[file] = digest
                    self._file_actions.append(event)
                case transfer.Offered(entries, total):
                    self._entries = entries
                    self._events.append(events.Offered(entries, total))
                case transfer.Accepted():
                    self._events.append(events.TransferStarted())
                case transfer.Refused(code, reason):
                    self._finish(events.Failed(Failure(*explain.refused_by_peer(code, reason))), now)
                case transfer.FileSent(file, digest):
                    self._events.append(events.FileDone(self._entries[file], digest, None))
                case transfer.Finished(digest):
                    self._take_finished(digest, now)
                case transfer.Aborted(code, reason, by_peer):
                    self._handle_abort(code, reason, by_peer, now)

    def _take_finished(self, digest: bytes, now: float) -> None:
        """The sender has the last word, so that the receiver's FINISHED is never cut off by its own close."""
        if isinstance(self._machine, TransferSender):
            self._finish(events.Done(digest), now)
        else:
            self._ended = True
            self._linger = now + LINGER
            self._events.append(events.Done(digest))

    def _finish(self, event: events.PeerEvent, now: float) -> None:
        if not self._ended:
            self._ended = True
            self._events.append(event)
            self._close(ExitCode.DONE, "", now)

    def _handle_abort(self, code: ExitCode, reason: str, by_peer: bool, now: float) -> None:
        if by_peer:
            self._finish(events.Failed(Failure(*explain.told(code, reason))), now)
        else:
            self.fail(Failure(code, reason), reason, now)

    def _take_end(self, now: float) -> None:
        end = self._channel.poll_end()
        if end is None:
            return
        self._linger = None
        if self._ended:
            self._close(ExitCode.DONE, "", now)
            return
        match end:
            case Ended(code, reason):
                failure = Failure(*explain.told(code, reason))
            case Vanished():
                failure = Failure(ExitCode.INTERRUPTED, explain.connection_closed())
            case Lost(silence):
                failure = Failure(ExitCode.INTERRUPTED, explain.path_lost(silence))
            case Damaged(what):
                failure = Failure(ExitCode.INTEGRITY, f"The connection was broken off: {what}. Run both commands again")
        self.fail(failure, "", now)
