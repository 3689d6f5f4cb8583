"""BLAKE3 of what is not there: the zeros of a hole."""

from __future__ import annotations

from typing import Final

from blake3 import blake3

_ZEROS: Final = bytes(2**20)


def update_with_zeros(hash_: blake3, length: int) -> None:
    """4 GB/s."""
    for _ in range(length // len(_ZEROS)):
        hash_.update(_ZEROS)
    hash_.update(memoryview(_ZEROS)[: length % len(_ZEROS)])
