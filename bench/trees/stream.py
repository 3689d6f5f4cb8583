"""The two ends of a pipe: python -m bench.trees.stream produce BYTES CODE, and: consume BYTES

`produce` writes so many bytes as tar does, in blocks of 10 KiB, and ends with that code (or, where it is negative, by
that signal); `consume` reads so many at most. Both say the number and the BLAKE3 of the bytes on standard error.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from itertools import count

from blake3 import blake3

RECORD = 10_240  # bytes; tar's
READ = 1 << 18
HEAD = 8  # bytes at the beginning of each record, which make it another one


def produce(size: int) -> Iterator[bytes]:
    body = random.Random(1).randbytes(RECORD - HEAD)
    for number in count():
        if size <= 0:
            return
        yield (number.to_bytes(HEAD, "big") + body)[:size]
        size -= RECORD


def main() -> None:
    what, size = sys.argv[1], int(sys.argv[2])
    digest, total = blake3(), 0
    if what == "produce":
        for block in produce(size):
            digest.update(block)
            total += len(block)
            while block:
                block = block[os.write(1, block) :]
    else:
        while total < size and (data := os.read(0, min(READ, size - total))):
            digest.update(data)
            total += len(data)
    print(f"{total} {digest.hexdigest()}", file=sys.stderr, flush=True)
    code = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
