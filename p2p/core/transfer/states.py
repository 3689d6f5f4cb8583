"""What either side may say in which state of the other. A missing row is its fault who said it."""

from __future__ import annotations

from enum import Enum, auto

from p2p.core.transfer.messages import (
    Accept,
    Data,
    Entries,
    FileEnd,
    Finish,
    Finished,
    Have,
    Hole,
    LeftOut,
    Message,
    Offer,
    Problem,
    Refuse,
    Same,
    Totals,
    WholeFiles,
)


class SenderState(Enum):
    IDLE = auto()
    WAITING = auto()
    SENDING = auto()
    FINISHING = auto()
    FINISHED = auto()
    ENDED = auto()


class ReceiverState(Enum):
    AWAITING_OFFER = auto()
    DECIDING = auto()
    RECEIVING = auto()
    STORING = auto()
    FINISHED = auto()
    ENDED = auto()


FROM_RECEIVER: dict[tuple[SenderState, type[Message]], SenderState] = {
    (SenderState.WAITING, Refuse): SenderState.ENDED,
    (SenderState.WAITING, Accept): SenderState.SENDING,
    (SenderState.SENDING, Have): SenderState.SENDING,
    (SenderState.SENDING, Problem): SenderState.SENDING,
    (SenderState.FINISHING, Problem): SenderState.FINISHING,
    (SenderState.FINISHING, Finished): SenderState.FINISHED,
}

FROM_SENDER: dict[tuple[ReceiverState, type[Message]], ReceiverState] = {
    (ReceiverState.AWAITING_OFFER, Offer): ReceiverState.DECIDING,
    (ReceiverState.DECIDING, Totals): ReceiverState.DECIDING,
    (ReceiverState.RECEIVING, Totals): ReceiverState.RECEIVING,
    (ReceiverState.RECEIVING, Entries): ReceiverState.RECEIVING,
    (ReceiverState.RECEIVING, Data): ReceiverState.RECEIVING,
    (ReceiverState.RECEIVING, Hole): ReceiverState.RECEIVING,
    (ReceiverState.RECEIVING, Same): ReceiverState.RECEIVING,
    (ReceiverState.RECEIVING, FileEnd): ReceiverState.RECEIVING,
    (ReceiverState.RECEIVING, WholeFiles): ReceiverState.RECEIVING,
    (ReceiverState.RECEIVING, LeftOut): ReceiverState.RECEIVING,
    (ReceiverState.RECEIVING, Finish): ReceiverState.STORING,
}
