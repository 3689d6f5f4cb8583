"""Sender and receiver back to back over a queue of records: no file, no socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.core.errors import CallerError, ExitCode, RemoteError
from p2p.core.transfer import messages, receiver, sender
from p2p.core.transfer.events import (
    Aborted,
    Accepted,
    Complete,
    FileSent,
    Finished,
    Offered,
    Open,
    Refused,
    Whole,
    Write,
)
from p2p.core.transfer.limits import MAX_FILES, MAX_TOTAL, MAX_UNNAMED, MAX_UNSTORED, SMALL
from p2p.core.transfer.messages import (
    DATA_HEADER,
    PIECE,
    Abort,
    Accept,
    Data,
    Entries,
    Entry,
    FileEnd,
    Finish,
    Keepalive,
    Message,
    Offer,
    Refuse,
    WholeFile,
    WholeFiles,
    decode,
    encode,
)
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import Read, ReadWhole, TransferSender


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def total_digest(contents: Sequence[bytes]) -> bytes:
    return digest(b"".join(map(digest, contents)))


def named(contents: Sequence[bytes]) -> list[Entry]:
    return [Entry(file, len(content), 7, 0o644, f"{file}.bin") for file, content in enumerate(contents)]


class SendingSide:
    """Answers the machine's reads, of `room` pieces at most, from memory, `ahead` of them at a time."""

    def __init__(self, contents: Sequence[bytes], ahead: int = 1, room: int = 1) -> None:
        self.machine = TransferSender(named(contents))
        self.machine.start()
        self.events: list[sender.SenderEvent] = []
        self._contents = contents
        self._ahead = ahead
        self._room = room
        self._reads: deque[Read | ReadWhole] = deque()
        self._records: deque[bytearray] = deque()

    def next_record(self) -> bytes | None:
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)
        if self._records:
            return bytes(self._records.popleft())
        if (control := self.machine.poll_record()) is not None:
            assert not self._reads, "a control record overtakes a piece"
            return control
        while len(self._reads) < self._ahead and (read := self.machine.poll_read(self._room)) is not None:
            assert isinstance(read, ReadWhole) or 0 < read.pieces <= self._room
            self._reads.append(read)
        if not self._reads:
            return None
        read = self._reads.popleft()
        if isinstance(read, ReadWhole):
            return self.machine.handle_whole(read, self._contents[read.first : read.end])
        content = self._contents[read.file][read.offset : read.offset + read.length]
        records = [bytearray(DATA_HEADER) + content[start : start + PIECE] for start in range(0, len(content), PIECE)]
        assert len(records[-1]) == DATA_HEADER + read.last
        if self.machine.handle_read(read, records):
            self._records += records
        return bytes(self._records.popleft()) if self._records else None


class ReceivingSide:
    """Stores in memory; a complete file waits until `delay` further records have come, as on a slow disk."""

    def __init__(self, delay: int = 0) -> None:
        self.machine = TransferReceiver()
        self.events: list[receiver.ReceiverEvent] = []
        self.files: dict[int, bytearray] = {}
        self._delay = delay
        self._storing: deque[tuple[int, int]] = deque()
        self._clock = 0

    def handle_record(self, record: bytes) -> None:
        self.machine.handle_record(record)
        self.handle_events()

    def tick(self) -> None:
        self._clock += 1
        while self._storing and self._storing[0][0] <= self._clock:
            _, file = self._storing.popleft()
            self.machine.handle_stored(file, f"{file}.bin")
        self.handle_events()

    def handle_events(self) -> None:
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)
            match event:
                case Offered():
                    self.machine.accept()
                case Open(file):
                    assert file not in self.files
                    self.files[file] = bytearray()
                case Write(file, offset, pieces):
                    assert offset == len(self.files[file])
                    self.files[file] += b"".join(pieces)
                case Whole(file, _, content, received):
                    assert received == digest(bytes(content))
                    self.files[file] = bytearray(content)
                    self._storing.append((self._clock + self._delay, file))
                case Complete(file, received):
                    assert received == digest(self.files[file])
                    self._storing.append((self._clock + self._delay, file))


def run(sending: SendingSide, receiving: ReceivingSide) -> None:
    """Until neither side has anything left to do."""
    idle = 0
    while idle < 200:
        idle += 1
        while receiving.machine.ready and (record := sending.next_record()) is not None:
            receiving.handle_record(record)
            idle = 0
        while (answer := receiving.machine.poll_record()) is not None:
            sending.machine.handle_record(answer)
            idle = 0
        receiving.tick()


EDGES = [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 17, 18 * PIECE]
SIZES = st.sampled_from(EDGES) | st.integers(0, 500)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=12),
    ahead=st.integers(1, 3),
    room=st.integers(1, 5),
    delay=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_every_content_arrives(sizes: list[int], ahead: int, room: int, delay: int, seed: int) -> None:
    randbytes = Random(seed).randbytes
    contents = [randbytes(size) for size in sizes]
    sending, receiving = SendingSide(contents, ahead, room), ReceivingSide(delay)
    run(sending, receiving)
    assert [bytes(receiving.files[file]) for file in range(len(sizes))] == contents
    shown = digest(contents[0]) if len(contents) == 1 else total_digest(contents)
    assert sending.events[-1] == Finished(shown)
    assert receiving.events[-1] == Finished(shown, tuple(f"{file}.bin" for file in range(len(sizes))))
    assert sending.machine.progress.done == receiving.machine.progress.done == sum(sizes)
    sent = [event for event in sending.events if isinstance(event, FileSent)]
    assert sent == [FileSent(file, digest(content)) for file, content in enumerate(contents)]


def test_thousands_of_files_need_no_round_trip_each() -> None:
    contents = [bytes([file % 256]) * (file % 3) for file in range(5000)]
    sending, receiving = SendingSide(contents), ReceivingSide()
    while (record := sending.next_record()) is not None:
        assert len(record) <= messages.MAX_MESSAGE
        receiving.handle_record(record)
    answer = receiving.machine.poll_record()
    assert answer == encode(Accept())
    sending.machine.handle_record(answer)
    while (record := sending.next_record()) is not None:  # everything else flows without an answer
        receiving.handle_record(record)
    receiving.tick()
    assert receiving.machine.poll_record() == encode(messages.Finished(total_digest(contents)))


def test_no_piece_overtakes_a_control_record_that_was_not_taken_yet() -> None:
    one, two = b"abc" * SMALL, b"def" * SMALL
    machine = TransferSender(named([one, two]))
    machine.start()
    while machine.poll_record() is not None:
        pass
    machine.handle_record(encode(Accept()))
    read = machine.poll_read()
    assert isinstance(read, Read)
    assert machine.handle_read(read, [bytearray(DATA_HEADER) + one])
    assert machine.poll_read() is None
    assert machine.poll_record() == encode(FileEnd(0, digest(one)))
    read = machine.poll_read()
    assert read == Read(1, 0, len(two))
    assert machine.handle_read(read, [bytearray(DATA_HEADER) + two])
    assert machine.poll_read() is None
    assert machine.poll_record() == encode(FileEnd(1, digest(two)))
    assert machine.poll_read() is None
    assert machine.poll_record() == encode(Finish(total_digest([one, two])))
    assert machine.poll_read() is None


def test_the_piece_is_never_copied_by_the_machines() -> None:
    content = b"abc" * SMALL
    sending, receiving = TransferSender([Entry(0, len(content), 0, 0o600, "a")]), TransferReceiver()
    sending.start()
    for _ in range(2):
        receiving.handle_record(sending.poll_record() or b"")
    receiving.accept()
    sending.handle_record(receiving.poll_record() or b"")
    read = sending.poll_read()
    assert read == Read(0, 0, len(content))
    record = bytearray(DATA_HEADER) + content
    assert sending.handle_read(read, [memoryview(record)])
    receiving.handle_record(record)
    events = [receiving.poll_event() for _ in range(3)]
    assert isinstance(events[2], Write)
    record[DATA_HEADER] = ord("X")
    assert bytes(events[2].pieces[0]) == b"X" + content[1:]


def test_a_slow_disk_holds_the_sender_back() -> None:
    sending, receiving = SendingSide([bytes(SMALL + 1)] * (MAX_UNSTORED + 50)), ReceivingSide(delay=10**9)
    run(sending, receiving)
    assert receiving.machine.unstored == MAX_UNSTORED
    assert not receiving.machine.ready
    for file in range(MAX_UNSTORED):
        receiving.machine.handle_stored(file, "x")
    assert receiving.machine.ready


def test_a_slow_disk_holds_small_files_back() -> None:
    size = 20_000 // 2  # six of them in one record
    sending, receiving = SendingSide([bytes(size)] * (MAX_UNNAMED + 50)), ReceivingSide(delay=10**9)
    run(sending, receiving)
    assert MAX_UNNAMED <= receiving.machine.unnamed < MAX_UNNAMED + 6
    assert receiving.machine.unstored == 0
    assert not receiving.machine.ready
    for file in range(6):
        receiving.machine.handle_stored(file, "x")
    assert receiving.machine.ready


def test_a_record_is_filled_with_small_files_and_never_overfilled() -> None:
    contents = [bytes([number % 256]) * (number * 97 % (SMALL + 1)) for number in range(400)]
    sending = SendingSide(contents)
    while sending.next_record() is not None:
        pass
    sending.machine.handle_record(encode(Accept()))
    lengths = []
    while (record := sending.next_record()) is not None:
        lengths.append(len(record))
    *records, _, finish = lengths
    assert finish == 33
    assert max(records) <= messages.MAX_MESSAGE < min(records) + SMALL + messages.WHOLE_FILE_HEADER


# What a sender must not do, as records from the beginning; the last one is the offence.

ONE = (Offer(1, 3), Entries((Entry(0, 3, 0, 0o644, "a"),)))
TWO = (Offer(2, 4), Entries((Entry(0, 3, 0, 0o644, "a"), Entry(1, 1, 0, 0o644, "b"))))
YES = "yes"
ABC = (Data(0, 0, b"abc"), FileEnd(0, digest(b"abc")))
LONG = (Offer(1, PIECE + 1), Entries((Entry(0, PIECE + 1, 0, 0o644, "a"),)), YES)
MIDDLE = (Offer(1, 3 * PIECE), Entries((Entry(0, 3 * PIECE, 0, 0o644, "a"),)), YES, Data(0, 0, bytes(PIECE)))

SENDER_OFFENCES: dict[str, tuple[Message | str, ...]] = {
    "data before the offer": (Data(0, 0, b"abc"),),
    "data before the yes": (*ONE, Data(0, 0, b"abc")),
    "file end before the yes": (*ONE, FileEnd(0, digest(b""))),
    "finish before the yes": (*ONE, Finish(digest(b""))),
    "entries before the offer": (ONE[1],),
    "a second offer": (ONE[0], ONE[0]),
    "a second offer after the yes": (*ONE, YES, ONE[0]),
    "no file at all": (Offer(0, 0),),
    "too many files": (Offer(MAX_FILES + 1, 0),),
    "too many bytes": (Offer(1, MAX_TOTAL + 1),),
    "a file number left out": (Offer(2, 0), Entries((Entry(1, 0, 0, 0, "a"),))),
    "more entries than files": (Offer(1, 0), Entries((Entry(0, 0, 0, 0, "a"), Entry(1, 0, 0, 0, "b")))),
    "sizes above the total": (Offer(2, 3), Entries((Entry(0, 4, 0, 0, "a"),))),
    "sizes below the total": (Offer(1, 3), Entries((Entry(0, 2, 0, 0, "a"),))),
    "a name that climbs": (Offer(1, 0), Entries((Entry(0, 0, 0, 0, "../a"),))),
    "a name in a folder": (Offer(1, 0), Entries((Entry(0, 0, 0, 0, "a/b"),))),
    "data of another file": (*TWO, YES, Data(1, 0, b"x")),
    "data of no file": (*ONE, YES, Data(9, 0, b"abc")),
    "data out of order": (*LONG, Data(0, PIECE, b"x")),
    "data at an offset left out": (*MIDDLE, Data(0, 2 * PIECE, bytes(PIECE))),
    "data twice": (*MIDDLE, Data(0, 0, bytes(PIECE))),
    "a short piece in the middle": (*LONG, Data(0, 0, bytes(PIECE - 1))),
    "data beyond the size": (*ONE, YES, Data(0, 0, b"abcd")),
    "data after the end of all": (*ONE, YES, *ABC, Data(0, 3, b"x")),
    "an end too early": (*LONG, Data(0, 0, bytes(PIECE)), FileEnd(0, digest(bytes(PIECE)))),
    "an end of another file": (*TWO, YES, Data(0, 0, b"abc"), FileEnd(1, digest(b"abc"))),
    "an end twice": (*ONE, YES, *ABC, FileEnd(0, digest(b"abc"))),
    "a whole file of another length": (*ONE, YES, WholeFiles(0, (WholeFile(digest(b"abcd"), b"abcd"),))),
    "a whole file of another number": (*TWO, YES, WholeFiles(1, (WholeFile(digest(b"x"), b"x"),))),
    "whole files beyond the last": (*ONE, YES, WholeFiles(0, (WholeFile(digest(b"abc"), b"abc"),) * 2)),
    "a whole file where a piece is due": (*MIDDLE, WholeFiles(0, (WholeFile(digest(b""), b""),))),
    "a whole file twice": (*ONE, YES, *ABC, WholeFiles(0, (WholeFile(digest(b"abc"), b"abc"),))),
    "a whole file before the yes": (*ONE, WholeFiles(0, (WholeFile(digest(b"abc"), b"abc"),))),
    "finish too early": (*TWO, YES, *ABC, Finish(digest(b""))),
    "what only a receiver says: accept": (*ONE, YES, Accept()),
    "what only a receiver says: refuse": (*ONE, Refuse(ExitCode.REFUSED, "")),
    "what only a receiver says: finished": (*ONE, YES, messages.Finished(digest(b""))),
}


def replay(machine: TransferReceiver, script: Sequence[Message | str]) -> None:
    for step in script:
        if isinstance(step, str):
            machine.accept()
            assert machine.poll_record() == encode(Accept())
        else:
            machine.handle_record(encode(step))


@pytest.mark.parametrize("script", SENDER_OFFENCES.values(), ids=SENDER_OFFENCES.keys())
def test_receiver_blames_the_sender(script: tuple[Message | str, ...]) -> None:
    machine = TransferReceiver()
    replay(machine, script[:-1])
    with pytest.raises(RemoteError) as caught:
        replay(machine, script[-1:])
    abort = decode(machine.poll_record() or b"")
    assert abort == Abort(ExitCode.INTERNAL, f"protocol error: {caught.value}")
    assert machine.ended
    machine.handle_record(b"whatever still arrives")
    assert machine.poll_record() is None


@pytest.mark.parametrize("machine_state", ["offering", "waiting", "sending", "finishing"])
@pytest.mark.parametrize("message", [Accept(), messages.Finished(digest(b"")), *ONE, *ABC, Finish(digest(b""))])
def test_sender_blames_the_receiver(machine_state: str, message: Message) -> None:
    contents = [b"abc"]
    side = SendingSide(contents)
    if machine_state != "offering":
        while side.next_record() is not None:
            pass
    if machine_state in ("sending", "finishing"):
        side.machine.handle_record(encode(Accept()))
    if machine_state == "finishing":
        while side.next_record() is not None:
            pass
    welcome = {"waiting": Accept, "finishing": messages.Finished}.get(machine_state)
    if welcome is not None and isinstance(message, welcome):
        return
    with pytest.raises(RemoteError):
        side.machine.handle_record(encode(message))
    assert isinstance(decode(side.machine.poll_record() or b""), Abort)
    assert side.machine.poll_read() is None
    assert side.machine.poll_record() is None


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ((*ONE, YES, Data(0, 0, b"abc"), FileEnd(0, digest(b"abd"))), "a arrived with other content"),
        ((*ONE, YES, WholeFiles(0, (WholeFile(digest(b"abd"), b"abc"),))), "a arrived with other content"),
        ((*ONE, YES, *ABC, Finish(digest(b"else"))), "final digest"),
    ],
)
def test_wrong_digests_are_integrity_failures(script: tuple[Message | str, ...], word: str) -> None:
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
    replay(machine, (*ONE, YES, Data(0, 0, b"abc"), FileEnd(0, bytes(32))))
    assert not any(isinstance(event, Complete) for event in iter(machine.poll_event, None))


def test_sender_compares_the_confirmed_digest() -> None:
    side = SendingSide([b"abc"])
    while side.next_record() is not None:
        pass
    side.machine.handle_record(encode(Accept()))
    while side.next_record() is not None:
        pass
    side.machine.handle_record(encode(messages.Finished(bytes(32))))
    event = [*side.events, *iter(side.machine.poll_event, None)][-1]
    assert isinstance(event, Aborted)
    assert event.exit_code is ExitCode.INTEGRITY


def test_finished_waits_until_every_file_bears_its_name() -> None:
    machine = TransferReceiver()
    replay(machine, (*ONE, YES, *ABC, Finish(total_digest([b"abc"]))))
    assert machine.poll_record() is None
    machine.handle_stored(0, "a (1)")
    assert machine.poll_record() == encode(messages.Finished(total_digest([b"abc"])))
    assert list(iter(machine.poll_event, None))[-1] == Finished(digest(b"abc"), ("a (1)",))


def test_refusal_reaches_the_sender() -> None:
    sending, machine = SendingSide([b"abc"]), TransferReceiver()
    while (record := sending.next_record()) is not None:
        machine.handle_record(record)
    machine.refuse(ExitCode.STORAGE, "disk full")
    sending.machine.handle_record(machine.poll_record() or b"")
    assert sending.next_record() is None
    assert sending.events == [Refused(ExitCode.STORAGE, "disk full")]
    assert machine.ended


def test_an_early_refusal_ends_the_naming() -> None:
    machine = TransferSender([Entry(file, 0, 0, 0, "x" * 200) for file in range(2000)])
    machine.start()
    machine.poll_record()
    machine.handle_record(encode(Refuse(ExitCode.STORAGE, "too many")))
    assert machine.poll_record() is None


@pytest.mark.parametrize("after", range(12))
@pytest.mark.parametrize("breaker", ["sender", "receiver", "source", "disk"])
def test_an_abort_at_any_moment_ends_both_sides(breaker: str, after: int) -> None:
    sending, receiving = SendingSide([bytes(3 * PIECE), b"", b"x"]), ReceivingSide()
    steps = 0
    while steps < after:
        record = sending.next_record()
        if record is not None:
            receiving.handle_record(record)
        elif (answer := receiving.machine.poll_record()) is not None:
            sending.machine.handle_record(answer)
        steps += 1
    match breaker:
        case "sender":
            sending.machine.abort(ExitCode.CANCELLED, "stop")
            code = ExitCode.CANCELLED
        case "receiver":
            receiving.machine.abort(ExitCode.CANCELLED, "stop")
            code = ExitCode.CANCELLED
        case "source":
            sending.machine.handle_source_changed(0, "stop")
            code = ExitCode.INTEGRITY
        case _:
            receiving.machine.handle_storage_error(0, "stop")
            code = ExitCode.STORAGE
    run(sending, receiving)
    ours, theirs = (sending, receiving) if breaker in ("sender", "source") else (receiving, sending)
    assert ours.events[-1] == Aborted(code, "stop", by_peer=False)
    assert theirs.events[-1] == Aborted(code, "stop", by_peer=True)
    assert sending.machine.poll_read() is None


def test_ending_twice_or_after_the_end_is_harmless() -> None:
    sending, receiving = SendingSide([b"abc"]), ReceivingSide()
    run(sending, receiving)
    for machine in (sending.machine, receiving.machine):
        machine.abort(ExitCode.CANCELLED, "too late")
        machine.handle_record(encode(Abort(ExitCode.CANCELLED, "too late")))
        assert machine.poll_record() is None
        assert machine.poll_event() is None


def test_the_answer_to_a_question_whose_transfer_ended_is_void() -> None:
    machine = TransferReceiver()
    replay(machine, (*ONE, Abort(ExitCode.CANCELLED, "gone")))
    machine.accept()
    machine.refuse(ExitCode.REFUSED, "no")
    assert machine.poll_record() is None


def test_nothing_but_the_abort_follows_an_abort() -> None:
    machine = TransferReceiver()
    replay(machine, ONE)
    machine.accept()
    machine.abort(ExitCode.CANCELLED, "stop")
    assert machine.poll_record() == encode(Abort(ExitCode.CANCELLED, "stop"))
    assert machine.poll_record() is None


def test_a_read_that_comes_back_after_the_end_is_not_sent() -> None:
    side = SendingSide([b"abc"])
    while side.next_record() is not None:
        pass
    side.machine.handle_record(encode(Accept()))
    read = side.machine.poll_read()
    assert read is not None
    side.machine.handle_record(encode(Abort(ExitCode.STORAGE, "full")))
    assert side.machine.handle_read(read, [bytearray(DATA_HEADER + 3)]) is False


def test_keepalives_are_welcome_at_any_time() -> None:
    sending, receiving = SendingSide([bytes(PIECE + 1)]), ReceivingSide()
    alive = encode(Keepalive())
    while (record := sending.next_record()) is not None:
        receiving.handle_record(alive)
        receiving.handle_record(record)
        sending.machine.handle_record(alive)
        while (answer := receiving.machine.poll_record()) is not None:
            sending.machine.handle_record(answer)
        receiving.tick()
    assert isinstance(sending.events[0], Accepted)
    run(sending, receiving)
    assert isinstance(sending.events[-1], Finished)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*ONE, *TWO, *ABC, Accept(), Keepalive(), Finish(bytes(32))]), max_size=12))
def test_no_sequence_of_records_breaks_a_machine_in_another_way(script: list[Message]) -> None:
    for machine in (TransferReceiver(), TransferSender([Entry(0, 3, 0, 0, "a")])):
        for message in script:
            try:
                machine.handle_record(encode(message))
            except RemoteError:
                break
            if isinstance(machine, TransferReceiver) and isinstance(machine.poll_event(), Offered):
                machine.accept()


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [Entry(1, 0, 0, 0, "a")],
        [Entry(0, 0, 0, 0, "")],
        [Entry(0, MAX_TOTAL + 1, 0, 0, "a")],
        [Entry(file, 0, 0, 0, "a") for file in range(MAX_FILES + 1)],
    ],
    ids=["none", "misnumbered", "nameless", "huge", "too many"],
)
def test_our_own_caller_is_told(entries: list[Entry]) -> None:
    with pytest.raises(CallerError):
        TransferSender(entries)


def test_calls_out_of_order_are_our_own_fault() -> None:
    machine = TransferReceiver()
    with pytest.raises(CallerError):
        machine.accept()
    with pytest.raises(CallerError):
        machine.handle_stored(0, "a")
    side = SendingSide([b"abc"])
    with pytest.raises(CallerError):
        side.machine.start()
    with pytest.raises(CallerError):
        side.machine.handle_read(Read(0, 0, 3), [bytearray(16)])


def test_tables_have_no_dead_states() -> None:
    assert {state for state, _ in sender.TRANSITIONS} <= set(sender.State)
    assert {state for state, _ in receiver.TRANSITIONS} <= set(receiver.State)
