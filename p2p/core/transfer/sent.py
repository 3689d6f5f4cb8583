"""What the sender has handed out so far."""

from __future__ import annotations

from blake3 import blake3

from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Totals


class Sent:
    """Bytes of content, those of them that the receiver had, those of holes, and whole files with their digests."""

    def __init__(self) -> None:
        self.done = self.kept = self.holes = self.files = 0
        self._digests = blake3()
        self._last = b""

    def note_file(self, digest: bytes) -> None:
        self._digests.update(digest)
        self._last = digest
        self.files += 1

    @property
    def digests(self) -> bytes:
        """BLAKE3 over the digests of all files."""
        digest: bytes = self._digests.digest()
        return digest

    @property
    def shown(self) -> bytes:
        """What people compare: the digest of the one file, or that of all."""
        return self._last if self.files == 1 else self.digests

    def progress(self, totals: Totals, path: str) -> Progress:
        return Progress(
            self.done,
            self.kept,
            self.files,
            totals.size,
            totals.files,
            totals.is_final,
            path,
            self.holes,
            totals.holes,
            totals.files + totals.others,
        )
