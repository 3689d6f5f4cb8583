"""Caps on what an offer may make either side keep or promise. Reasons: docs/transfer.md."""

from __future__ import annotations

MAX_GROWTH = 2**30  # bytes that come beyond twice the final totals: what is sent may grow after it was counted
MAX_MORE = 10_000  # files, and folders and links, that come beyond twice the final totals
MAX_TOTAL = 2**63 - 1  # bytes; the largest file offset (off_t), so no sum overflows anything
MAX_ENTRIES = 2**32 - 1
MAX_DEPTH = 64  # folders below each other: each is a descriptor at the receiver
MAX_LINKED = 65_536  # files with several names that either side remembers, to its end: some 10 MB
MAX_ROOTS = 200  # of an offer that are told by name: with 255 bytes each they still fit its record
MAX_AHEAD = 1024  # entries that are announced from the first file on whose content has not come
MAX_ANNOUNCED = 4096  # entries ahead of content, as the receiver enforces it: room for who sends otherwise than we
MAX_PIECES = 16  # pieces of one read or write: 960 KiB, which stay in a processor's cache until they are sealed
SMALL = 16_384  # bytes: files up to this go whole, several in one record; a larger one fills a quarter of it alone
MAX_UNNAMED = 1024  # verified files that wait for their names: small ones hold 16 MB at most
MAX_UNSTORED = 128  # verified files that wait for the disk: each holds a descriptor, and 1024 is a usual limit
MAX_HOLE = 2**24  # bytes of one HOLE: their zeros are hashed at once, in 4 ms
MAX_CHUNKS = 2**21  # of one file that are compared: 2 TB; their digests take 32 MB
MAX_TEXT = 65_536  # bytes of a text: what a person still reads
MAX_LISTED = 1000  # problems that are remembered one by one; all are counted
MAX_QUEUED = 1024  # answers that wait for a slow way back before no more is taken
MAX_KEPT = 1024  # records that the sender keeps: 63 MB of small files or of a pipe; more than any window holds
MAX_UNTAKEN = 65_536  # answers that the receiver keeps: an honest sender takes them as they come
MAX_UNTAKEN_SIZE = 2**27  # bytes of them: one HAVE is 60 KB, and an honest sender has taken all but 4 MB
TAKEN_EVERY = 64  # numbered records between two TAKEN

# Empty files have no bytes, and fill a disk all the same: beside a limit of bytes stands one of things.
BYTES_A_THING = 1000
LEAST_THINGS = 1000  # whatever the limit


def most_things(limit: int) -> int:
    """Files, folders and links that are taken beside at most so many bytes."""
    return max(LEAST_THINGS, limit // BYTES_A_THING)
