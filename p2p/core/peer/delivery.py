"""One path of a transfer: records between a channel and one of the transfer machines, and how it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import assert_never

from p2p.core.contacts import exchange as contacts
from p2p.core.contacts.exchange import ContactExchange
from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode, Failure, RemoteError, VersionError
from p2p.core.peer import events, explain
from p2p.core.peer.channel import Channel, Damaged, Ended, Lost, Vanished
from p2p.core.transfer import events as transfer
from p2p.core.transfer.messages import CONTACT, MessageType
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender

LINGER = 3.0  # seconds after our last word in which the other side may still close first
LINGER_AGAIN = 0.5  # seconds between two looks whether the last word has arrived; the idle time-out ends them
# HOLE records taken before the loop looks at its sockets again: their zeros are hashed for 16 ms here, 0.1 s on a small
# board. One read of a socket holds 6,000 of them, in which no keep-alive would go out until the other side gives up.
HOLES_A_TURN = 4

Machine = TransferSender | TransferReceiver

_HOLE = bytes([MessageType.HOLE])


class Delivery:
    """Composes a channel and a transfer, which may outlive it."""

    def __init__(
        self,
        channel: Channel,
        machine: Machine,
        now: float,
        *,
        goes_on: bool,
        contact: ContactExchange | None = None,
    ) -> None:
        """`goes_on`: the transfer began on another path. Without `contact` this side does not remember the other."""
        self._channel = channel
        self._machine = machine
        self._contact = contact = contact or ContactExchange()
        self._is_greeted = not goes_on  # CONTINUE goes before all else
        self._events: deque[events.PeerEvent] = deque()
        self._unsent: deque[Buffer] = deque()  # more records came of what was read than the path takes at once
        self._linger: float | None = None
        self._resume: float | None = None  # more records are there, but the loop has to look at its sockets first
        self._ended = False
        self._closed = False
        self._is_finished = goes_on and isinstance(machine, TransferReceiver) and machine.ended
        self.is_unconfirmed = False
        """Receiver: everything arrived, but whether the sender heard so is not known."""
        contact.start_path()
        if goes_on:
            machine.go_on()
        elif isinstance(machine, TransferSender):
            machine.start()
            self._events.append(events.OfferSent())
        self.advance(now)

    @property
    def is_over(self) -> bool:
        return self._ended and self._channel.is_over

    @property
    def is_confirming(self) -> bool:
        """Receiver: all that is left is to tell the sender once more that everything arrived, on another path."""
        return self._is_finished

    @property
    def heard_at(self) -> float:
        """When something came from the other side last."""
        return self._channel.heard_at

    # command

    def refuse(self, code: ExitCode, reason: str, now: float) -> None:
        assert isinstance(self._machine, TransferReceiver)
        self._ended = True
        self._machine.refuse(code, reason)
        self._linger = now + LINGER
        self.advance(now)

    def fail(self, failure: Failure, told: str, now: float) -> None:
        """Ends with `failure` here and tells the other side `told`."""
        if not self._ended:
            self._ended = True
            self._machine.stop()
            self._events.append(events.Failed(failure))
            self._close(failure.code, told, now)

    def lose(self, why: str, now: float) -> None:
        """Gives the path up; the transfer may go on over another one."""
        if not self._ended:
            self._lose(why, now)

    # input

    def handle_timeout(self, now: float) -> None:
        if (at := self._channel.poll_timeout()) is not None and at <= now:
            self._channel.handle_timeout(now)
        if self._linger is not None and self._linger <= now:
            if self._is_heard:
                self._linger = None
                self._close(ExitCode.DONE, "", now)
            else:
                self._linger = now + LINGER_AGAIN
        self.advance(now)

    def send(self, records: Sequence[Buffer], now: float) -> None:
        """Records that the machine made of what was read. Their buffers may be used again afterwards."""
        if not self._closed:
            for record in records:
                if self._unsent or not self._channel.room():
                    self._unsent.append(bytes(record))
                else:
                    self._channel.send(record, now)
            self._send_control(now)  # the end of a file follows its last piece at once

    def advance(self, now: float) -> None:
        """Moves records and events between the channel and the machine. To be called after every input to either."""
        holes = 0
        while holes < HOLES_A_TURN and self._takes_record() and (record := self._channel.poll_record()) is not None:
            holes += record[:1] == _HOLE
            self._take_record(record, now)
        self._resume = now if holes == HOLES_A_TURN else None
        self._take_events(now)
        self._send_control(now)
        self._take_events(now)
        self._take_end(now)
        if (address := self._channel.poll_moved()) is not None:
            self._events.append(events.PathMoved(address))

    # output

    def poll_wanted(self, now: float) -> transfer.Wanted | None:
        """Sender: what to read next, if the path takes it, and no control record has to go before it."""
        self._send_control(now)
        if self._ended or not isinstance(self._machine, TransferSender):
            return None
        return self._machine.poll_wanted(0 if self._unsent else self._channel.room())

    def poll_event(self) -> events.PeerEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        timeouts = (self._channel.poll_timeout(), self._linger, self._resume)
        return min((t for t in timeouts if t is not None), default=None)

    # inside

    @property
    def _has_finished(self) -> bool:
        return self._is_finished or (isinstance(self._machine, TransferReceiver) and self._machine.is_finished)

    def _takes_record(self) -> bool:
        """Back-pressure: a receiver whose disk lags behind leaves records where they are."""
        if isinstance(self._machine, TransferSender):
            return not self._ended
        return self._machine.is_finished or (not self._ended and self._machine.ready)

    def _take_record(self, record: Buffer, now: float) -> None:
        try:
            if record and record[0] == CONTACT:
                self._contact.handle_record(record)
            else:
                self._machine.handle_record(record)
        except RemoteError as error:
            self._break_off(error, now)

    @property
    def _is_heard(self) -> bool:
        """Whether the other side knows our last word: by its own, where the path does not vouch for it."""
        if not self._channel.is_delivered:
            return False
        is_told = self._channel.tells_delivery or not isinstance(self._machine, TransferReceiver)
        return is_told or not self._has_finished or self._is_confirmed

    @property
    def _is_confirmed(self) -> bool:
        return isinstance(self._machine, TransferReceiver) and self._machine.is_confirmed

    def _send_control(self, now: float) -> None:
        while not self._closed and self._channel.room() and (record := self._next_record()) is not None:
            self._channel.send(record, now)

    def _next_record(self) -> Buffer | None:
        if self._is_greeted and (record := self._contact.poll_record()) is not None:
            return record
        if self._unsent:
            return self._unsent.popleft()
        if (record := self._machine.poll_record()) is not None:
            self._is_greeted = True
        return record

    def _close(self, code: ExitCode, reason: str, now: float) -> None:
        self._closed = True
        self._channel.close(code, reason, now)

    def _break_off(self, error: RemoteError, now: float) -> None:
        if isinstance(error, VersionError):
            words = explain.outdated("the other side", error.version)
            self.fail(Failure(ExitCode.INTERNAL, words), explain.outdated_over_there(error.version), now)
            return
        message = f"The other side sent what makes no sense ({error}). No file is half there under its name"
        self.fail(Failure(ExitCode.INTEGRITY, message), f"it does not understand what this side sent ({error})", now)

    def _take_events(self, now: float) -> None:
        while (happened := self._contact.poll_event()) is not None:
            match happened:
                case contacts.Heard(public):
                    self._events.append(events.ContactHeard(public))
                case contacts.Remembered(public):
                    self._events.append(events.ContactRemembered(public))
                case contacts.NotRemembered(why, by_peer):
                    self._events.append(events.ContactNotRemembered(why, by_peer))
                case _:
                    assert_never(happened)
        while (event := self._machine.poll_event()) is not None:
            match event:
                case transfer.Offered(offer):
                    self._events.append(events.Offered(offer))
                case transfer.Accepted(answers):
                    self._events.append(events.TransferStarted(answers))
                case transfer.Refused(code, reason):
                    self._finish(events.Failed(Failure(*explain.refused_by_peer(code, reason))), now)
                case transfer.FileSent(path, size, digest, kept):
                    self._events.append(events.FileDone(path, size, digest, None, kept))
                case transfer.OtherStored(path, saved_as):
                    self._events.append(events.Renamed(path, saved_as))
                case transfer.FileStored(path, size, digest, saved_as, kept):
                    self._events.append(events.FileDone(path, size, digest, saved_as, kept))
                case transfer.NotTransferred(path, reason, code, by_peer):
                    self._events.append(events.NotTransferred(path, reason, code, by_peer))
                case transfer.Finished(digest, code, missed):
                    self._take_finished(events.Done(digest, code, missed), now)
                case transfer.Aborted(code, reason, by_peer):
                    self._handle_abort(code, reason, by_peer, now)

    def _take_finished(self, done: events.Done, now: float) -> None:
        """The sender has the last word, so that the receiver's FINISHED is never cut off by its own close."""
        if isinstance(self._machine, TransferSender):
            self._send_control(now)  # that it has taken FINISHED
            self._finish(done, now)
        else:
            self._ended = True
            self._linger = now + LINGER
            self._events.append(done)

    def _finish(self, event: events.PeerEvent, now: float) -> None:
        if not self._ended:
            self._ended = True
            self._events.append(event)
            self._close(ExitCode.DONE, "", now)

    def _handle_abort(self, code: ExitCode, reason: str, by_peer: bool, now: float) -> None:
        if by_peer:
            self._finish(events.Failed(Failure(*explain.told_on_a_path(code, reason))), now)
        else:
            self.fail(Failure(code, reason), reason, now)

    def _take_end(self, now: float) -> None:
        end = self._channel.poll_end()
        if end is None:
            return
        self._linger = None
        if self._ended or self._is_finished:
            self.is_unconfirmed = self._has_finished and not isinstance(end, Ended) and not self._is_confirmed
            self._ended = True
            self._close(ExitCode.DONE, "", now)
            return
        match end:
            case Ended(code, reason):
                self.fail(Failure(*explain.told_on_a_path(code, reason)), "", now)
            case Vanished():
                if (abort := self._last_word()) is None:
                    self._lose(explain.connection_closed(), now)
                else:
                    self._take_record(abort, now)
                    self._take_events(now)
            case Lost(silence):
                self._lose(explain.path_lost(silence), now)
            case Damaged(what):
                self._lose(explain.damaged(what), now)

    def _last_word(self) -> Buffer | None:
        """An ABORT behind records that waited for a slow disk: who said it does not come back."""
        while (record := self._channel.poll_record()) is not None:
            if record and record[0] == MessageType.ABORT:
                return record
        return None

    def _lose(self, why: str, now: float) -> None:
        """The machine stays as it is: it may go on elsewhere."""
        self._ended = self._closed = True
        self._events.append(events.PathLost(why))
        self._channel.drop(now)
