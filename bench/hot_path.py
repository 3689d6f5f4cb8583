"""Where a microsecond goes: the steps that a record of 60 KiB takes on both sides, each alone and in one thread.

python -m bench.hot_path [--profile transport]

Prints the best of several rounds, in microseconds a record. The rows of the transfer are its two machines, which hand
each other their records, the hashing on both sides included. The last three rows are two whole connections in one
process that hand each other their datagrams, without a socket: what the transport itself costs, its steps included.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import os
import pstats
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.transport_loopback import RECEIVER_KEYS, SENDER_KEYS
from p2p.core.address import Address
from p2p.core.datagram import Buffer, Transmit
from p2p.core.transfer.entries import File, Kind
from p2p.core.transfer.events import Complete, Offered, Read, WantEntries
from p2p.core.transfer.limits import MAX_PIECES
from p2p.core.transfer.messages import MAX_MESSAGE, PIECE, TOKEN, Offer, OfferKind, Root, Totals
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender
from p2p.core.transport import packets
from p2p.core.transport.connection import Connection
from p2p.io.memory import keep_freed_memory

DATAGRAM = 1472  # bytes of UDP payload
FILE_PIECES = 512  # 30 MiB: more than a processor's second cache
ROUNDS, CALLS = 7, 300
RECORDS = 2000
FLIGHT = 0.0002  # seconds each way, of a clock that stands still while somebody works
ALICE, BOB = Address("192.0.2.1", 1), Address("192.0.2.2", 2)


def best(step: Callable[[], object]) -> float:
    """Microseconds a call in the best round."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            step()
        rounds.append((time.perf_counter() - start) / CALLS)
    return min(rounds) * 1e6


def steps(folder: Path) -> dict[str, float]:
    plaintext, cipher, nonce = os.urandom(MAX_MESSAGE), AESGCM(os.urandom(32)), bytes(12)
    ciphertext, digest = cipher.encrypt(nonce, plaintext, None), blake3()
    payload = DATAGRAM - packets.DATA_HEADER
    segments = -(-len(ciphertext) // payload)
    last = len(ciphertext) - payload * (segments - 1)

    def burst() -> bytes:
        return packets.encode_data(
            b"12345678", 100, 5, ciphertext, offset=0, count=segments, payload=payload, last=last
        )

    joined = memoryview(burst())
    gappy = memoryview(joined[: DATAGRAM * 20].tobytes() + joined[DATAGRAM * 21 :].tobytes())
    single = joined[:DATAGRAM]
    buffer, piece, turn = bytearray(PIECE), plaintext[:PIECE], count()
    with (folder / "file").open("wb+", buffering=0) as file:
        for _ in range(FILE_PIECES):
            file.write(piece)
        descriptor = file.fileno()
        return {
            "read: preadv from tmpfs": best(lambda: os.preadv(descriptor, [buffer], next(turn) % FILE_PIECES * PIECE)),
            "hash: BLAKE3, on both sides": best(lambda: digest.update(piece)),
            "(the same with SHA-256)": best(lambda: hashlib.sha256(piece)),
            "seal: AES-256-GCM": best(lambda: cipher.encrypt(nonce, plaintext, None)),
            f"cut into {segments} datagrams with headers": best(burst),
            "put together again: one coherent burst": best(lambda: packets.decode_burst(joined, DATAGRAM)),
            "the same with one datagram missing": best(lambda: packets.decode_burst(gappy, DATAGRAM)),
            f"the same one by one, {segments} times": segments * best(lambda: packets.decode_data(single)),
            "open: AES-256-GCM": best(lambda: cipher.decrypt(nonce, ciphertext, None)),
            "write: pwritev to tmpfs": best(lambda: os.pwritev(descriptor, [piece], next(turn) % FILE_PIECES * PIECE)),
        }


def transfer() -> dict[str, float]:
    """Both machines of a transfer of one file; the best of the rounds, each side for itself."""
    rounds = [_transfer_pass() for _ in range(ROUNDS)]
    return {
        "transfer: header, hash, ledger": min(each[0] for each in rounds),
        "transfer: parse, hash, hand to the disk": min(each[1] for each in rounds),
    }


def _transfer_pass() -> tuple[float, float]:
    size, clock = RECORDS * PIECE, time.perf_counter
    totals, root = Totals(1, size, is_final=True), Root(Kind.FILE, "file", size)
    sender = TransferSender(Offer(OfferKind.TREE, bytes(TOKEN), totals, 1, (root,)))
    receiver = TransferReceiver()
    records = [memoryview(bytearray(os.urandom(MAX_MESSAGE))) for _ in range(MAX_PIECES)]
    sender.start()
    sending = receiving = 0.0
    while not sender.ended:
        start = clock()
        out: list[Buffer] = list(iter(sender.poll_record, None))
        match sender.poll_wanted(MAX_PIECES):
            case Read() as read:
                if sender.handle_read(read, records[: read.pieces]):
                    out += records[: read.pieces]
            case WantEntries():
                sender.handle_entries([File("file", 0o644, 0, size)], is_last=True)
            case _:
                pass
        while sender.poll_event() is not None:
            pass
        sending += clock() - start
        start = clock()
        for record in out:
            receiver.handle_record(record)
        while (event := receiver.poll_event()) is not None:
            if isinstance(event, Offered):
                receiver.accept()
        while (action := receiver.poll_action()) is not None:
            if isinstance(action, Complete):
                receiver.handle_stored(action.number, "file")
        answers = list(iter(receiver.poll_record, None))
        receiving += clock() - start
        start = clock()
        for answer in answers:
            sender.handle_record(answer)
        sending += clock() - start
    return sending / RECORDS * 1e6, receiving / RECORDS * 1e6


def transport() -> dict[str, float]:
    """Two connections; the best of the rounds, each half for itself."""
    rounds = [_pass() for _ in range(ROUNDS)]
    names = (
        "transport: send, seal and cut included",
        "transport: take acknowledgements",
        "transport: receive and open",
    )
    return {name: min(each[index] for each in rounds) for index, name in enumerate(names)}


def _pass() -> tuple[float, float, float]:
    now, clock = 1000.0, time.perf_counter
    sender, receiver = Connection(SENDER_KEYS, BOB, now), Connection(RECEIVER_KEYS, ALICE, now)
    record, left = os.urandom(MAX_MESSAGE), RECORDS
    sending = acknowledging = receiving = 0.0
    while left or not sender.is_idle:
        start = clock()
        sender.handle_timeout(now)
        while left and sender.room():
            sender.send(record, now)
            left -= 1
        output = _polled(sender, now)
        sending += clock() - start
        arrived = [_flown(each) for each in output]
        now += FLIGHT
        start = clock()
        for data, size in arrived:
            if (size or len(data)) <= DATAGRAM:
                receiver.handle_datagram(data, size, ALICE, now)
        while receiver.poll_record() is not None:
            pass
        receiver.handle_timeout(now)
        answers = _polled(receiver, now)
        receiving += clock() - start
        now += FLIGHT
        start = clock()
        for data, size in map(_flown, answers):
            sender.handle_datagram(data, size, BOB, now)
        acknowledging += clock() - start
        now += FLIGHT
    return tuple(seconds / RECORDS * 1e6 for seconds in (sending, acknowledging, receiving))  # type: ignore[return-value]


def _polled(connection: Connection, now: float) -> list[Transmit]:
    return list(iter(lambda: connection.poll_transmit(now), None))


def _flown(transmit: Transmit) -> tuple[memoryview, int]:
    return memoryview(b"".join(transmit.buffers)), transmit.segment_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=["transport", "transfer"], help="where its time goes, by cProfile")
    options = parser.parse_args()
    keep_freed_memory()
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(_transfer_pass if options.profile == "transfer" else _pass)
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        rows = steps(Path(folder)) | transfer() | transport()
    for name, microseconds in rows.items():
        print(f"{name:<44} {microseconds:6.1f} us  {MAX_MESSAGE / microseconds / 1e3:6.2f} GB/s")


if __name__ == "__main__":
    main()
