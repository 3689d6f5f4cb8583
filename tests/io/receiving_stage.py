"""A transfer with no network between: files of this disk through both ends and both machines, into a folder."""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from p2p.core.datagram import Buffer
from p2p.core.errors import Failure
from p2p.core.peer.peer import Peer
from p2p.core.transfer import events
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender
from p2p.io.receiving.end import ReceivingEnd
from p2p.io.sending.end import SendingEnd

GUARD = 30.0  # seconds after which a thread that says nothing fails the test


class Line:
    """One path, as far as the ends know a peer. Records that were not delivered are lost with it."""

    def __init__(self, sender: TransferSender | None, receiver: TransferReceiver, *, goes_on: bool = False) -> None:
        self.failure: Failure | None = None
        self.told = ""
        self._sender = sender
        self._receiver = receiver
        self._records: deque[bytes] = deque()
        if sender is not None and goes_on:
            sender.go_on()
            receiver.go_on()
        elif sender is not None:
            sender.start()

    @property
    def peer(self) -> Peer:
        return cast(Peer, self)

    def poll_wanted(self, _: float) -> events.Wanted | None:
        self.advance(0.0)
        return self._sender.poll_wanted(5) if self._sender is not None else None

    def send(self, records: Sequence[Buffer], _: float) -> None:
        self._records.extend(map(bytes, records))  # as sealing copies them
        self.advance(0.0)

    def advance(self, _: float) -> None:
        while self._sender is not None and (record := self._sender.poll_record()) is not None:
            self._records.append(record)

    def fail(self, failure: Failure, told: str, _: float) -> None:
        if self.failure is None:
            self.failure, self.told = failure, told
            self._receiver.stop()

    def deliver(self) -> bool:
        """One record in each direction. Returns whether anything arrived."""
        assert self._sender is not None
        moved = False
        if self._records and self._receiver.ready:
            moved = True
            self._receiver.handle_record(self._records.popleft())
        if (answer := self._receiver.poll_record()) is not None:
            moved = True
            self._sender.handle_record(answer)
        return moved


class Stage:
    """Runs both ends as the loop does, until both machines have ended or `until` says so."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.sent: list[events.SenderEvent] = []
        self.received: list[events.ReceiverEvent] = []
        self.line: Line

    def run(
        self,
        sending: SendingEnd,
        receiving: ReceivingEnd,
        *,
        breaks: Sequence[int] = (),
        until: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """The path is lost in the turns `breaks`."""
        sender, receiver = sending.machine, receiving.machine
        self.line = Line(sender, receiver)
        turn = 0
        try:
            while not (sender.ended and receiver.ended) and self.line.failure is None and not until(turn):
                turn += 1
                moved = sending.advance(self.line.peer, 0.0)
                if turn in breaks:
                    self.line = Line(sender, receiver, goes_on=True)
                receiving.advance(self.line.peer, 0.0)
                moved = self.line.deliver() or moved
                moved = self._take_events(sender, receiving) or moved
                moved = moved or sender.ended or self.line.failure is not None
                ready = self.selector.select(0.0 if moved else GUARD)
                assert ready or moved, "both wait for each other"
                for key, mask in ready:
                    key.data(mask)
        finally:
            sending.close()
            receiving.close()
            self._take_events(sender, receiving)
        assert not self.selector.get_map()

    def _take_events(self, sender: TransferSender, receiving: ReceivingEnd) -> bool:
        moved = False
        while (sent := sender.poll_event()) is not None:
            moved = True
            self.sent.append(sent)
        while (received := receiving.machine.poll_event()) is not None:
            moved = True
            self.received.append(received)
            if isinstance(received, events.Offered):
                receiving.handle_offer(received.offer)
                receiving.accept(received.offer, self.line.peer, 0.0)
        return moved

    @property
    def problems(self) -> list[str]:
        """What the receiver could not store."""
        missed = [event for event in self.received if isinstance(event, events.NotTransferred)]
        return [event.reason for event in missed if not event.by_peer]

    @property
    def kept(self) -> int:
        return sum(event.kept for event in self.received if isinstance(event, events.FileStored))
