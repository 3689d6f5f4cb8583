"""Caps on what an offer may make the receiver keep or promise."""

from __future__ import annotations

MAX_FILES = 65_536  # an entry takes about 400 bytes of memory, so 26 MB at most on either side
MAX_TOTAL = 2**63 - 1  # bytes; the largest file offset (off_t), so no sum overflows anything
MAX_PIECES = 16  # pieces of one read or write: 960 KiB, which stay in a processor's cache until they are sealed
SMALL = 16_384  # bytes: files up to this go whole, several in one record; a larger one fills a quarter of it alone
MAX_UNNAMED = 1024  # verified files that wait for their names: small ones hold 16 MB at most
MAX_UNSTORED = 128  # verified files that wait for the disk: each holds a descriptor, and 1024 is a usual limit
