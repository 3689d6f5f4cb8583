"""What `on_event` is told: one of these, each a frozen dataclass. How a transfer ends is returned or raised."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.api.results import Offered
from p2p.core.peer.events import (
    CodeRejected,
    Connecting,
    ContactNotRemembered,
    ContactRemembered,
    FileDone,
    NotTransferred,
    OfferSent,
    PathChosen,
    PathKind,
    PathLost,
    PathMoved,
    PeerFound,
    PeerGone,
    PeerRestarted,
    PeerSilent,
    Renamed,
    SeatTaken,
    ServerAnswering,
    ServerSilent,
    TransferStarted,
    WaitingForPeer,
)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the person, about what is remembered of the other side or of an earlier run."""

    text: str


Event = (
    Note
    | ServerSilent
    | ServerAnswering
    | WaitingForPeer
    | SeatTaken
    | PeerFound
    | PeerGone
    | PeerSilent
    | CodeRejected
    | Connecting
    | PathChosen
    | PathMoved
    | PathLost
    | PeerRestarted
    | Offered
    | OfferSent
    | TransferStarted
    | FileDone
    | Renamed
    | NotTransferred
    | ContactRemembered
    | ContactNotRemembered
)

__all__ = [
    "CodeRejected",
    "Connecting",
    "ContactNotRemembered",
    "ContactRemembered",
    "Event",
    "FileDone",
    "NotTransferred",
    "Note",
    "OfferSent",
    "Offered",
    "PathChosen",
    "PathKind",
    "PathLost",
    "PathMoved",
    "PeerFound",
    "PeerGone",
    "PeerRestarted",
    "PeerSilent",
    "Renamed",
    "SeatTaken",
    "ServerAnswering",
    "ServerSilent",
    "TransferStarted",
    "WaitingForPeer",
]
