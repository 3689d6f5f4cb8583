"""What the other side must not say: every cell of both state tables, and every rule within an allowed message."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer.in_memory import CHANGED, Tree, digest

from p2p.core.errors import DecodeError, ExitCode, RemoteError
from p2p.core.transfer import messages
from p2p.core.transfer.codec import decode, encode
from p2p.core.transfer.entries import File, Folder, Hardlink, Kind, Leave, Skipped, Symlink
from p2p.core.transfer.events import Aborted, Complete, Finished, Offered, Refused, WantEntries, Whole
from p2p.core.transfer.limits import (
    MAX_ANNOUNCED,
    MAX_DEPTH,
    MAX_GROWTH,
    MAX_HOLE,
    MAX_LINKED,
    MAX_MORE,
    MAX_PIECES,
    MAX_TEXT,
    MAX_TOTAL,
)
from p2p.core.transfer.messages import (
    CHUNK,
    PIECE,
    Abort,
    Accept,
    Continue,
    Data,
    Entries,
    FileEnd,
    Finish,
    Have,
    Hole,
    Keepalive,
    LeftOut,
    Message,
    Offer,
    OfferKind,
    Problem,
    Refuse,
    Root,
    Same,
    Taken,
    Totals,
    WholeFile,
    WholeFiles,
)
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender
from p2p.core.transfer.states import FROM_RECEIVER, FROM_SENDER, ReceiverState, SenderState

# What a sender says, as records from the beginning. "yes" and "answers" are the receiver's; the last one is the
# offence, where there is one.

Step = Message | str


def offer(*roots: Root, kind: OfferKind = OfferKind.TREE, count: int | None = None, is_final: bool = True) -> Offer:
    return Offer(kind, bytes(16), Totals(1, 3, is_final), len(roots) if count is None else count, roots)


def file(name: str = "a", size: int | None = 3, *, is_linked: bool = False) -> File:
    return File(name, 0o644, 0, size, is_linked)


def folder(name: str = "f") -> Folder:
    return Folder(name, 0o755, 0)


def of(size: int) -> Root:
    return Root(Kind.FILE, "a", size)


def entries(*each: object) -> Entries:
    return Entries(each)  # type: ignore[arg-type]


A, B, F = Root(Kind.FILE, "a", 3), Root(Kind.FILE, "b", 3), Root(Kind.FOLDER, "f", 0)
ABC = digest(b"abc")
ONE: tuple[Step, ...] = (offer(A), "yes", entries(file()))
TWO: tuple[Step, ...] = (offer(A, B), "yes", entries(file(), file("b")))
TREE: tuple[Step, ...] = (offer(F), "yes", entries(folder()))
LONG: tuple[Step, ...] = (offer(of(PIECE + 1)), "yes", entries(file(size=PIECE + 1)))
MIDDLE: tuple[Step, ...] = (offer(of(3 * PIECE)), "yes", entries(file(size=3 * PIECE)), Data(0, 0, bytes(PIECE)))
ANSWERED: tuple[Step, ...] = (offer(of(3 * CHUNK + 5)), "answers", entries(file(size=3 * CHUNK + 5)), "has 2 chunks")
HALF_ANSWERED: tuple[Step, ...] = (*ANSWERED[:-1], "has 1 chunk and a half")
WHOLE = WholeFiles((WholeFile(0, ABC, b"abc"),))
SENT: tuple[Step, ...] = (*ONE, WHOLE)
TOTAL = digest(ABC)
PIPE = offer(Root(Kind.FILE, "a", None), kind=OfferKind.PIPE)
TEXT = offer(A, kind=OfferKind.TEXT)
DEEP = entries(*[folder()] * MAX_DEPTH)

SENDER_OFFENCES: dict[str, tuple[Step, ...]] = {
    "nothing offered": (offer(),),
    "more by name than there are": (offer(A, B, count=1),),
    "a root that climbs": (offer(Root(Kind.FILE, "..", 0)),),
    "a pipe and more": (offer(A, B, kind=OfferKind.PIPE),),
    "a text and more": (offer(A, B, kind=OfferKind.TEXT),),
    "a root more than offered": (*ONE, entries(file("b"))),
    "a skipped root more than offered": (*ONE, entries(Skipped("b", "no"))),
    "a file that was not offered": (offer(A), "yes", entries(file("b"))),
    "a folder where a file was offered": (offer(A), "yes", entries(folder("a"))),
    "a file where a folder was offered": (offer(F), "yes", entries(file("f"))),
    "a hidden root that was not named": (offer(A, count=2), "yes", entries(file(), file(".b"))),
    "a hidden folder that was not named": (offer(A, count=2), "yes", entries(file(), folder(".b"))),
    "a link beside the tree": (offer(A), "yes", entries(Symlink("a", 0, "b"))),
    "a folder in a pipe": (PIPE, "yes", entries(folder("a"))),
    "a file with a size in a pipe": (PIPE, "yes", entries(file())),
    "a file without a size in a tree": (offer(A), "yes", entries(file(size=None))),
    "a text without a size": (TEXT, "yes", entries(file(size=None))),
    "a text that nobody reads": (
        *(offer(of(MAX_TEXT + 1), kind=OfferKind.TEXT), "yes"),
        entries(file(size=MAX_TEXT + 1)),
    ),
    "a file of another size than was offered": (offer(A), "yes", entries(file(size=2**40))),
    "far more than was counted": (
        *(*TREE, entries(file(size=2 * MAX_GROWTH))),
        *[Hole(1, start, MAX_HOLE) for start in range(0, MAX_GROWTH + 2 * 3 + 1, MAX_HOLE)],
    ),
    "totals after the final ones": (offer(A), "yes", Totals(1, 3, is_final=True)),
    "totals that grow after the final ones": (offer(A), Totals(2, 3, is_final=False)),
    "a name that climbs": (*TREE, entries(file(".."))),
    "a name in a folder": (*TREE, entries(file("a/b"))),
    "a folder that climbs": (*TREE, entries(folder(".."))),
    "a link that climbs out": (*TREE, entries(Symlink("l", 0, "../x"))),
    "a link to the root": (*TREE, entries(Symlink("l", 0, "/etc"))),
    "a link that climbs behind a name": (*TREE, entries(Symlink("l", 0, "x/../../y"))),
    "a link with a name that climbs": (*TREE, entries(Symlink("..", 0, "x"))),
    "a hard link to nothing": (*TREE, entries(Hardlink("h", 7))),
    "a hard link to itself": (*TREE, entries(Hardlink("h", 1))),
    "a hard link to a folder": (*TREE, entries(Hardlink("h", 0))),
    "a hard link to a link, which leads elsewhere there": (
        *TREE,
        entries(folder("g"), Symlink("l", 0, "../x"), Leave(), Hardlink("h", 2)),
    ),
    "a hard link to a file that has one name": (*TREE, entries(file(), Hardlink("h", 1))),
    "a folder left that was not entered": (*TREE, entries(Leave(), Leave())),
    "too deep": (offer(F), "yes", DEEP, entries(folder())),
    "too large": (offer(of(MAX_TOTAL + 1)), "yes", entries(file(size=MAX_TOTAL + 1))),
    "data of another file": (*TWO, Data(1, 0, b"x")),
    "data of no file": (*ONE, Data(9, 0, b"abc")),
    "data out of order": (*LONG, Data(0, PIECE, b"x")),
    "data at an offset left out": (*MIDDLE, Data(0, 2 * PIECE, bytes(PIECE))),
    "data twice": (*MIDDLE, Data(0, 0, bytes(PIECE))),
    "data beyond the size": (*ONE, Data(0, 0, b"abcd")),
    "data after the end": (*SENT, Data(0, 3, b"x")),
    "a hole out of order": (*LONG, Hole(0, 1, PIECE)),
    "a hole beyond the size": (*LONG, Hole(0, 0, PIECE + 2)),
    "a hole in no file": (*SENT, Hole(0, 0, 1)),
    "the same where nothing was told": (*MIDDLE, Same(0, PIECE, PIECE)),
    "the same of what was not told": (*ANSWERED, Same(0, 0, 3 * CHUNK)),
    "the same of half a chunk": (*ANSWERED, Same(0, 0, CHUNK // 2)),
    "the same of more pieces than are there": (*HALF_ANSWERED, Same(0, 0, 2 * CHUNK)),
    "the same of fewer pieces than are there": (*HALF_ANSWERED, Same(0, 0, CHUNK + PIECE)),
    "the same of nothing": (*ANSWERED, Same(0, 0, 0)),
    "the same out of order": (*ANSWERED, Same(0, CHUNK, CHUNK)),
    "the same in the middle of a chunk": (*ANSWERED, Data(0, 0, bytes(5)), Same(0, 5, CHUNK)),
    "content before the answer": (*ANSWERED[:-1], Data(0, 0, b"abc")),
    "a whole file before the answer": (offer(A), "answers", entries(file()), WHOLE),
    "left out before the answer": (offer(A), "answers", entries(file()), LeftOut(0, ExitCode.STORAGE, "no")),
    "a whole file of which something was told": (
        *(offer(A), "answers", entries(file()), "has 1 chunk", WHOLE),
    ),
    "an end too early": (*LONG, Data(0, 0, bytes(PIECE)), FileEnd(0, digest(bytes(PIECE)))),
    "an end of another file": (*TWO, Data(0, 0, b"abc"), FileEnd(1, ABC)),
    "an end twice": (*ONE, Data(0, 0, b"abc"), FileEnd(0, ABC), FileEnd(0, ABC)),
    "a whole file of another length": (*ONE, WholeFiles((WholeFile(0, digest(b"abcd"), b"abcd"),))),
    "a whole file of another number": (*TWO, WholeFiles((WholeFile(1, ABC, b"abc"),))),
    "whole files beyond the last": (*ONE, WholeFiles((WholeFile(0, ABC, b"abc"), WholeFile(1, ABC, b"abc")))),
    "a whole file where a piece is due": (*MIDDLE, WholeFiles((WholeFile(0, digest(b""), b""),))),
    "a whole file where a pipe is due": (PIPE, "yes", entries(file(size=None)), WHOLE),
    "another file left out": (*TWO, LeftOut(1, ExitCode.STORAGE, "no")),
    "finish before the content": (*ONE, Finish(1, digest(b""))),
    "finish within a folder": (*TREE, Finish(1, digest(b""))),
    "finish after another number of entries": (*SENT, Finish(2, TOTAL)),
    "continue on the first path": (*ONE, Continue(0)),
    "taken what was never said": (*ONE, Taken(2)),
    "taken less than before": (*ONE, Taken(1), Taken(0)),
    "something before continue": (*ONE, "another path", WHOLE),
    "taken before continue": (*ONE, "another path", Taken(1)),
    "more continued than was said": (*ONE, "another path", Continue(2)),
    "continued twice": (*ONE, "another path", Continue(1), Continue(1)),
}

TOLERATED: dict[str, tuple[Step, ...]] = {
    "a root that could not be sent": (offer(A, F), "yes", entries(Skipped("whatever", "it is gone"), folder())),
    "a hard link among the roots": (offer(A, B), "yes", entries(file(is_linked=True), Hardlink("b", 0))),
    "more roots than by name": (offer(A, count=3), "yes", entries(file(), folder(), Leave(), file("c"))),
    "as deep as allowed": (offer(F), "yes", DEEP),
    "a link within": (*TREE, entries(folder("g"), Symlink("l", 0, "../x/y"), Symlink("m", 0, "x"))),
    "the same of all that was told": (*ANSWERED, Same(0, 0, 2 * CHUNK), Data(0, 2 * CHUNK, b"x")),
    "the same of all pieces that are there": (*HALF_ANSWERED, Same(0, 0, CHUNK), Same(0, CHUNK, CHUNK // 2)),
    "keepalive, at any time": (Keepalive(), *ONE, Keepalive(), WHOLE, Keepalive()),
    "totals while deciding and later": (
        *(offer(A, is_final=False), Totals(2, 5, is_final=False), "yes", Totals(3, 9, is_final=False)),
        Totals(4, 10, is_final=True),
    ),
    "a tree that grew while it was sent": (
        *(*TREE, entries(file(size=2 * MAX_GROWTH))),
        *[Hole(1, start, MAX_HOLE) for start in range(0, MAX_GROWTH, MAX_HOLE)],
    ),
    "a name of any spelling that was skipped": (*TREE, entries(Skipped("../\0/x", "it cannot be sent"))),
}


def replay(machine: TransferReceiver, script: Sequence[Step]) -> None:
    for step in script:
        match step:
            case "yes" | "answers":
                machine.accept(answers=step == "answers")
                assert machine.poll_record() == encode(Accept(step == "answers"))
            case "has 1 chunk" | "has 2 chunks":
                machine.handle_have(0, [bytes(16)] * int(step[4]))
                assert machine.poll_record() is not None
            case "has 1 chunk and a half":
                machine.handle_have(0, [bytes(16)] * 2, MAX_PIECES // 2)
                assert machine.poll_record() is not None
            case "another path":
                machine.go_on()
                assert machine.poll_record() is not None
            case str():
                raise AssertionError(step)
            case _:
                machine.handle_record(encode(step))


MORE = {
    "files": file("a", 0),
    "folders and links": Symlink("l", 0, "a"),
    "folders": folder(),
}


@pytest.mark.parametrize("what", MORE)
def test_no_more_things_come_than_were_announced_but_for_some(what: str) -> None:
    """Empty ones have no bytes that would be counted, and fill a disk all the same."""
    machine = TransferReceiver()
    totals = Totals(1, 3, is_final=True, others=1)
    replay(machine, (Offer(OfferKind.TREE, bytes(16), totals, 1, (F,)), "yes", entries(folder())))
    thing, empty = MORE[what], digest(b"")
    things = (thing, Leave()) if isinstance(thing, Folder) else (thing,)
    left = 2 + MAX_MORE - (what != "files")
    number = 1
    while left:
        count = min(left, 100)
        machine.handle_record(encode(entries(*things * count)))
        if what == "files":
            whole = tuple(WholeFile(number + each, empty, b"") for each in range(count))
            machine.handle_record(encode(WholeFiles(whole)))
        left, number = left - count, number + count
    with pytest.raises(RemoteError, match=f"10003 {what}.*, where 1 were announced"):
        machine.handle_record(encode(entries(*things)))
    assert machine.poll_action() is None
    assert isinstance(decode(machine.poll_record() or b""), Abort)


@pytest.mark.parametrize("offence", SENDER_OFFENCES)
def test_a_sender_that_breaks_the_protocol_is_told_and_ended(offence: str) -> None:
    *script, last = SENDER_OFFENCES[offence]
    machine = TransferReceiver()
    replay(machine, script)
    assert not machine.ended
    with pytest.raises(RemoteError):
        replay(machine, [last])
    abort = decode(machine.poll_record() or b"")
    assert isinstance(abort, Abort)
    assert abort.exit_code is ExitCode.INTERNAL
    assert machine.poll_record() is None
    assert machine.poll_action() is None
    assert machine.ended


@pytest.mark.parametrize("script", TOLERATED)
def test_an_honest_sender_is_not_called_a_liar(script: str) -> None:
    machine = TransferReceiver()
    replay(machine, TOLERATED[script])
    assert not machine.ended


def test_entries_ahead_of_their_content_have_a_cap() -> None:
    machine = TransferReceiver()
    replay(machine, (*TREE, entries(file("x")), entries(*[folder(), Leave()] * (MAX_ANNOUNCED - 1))))
    with pytest.raises(RemoteError, match="ahead"):
        replay(machine, [entries(folder())])


def test_files_with_several_names_have_a_cap() -> None:
    machine = TransferReceiver()
    replay(machine, TREE)
    machine._files._linked.update(range(10, 10 + MAX_LINKED))
    with pytest.raises(RemoteError, match="several names"):
        replay(machine, [entries(file(is_linked=True))])


# Every cell of the tables.

SAMPLES: list[Message] = [
    *[offer(A), entries(file()), Data(0, 0, b"x"), Hole(0, 0, 1), Same(0, 0, 1), FileEnd(0, ABC), WHOLE],
    *[LeftOut(0, ExitCode.STORAGE, "no"), Finish(1, TOTAL), Totals(1, 3, is_final=True)],
    *[Accept(answers=False), Refuse(ExitCode.REFUSED, "no"), Have(0, 0, (), is_last=True), Problem(0, "no")],
    messages.Finished(TOTAL),
]
RECEIVER_STATES: dict[ReceiverState, tuple[Step, ...]] = {
    ReceiverState.AWAITING_OFFER: (),
    ReceiverState.DECIDING: (offer(A),),
    ReceiverState.RECEIVING: (offer(A), "yes"),
    ReceiverState.STORING: (*SENT, Finish(1, TOTAL)),
}


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("state", RECEIVER_STATES)
def test_what_is_not_in_the_receivers_table_is_the_senders_fault(state: ReceiverState, message: Message) -> None:
    machine = TransferReceiver()
    replay(machine, RECEIVER_STATES[state])
    assert machine._state is state
    if (state, type(message)) in FROM_SENDER:
        return  # what may be wrong within it: above
    with pytest.raises(RemoteError, match="from the sender while"):
        machine.handle_record(encode(message))
    assert isinstance(decode(machine.poll_record() or b""), Abort)
    assert machine.poll_record() is None


def sender_in(state: SenderState) -> TransferSender:
    tree = Tree.of({"a": b"abc"})
    machine = TransferSender(tree.offer())
    machine.start()
    assert machine.poll_record() is not None
    if state is SenderState.WAITING:
        return machine
    machine.handle_record(encode(Accept(answers=False)))
    if state is SenderState.SENDING:
        return machine
    assert isinstance(machine.poll_wanted(), WantEntries)
    machine.handle_entries(tree.entries, is_last=True)
    assert machine.poll_record() is not None
    machine.handle_whole(machine.poll_wanted(), [b"abc"])  # type: ignore[arg-type]
    assert machine.poll_record() == encode(Finish(1, TOTAL))
    return machine


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("state", [SenderState.WAITING, SenderState.SENDING, SenderState.FINISHING])
def test_what_is_not_in_the_senders_table_is_the_receivers_fault(state: SenderState, message: Message) -> None:
    machine = sender_in(state)
    assert machine._state is state
    if (state, type(message)) in FROM_RECEIVER:
        return
    with pytest.raises(RemoteError, match="from the receiver while"):
        machine.handle_record(encode(message))
    assert isinstance(decode(machine.poll_record() or b""), Abort)
    assert machine.poll_wanted() is None
    assert machine.poll_record() is None


def test_tables_have_no_dead_states() -> None:
    assert {state for state, _ in FROM_RECEIVER} | {*FROM_RECEIVER.values()} <= set(SenderState)
    assert {state for state, _ in FROM_SENDER} | {*FROM_SENDER.values()} <= set(ReceiverState)


RECEIVER_OFFENCES: dict[str, tuple[Message, ...]] = {
    "an answer that is not due": (Accept(answers=False), Have(0, 0, (), is_last=True)),
    "an answer about another file": (Accept(answers=True), Have(1, 0, (), is_last=True)),
    "an answer twice": (Accept(answers=True), *[Have(0, 0, (), is_last=True)] * 2),
    "an answer that begins in the middle": (Accept(answers=True), Have(0, 1, (), is_last=True)),
    "an answer with a gap": (
        *(Accept(answers=True), Have(0, 0, (bytes(16),), is_last=False)),
        Have(0, 2, (bytes(16),), is_last=True),
    ),
    "more chunks than the file has": (Accept(answers=True), Have(0, 0, (bytes(16),) * 4, is_last=True)),
    "chunks of a pipe": (Accept(answers=True), Have(0, 0, (), True), Have(1, 0, (bytes(16),), is_last=True)),
    "a problem with what was not announced": (Accept(answers=False), Problem(2, "no")),
    "taken what was never said": (Taken(2),),
    "taken less than before": (Taken(1), Taken(0)),
    "continue on the first path": (Continue(0),),
}


@pytest.mark.parametrize("offence", RECEIVER_OFFENCES)
def test_a_receiver_that_breaks_the_protocol_is_told_and_ended(offence: str) -> None:
    *script, last = RECEIVER_OFFENCES[offence]
    machine = TransferSender(offer(A))
    machine.start()
    assert isinstance(machine.poll_wanted(), WantEntries)
    machine.handle_entries([file(size=3 * CHUNK), file("b", size=None)], is_last=True)
    for message in (*script, None):
        while machine.poll_record() is not None:
            pass
        if message is not None:
            machine.handle_record(encode(message))
    with pytest.raises(RemoteError):
        machine.handle_record(encode(last))
    assert isinstance(decode(machine.poll_record() or b""), Abort)
    assert machine.poll_record() is None
    assert machine.poll_wanted() is None


# Wrong content.


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ((*ONE, Data(0, 0, b"abc"), FileEnd(0, digest(b"abd"))), "a arrived with other content"),
        ((*ONE, WholeFiles((WholeFile(0, digest(b"abd"), b"abc"),))), "a arrived with other content"),
        ((*LONG, Hole(0, 0, PIECE + 1), FileEnd(0, digest(b"abd"))), "a arrived with other content"),
        ((*SENT, Finish(1, digest(b"else"))), "final digest"),
    ],
)
def test_wrong_digests_are_integrity_failures(script: tuple[Step, ...], word: str) -> None:
    machine = TransferReceiver()
    replay(machine, script)
    events = list(iter(machine.poll_event, None))
    assert not any(isinstance(event, Finished) for event in events)
    last = events[-1]
    assert isinstance(last, Aborted)
    assert (last.exit_code, last.by_peer) == (ExitCode.INTEGRITY, False)
    assert word in last.reason
    assert decode(machine.poll_record() or b"") == Abort(ExitCode.INTEGRITY, last.reason)


def test_a_file_whose_digest_is_wrong_is_never_complete() -> None:
    machine = TransferReceiver()
    replay(machine, (*ONE, Data(0, 0, b"abc"), FileEnd(0, bytes(32))))
    assert not any(isinstance(action, Complete | Whole) for action in iter(machine.poll_action, None))


def test_the_sender_compares_the_confirmed_digest() -> None:
    machine = sender_in(SenderState.FINISHING)
    machine.handle_record(encode(messages.Finished(bytes(32))))
    last = list(iter(machine.poll_event, None))[-1]
    assert isinstance(last, Aborted)
    assert last.exit_code is ExitCode.INTEGRITY


def test_finished_waits_until_everything_bears_its_name() -> None:
    machine = TransferReceiver()
    replay(machine, (offer(F), "yes", entries(folder(), file(), Leave()), WholeFiles((WholeFile(1, ABC, b"abc"),))))
    replay(machine, [Finish(2, TOTAL)])
    assert machine.poll_record() is None
    machine.handle_stored(1, "a (1)")
    assert machine.poll_record() is None
    machine.handle_stored(0, "f")
    assert machine.poll_record() == encode(messages.Finished(TOTAL))
    assert list(iter(machine.poll_event, None))[-1] == Finished(ABC, ExitCode.DONE)


# Ends.


def test_refusal_reaches_the_sender() -> None:
    sending, machine = sender_in(SenderState.WAITING), TransferReceiver()
    replay(machine, [offer(A)])
    machine.refuse(ExitCode.STORAGE, "disk full")
    sending.handle_record(machine.poll_record() or b"")
    assert sending.poll_record() is None
    assert list(iter(sending.poll_event, None)) == [Refused(ExitCode.STORAGE, "disk full")]
    assert machine.ended


@pytest.mark.parametrize("state", [SenderState.WAITING, SenderState.SENDING, SenderState.FINISHING])
@pytest.mark.parametrize("by_peer", [False, True])
def test_an_abort_in_any_state_ends_the_sender(state: SenderState, by_peer: bool) -> None:
    machine = sender_in(state)
    if by_peer:
        machine.handle_record(encode(Abort(ExitCode.CANCELLED, "stop")))
    else:
        machine.abort(ExitCode.CANCELLED, "stop")
        assert machine.poll_record() == encode(Abort(ExitCode.CANCELLED, "stop"))
    assert list(iter(machine.poll_event, None))[-1] == Aborted(ExitCode.CANCELLED, "stop", by_peer=by_peer)
    assert machine.poll_record() is None
    assert machine.poll_wanted() is None


@pytest.mark.parametrize("state", RECEIVER_STATES)
@pytest.mark.parametrize("by_peer", [False, True])
def test_an_abort_in_any_state_ends_the_receiver(state: ReceiverState, by_peer: bool) -> None:
    machine = TransferReceiver()
    replay(machine, RECEIVER_STATES[state])
    if by_peer:
        machine.handle_record(encode(Abort(ExitCode.CANCELLED, "stop")))
    else:
        machine.abort(ExitCode.CANCELLED, "stop")
        assert machine.poll_record() == encode(Abort(ExitCode.CANCELLED, "stop"))
    assert list(iter(machine.poll_event, None))[-1] == Aborted(ExitCode.CANCELLED, "stop", by_peer=by_peer)
    assert machine.poll_record() is None
    assert machine.poll_action() is None
    machine.accept()
    machine.refuse(ExitCode.REFUSED, "no")
    machine.handle_stored(0, "a")
    machine.handle_problem(0, "no")
    assert machine.poll_record() is None


def test_what_was_read_for_a_transfer_that_ended_is_not_sent() -> None:
    machine = TransferSender(offer(A))
    machine.start()
    machine.poll_record()
    machine.handle_record(encode(Accept(answers=False)))
    machine.poll_wanted()
    machine.handle_entries([file(size=PIECE)], is_last=True)
    machine.poll_record()
    read = machine.poll_wanted()
    machine.handle_record(encode(Abort(ExitCode.STORAGE, "full")))
    assert machine.handle_read(read, [bytearray(13 + PIECE)]) is False  # type: ignore[arg-type]
    machine.handle_left_out(read, CHANGED)  # type: ignore[arg-type]
    machine.handle_entries([], is_last=True)
    machine.handle_totals(Totals(9, 9, is_final=True))
    assert machine.poll_record() is None


def test_what_comes_after_the_end_is_passed_over() -> None:
    machine = TransferReceiver()
    replay(machine, RECEIVER_STATES[ReceiverState.STORING])
    machine.handle_stored(0, "a")
    assert machine.is_finished
    while machine.poll_event() is not None or machine.poll_record() is not None:
        pass
    for message in (Abort(ExitCode.CANCELLED, "too late"), *SAMPLES):
        machine.handle_record(encode(message))
    assert machine.poll_event() is None
    assert not machine.is_confirmed
    machine.handle_record(encode(Taken(2)))
    assert machine.is_confirmed


ANYTHING = st.sampled_from(
    [
        *[step for script in (*SENDER_OFFENCES.values(), *TOLERATED.values()) for step in script if step != "yes"],
        *[message for script in RECEIVER_OFFENCES.values() for message in script],
        *SAMPLES,
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANYTHING.filter(lambda step: not isinstance(step, str)), max_size=15), st.booleans())
def test_no_sequence_of_records_breaks_a_machine_in_another_way(script: list[Message], answers: bool) -> None:
    for machine in (TransferReceiver(), sender_in(SenderState.WAITING), sender_in(SenderState.SENDING)):
        for message in script:
            try:
                machine.handle_record(encode(message))
            except RemoteError:
                assert machine.ended
                break
            if isinstance(machine, TransferReceiver) and isinstance(machine.poll_event(), Offered):
                machine.accept(answers=answers)
            while machine.poll_record() is not None:
                pass


def test_a_hole_costs_a_bounded_time() -> None:
    with pytest.raises(DecodeError):
        decode(encode(Hole(0, 0, MAX_HOLE + 1)))
