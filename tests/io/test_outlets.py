"""Standard output and texts as ends of a transfer: in order, held back by a slow reader, and honest about failure."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import threading
import unicodedata
from collections.abc import Callable, Iterator

import pytest
from blake3 import blake3
from delivery_pair import START, Side, carry, offer_of, pair
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.calling import spoken
from p2p.core.errors import ExitCode, Failure
from p2p.core.peer import events
from p2p.core.transfer import events as transfer
from p2p.core.transfer.codec import encode
from p2p.core.transfer.entries import File, Folder, Kind, Leave
from p2p.core.transfer.limits import MAX_TEXT
from p2p.core.transfer.messages import DATA_HEADER, PIECE, Data, Entries, Offer, OfferKind, Root, Totals
from p2p.core.transfer.sender import TransferSender
from p2p.io.receiving.outlets import MAX_PIECES, MAX_UNWRITTEN, StdoutEnd, TextEnd, printable
from p2p.io.sending.pipes import PipeError, PipeReader

GUARD = 20.0  # seconds


class Producer:
    """Answers what a sender wants, out of a real pipe if there is one."""

    def __init__(self, entry: File, content: bytes = b"", pipe: PipeReader | None = None) -> None:
        self.entries = [entry]
        self.content = memoryview(content)
        self.pipe = pipe
        self.pending: transfer.ReadPipe | None = None
        self.spoil = False

    def advance(self, side: Side, now: float) -> None:
        machine = side.machine
        assert isinstance(machine, TransferSender)
        while (wanted := side.poll_wanted(now)) is not None:
            match wanted:
                case transfer.WantEntries():
                    machine.handle_entries(self.entries, True)
                    side.advance(now)
                case transfer.ReadWhole(files):
                    side.send(machine.handle_whole(wanted, [bytes(self.content) for _ in files]), now)
                case transfer.Read(offset=offset, length=length):
                    starts = range(offset, offset + length, PIECE)
                    ends = [min(start + PIECE, offset + length) for start in starts]
                    pieces = [self.content[start:end] for start, end in zip(starts, ends, strict=True)]
                    records = [bytearray(DATA_HEADER) + piece for piece in pieces]
                    if machine.handle_read(wanted, records):
                        side.send(records, now)
                case transfer.ReadPipe(length=length):
                    self.pending = wanted
                    self.pipe.want(length)
                    break
        if self.pending is not None:
            self.pipe.handle_readable()
            if (data := self.pipe.poll()) is not None:
                pending, self.pending = self.pending, None
                records = machine.handle_pipe(pending, *data)
                if self.spoil and len(records) > 1:
                    self.spoil = False
                    records[1] = records[1][:-1] + bytes([records[1][-1] ^ 1])
                side.send(records, now)


class World:
    def __init__(self, producer: Producer, offer: Offer, end: StdoutEnd | TextEnd, selector) -> None:
        self.producer, self.end, self.selector = producer, end, selector
        self.sending, self.receiving = pair(TransferSender(offer), end.machine)
        self.refused: PipeError | None = None
        self.most_unwritten = 0

    def run(self, until: Callable[[], bool]) -> None:
        """Turns until then."""
        idle = 0
        while not until():
            moved = self.turn()
            if not moved:
                idle += 1
                assert idle < GUARD / 0.01, "nothing moves any more"
                for key, mask in self.selector.select(0.01):
                    idle = 0
                    key.data(mask)

    def turn(self) -> int:
        sending, receiving = self.sending, self.receiving
        self.producer.advance(sending, START)
        moved = carry(sending, receiving, START)
        for event in receiving.of(events.Offered):
            receiving.events.remove(event)
            try:
                self.end.handle_offer(event.offer)
            except PipeError as error:
                self.refused = error
                receiving.refuse(error.failure, error.public, START)
            else:
                self.end.accept(event.offer, receiving, START)
        self.end.advance(receiving, START)
        self.most_unwritten = max(self.most_unwritten, getattr(self.end, "_unwritten", 0))
        return moved + carry(receiving, sending, START)

    def lose_path(self) -> None:
        """What is on its way is gone; both machines go on over another path. The first attempt at one finds no way."""
        attempt = Side(self.receiving.link, self.receiving.machine, failure=Failure(ExitCode.NO_PATH, "no path"))
        attempt.advance = lambda _: None
        self.end.advance(attempt, START)
        self.sending, self.receiving = pair(self.sending.machine, self.receiving.machine, goes_on=True)

    @property
    def is_over(self) -> bool:
        return all(side.is_done or side.failure is not None for side in (self.sending, self.receiving))


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as made:
        yield made


@pytest.fixture
def stack(selector) -> Iterator[contextlib.ExitStack]:
    """What it closes is unregistered from the selector before."""
    assert selector.get_map() is not None
    with contextlib.ExitStack() as made:
        yield made


class Pipe:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.reader, self.writer = os.pipe()
        stack.callback(self.close_reader)
        stack.callback(self.close_writer)

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
        self.reader = -1

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
        self.writer = -1


class Consumer(threading.Thread):
    """Reads to the end."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd, self.hash, self.length = fd, blake3(), 0

    def run(self) -> None:
        while data := os.read(self.fd, 1 << 20):
            self.hash.update(data)
            self.length += len(data)


def produce(pipe: Pipe, content: bytes) -> threading.Thread:
    def write() -> None:
        view = memoryview(content)
        with contextlib.suppress(OSError):  # the test has ended
            while view:
                view = view[os.write(pipe.writer, view) :]
        pipe.close_writer()

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def piped(stack, selector, content: bytes) -> tuple[World, Pipe, Pipe, threading.Thread]:
    """A world between two real pipes, and a producer at the first."""
    source, sink = Pipe(stack), Pipe(stack)
    reader = PipeReader(source.reader)
    stack.callback(reader.close)
    selector.register(reader.fileno(), selectors.EVENT_READ, lambda _: reader.handle_readable())
    end = StdoutEnd(selector, sink.writer)
    stack.callback(end.close)
    offer, entry = offer_of(None)
    return World(Producer(entry, pipe=reader), offer, end, selector), source, sink, produce(source, content)


def test_from_a_pipe_to_a_pipe(stack, selector):
    content = random.Random(1).randbytes(1_000_003) * 50
    world, _, sink, producer = piped(stack, selector, content)
    consumer = Consumer(sink.reader)
    consumer.start()
    world.run(lambda: world.is_over)
    sink.close_writer()
    consumer.join()
    producer.join()
    assert world.sending.is_done
    assert world.receiving.is_done
    assert consumer.hash.digest() == blake3(content).digest()
    assert world.receiving.of(events.FileDone)[0].size == world.end.written == len(content)
    assert world.receiving.of(events.Done)[0].exit_code is ExitCode.DONE


@pytest.mark.parametrize("seed", range(5))
def test_a_path_that_is_lost_costs_a_pipe_nothing(stack, selector, seed):
    chance = random.Random(seed)
    content = chance.randbytes(10_000_000)
    world, _, sink, producer = piped(stack, selector, content)
    consumer = Consumer(sink.reader)
    consumer.start()
    for at in sorted(chance.randrange(1, 9_000_000) for _ in range(4)):
        world.run(lambda at=at: world.receiving.machine.progress.done >= at)
        for _ in range(chance.randrange(4)):
            world.producer.advance(world.sending, START)  # on its way to nobody
        world.lose_path()
    world.run(lambda: world.is_over)
    sink.close_writer()
    consumer.join()
    producer.join()
    assert world.sending.is_done
    assert world.receiving.is_done
    assert (consumer.length, consumer.hash.digest()) == (len(content), blake3(content).digest())


def test_nothing_at_all_is_something_that_can_be_sent(stack, selector):
    world, _, sink, producer = piped(stack, selector, b"")
    world.run(lambda: world.is_over)
    producer.join()
    sink.close_writer()
    assert world.receiving.is_done
    assert os.read(sink.reader, 10) == b""
    assert world.end.regret is None


def test_a_consumer_that_does_not_read_holds_the_producer_back(stack, selector):
    content = random.Random(2).randbytes(1_000_003) * 40
    world, _, sink, producer = piped(stack, selector, content)
    world.run(lambda: world.receiving.link.is_full and not world.end.machine.ready)
    for _ in range(20):
        world.turn()
    sent = world.sending.machine.progress.done
    assert sent < 20_000_000  # queues of both sides, and pipes; the rest waits in the producer
    assert world.end.written <= 1 << 20
    assert world.most_unwritten < MAX_UNWRITTEN + 16 * PIECE * 8
    consumer = Consumer(sink.reader)
    consumer.start()
    world.run(lambda: world.is_over)
    sink.close_writer()
    consumer.join()
    producer.join()
    assert world.receiving.is_done
    assert consumer.hash.digest() == blake3(content).digest()


def test_a_consumer_that_dies_ends_it_on_both_sides(stack, selector):
    world, source, sink, producer = piped(stack, selector, bytes(20_000_000))
    world.run(lambda: world.end.written > 0)
    sink.close_reader()
    world.run(lambda: world.is_over)
    here, there = world.receiving.failure, world.sending.failure
    assert (here.code, there.code) == (ExitCode.STORAGE, ExitCode.STORAGE)
    assert here.message.startswith("Cannot write to standard output: whoever read it has stopped reading")
    assert "stopped reading" in there.message
    assert "cannot be taken back" in world.end.regret
    source.close_reader()
    producer.join()


def test_other_content_than_was_read_is_an_end_with_words(stack, selector):
    content = random.Random(3).randbytes(3_000_000)
    world, _, sink, producer = piped(stack, selector, content)
    world.producer.spoil = True
    consumer = Consumer(sink.reader)
    consumer.start()
    world.run(lambda: world.is_over)
    producer.join()
    sink.close_writer()
    consumer.join()
    assert world.receiving.failure.code is ExitCode.INTEGRITY
    assert world.sending.failure.code is ExitCode.INTEGRITY
    assert "do not use them" in world.end.regret


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 5_000_000])
def test_a_file_goes_to_a_pipe_too(stack, selector, size):
    content = random.Random(size).randbytes(size)
    sink = Pipe(stack)
    end = StdoutEnd(selector, sink.writer)
    stack.callback(end.close)
    offer, entry = offer_of(size, OfferKind.TREE, "notes.txt")
    world = World(Producer(entry, content), offer, end, selector)
    consumer = Consumer(sink.reader)
    consumer.start()
    world.run(lambda: world.is_over)
    sink.close_writer()
    consumer.join()
    assert world.receiving.is_done
    assert (consumer.length, consumer.hash.digest()) == (size, blake3(content).digest())


def test_a_hole_is_written_as_zeros(stack, selector):
    size = 40_000_000
    sink = Pipe(stack)
    end = StdoutEnd(selector, sink.writer)
    stack.callback(end.close)
    offer, entry = offer_of(size, OfferKind.TREE, "sparse")

    class Sparse(Producer):
        def advance(self, side: Side, now: float) -> None:
            machine = side.machine
            while (wanted := side.poll_wanted(now)) is not None:
                match wanted:
                    case transfer.WantEntries():
                        machine.handle_entries(self.entries, True)
                    case transfer.Read(offset=0):
                        records = [bytearray(DATA_HEADER) + b"x" * PIECE for _ in range(wanted.pieces)]
                        side.send(records, now) if machine.handle_read(wanted, records) else None
                        self.data = wanted.length
                    case transfer.Read(offset=offset):
                        machine.handle_hole(wanted, min(2**24, size - offset))
                side.advance(now)

    producer = Sparse(entry)
    world = World(producer, offer, end, selector)
    consumer = Consumer(sink.reader)
    consumer.start()
    world.run(lambda: world.is_over)
    sink.close_writer()
    consumer.join()
    assert world.receiving.is_done
    assert consumer.length == size
    assert consumer.hash.digest() == blake3(b"x" * producer.data + bytes(size - producer.data)).digest()


@pytest.mark.parametrize(
    ("roots", "what"),
    [
        ((Root(Kind.FOLDER, "photos", None),), "a folder"),
        ((Root(Kind.FILE, "a", 1), Root(Kind.FILE, "b", 1)), "2 things"),
    ],
)
def test_what_is_not_one_file_is_refused_before_anybody_is_asked(stack, selector, roots, what):
    sink = Pipe(stack)
    end = StdoutEnd(selector, sink.writer)
    stack.callback(end.close)
    offer = Offer(OfferKind.TREE, bytes(16), Totals(2, 2, is_final=True), len(roots), roots)
    world = World(Producer(File("a", 0o644, 0, 1), b"x"), offer, end, selector)
    world.run(lambda: world.is_over)
    assert world.receiving.failure.code is ExitCode.REFUSED
    refused = f"offers {what}, and standard output (--out -) takes one file alone"
    assert refused in spoken(world.receiving.failure.message)
    assert world.sending.failure == Failure(
        ExitCode.REFUSED, f"The other side refused: it takes one file alone, and {what} were offered"
    )


def test_a_folder_in_the_place_of_the_file_that_was_offered_is_not_written(stack, selector):
    sink = Pipe(stack)
    end = StdoutEnd(selector, sink.writer)
    stack.callback(end.close)
    offer, entry = offer_of(1, OfferKind.TREE, "a")
    producer = Producer(entry, b"x")
    producer.entries = [Folder("a", 0o755, 0), entry, Leave()]
    world = World(producer, offer, end, selector)
    world.run(lambda: world.is_over)
    assert world.receiving.failure is not None
    assert world.sending.failure is not None
    assert end.written == 0


# texts


def text_world(content: bytes, size: int, selector) -> tuple[World, list[str]]:
    shown: list[str] = []
    offer, _ = offer_of(size, OfferKind.TEXT, "text")
    _, entry = offer_of(len(content), OfferKind.TEXT, "text")
    return World(Producer(entry, content), offer, TextEnd(shown.append), selector), shown


@pytest.mark.parametrize("text", ["", "hello\n", "Grüße, 世界", "x" * 50_000])
def test_a_text_is_shown_once_it_is_whole(selector, text):
    content = text.encode()
    world, shown = text_world(content, len(content), selector)
    world.run(lambda: world.is_over)
    assert world.receiving.is_done
    assert shown == [text]


def test_a_text_that_is_too_long_is_refused(selector):
    world, shown = text_world(bytes(MAX_TEXT + 1), MAX_TEXT + 1, selector)
    world.run(lambda: world.is_over)
    assert world.receiving.failure.code is ExitCode.REFUSED
    assert shown == []


def test_a_text_that_is_longer_than_it_was_offered_as_is_not_kept(selector):
    world, shown = text_world(bytes(MAX_TEXT + 1), 5, selector)
    world.run(lambda: world.is_over)
    assert world.receiving.failure is not None
    assert shown == []


@given(st.text())
def test_a_text_moves_nothing_on_a_terminal(text):
    for character in printable(text):
        assert character in "\n\t" or unicodedata.category(character)[0] != "C"


def test_a_text_keeps_its_lines():
    assert printable("one\r\n\ttwo\x1b[2J\n") == "one\n\ttwo\\x1b[2J\n"


def test_a_sender_that_says_one_byte_at_a_time_is_held_back_too(selector, stack) -> None:
    """Each byte in a record of its own takes hundreds here while nobody reads our output."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    end = StdoutEnd(selector, writer)
    offer, entry = offer_of(None)
    _, receiving = pair(TransferSender(offer), end.machine)
    end.machine.handle_record(encode(offer))
    end.machine.accept()
    end.machine.handle_record(encode(Entries((entry,))))
    said = 0
    while end.machine.ready:
        for _ in range(1000):
            end.machine.handle_record(encode(Data(0, said, b"x")))
            said += 1
        end.advance(receiving, START)
        assert said < 200_000
    assert said >= MAX_PIECES
    end.close()
    assert end._worker.close(GUARD)
