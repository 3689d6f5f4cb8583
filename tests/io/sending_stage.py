"""A transfer with no network between: a SendingEnd on real files, and a receiver that keeps a dictionary."""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from blake3 import blake3

from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode
from p2p.core.peer.peer import Peer
from p2p.core.transfer import events
from p2p.core.transfer.messages import CHUNK, CHUNK_DIGEST, Offer
from p2p.core.transfer.names import stays_inside
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender
from p2p.io.sending.end import SendingEnd

GUARD = 30.0  # seconds after which a thread that says nothing fails the test
Described = dict[str, object]  # what lies at each path


class Receiving:
    """The receiving machine and a disk that is a dictionary. `here`: what an earlier run left of the files."""

    def __init__(self, here: dict[str, bytes] | None = None) -> None:
        self.machine = TransferReceiver()
        self.offer: Offer | None = None
        self.events: list[events.ReceiverEvent] = []
        self.tree: Described = {}
        self.on_write: Callable[[events.Write], object] = lambda _: None
        self._here = here
        self._paths: dict[int | None, str] = {None: ""}
        self._contents: dict[int, bytearray] = {}

    def advance(self) -> None:
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)
            if isinstance(event, events.Offered):
                self.offer = event.offer
                self.machine.accept(answers=self._here is not None)
        while (action := self.machine.poll_action()) is not None:
            self._do(action)

    def _do(self, action: events.FileAction) -> None:
        match action:
            case events.MakeFolder(number, parent, entry):
                self.tree[self._name(number, parent, entry.name) + "/"] = (entry.mode, entry.mtime_ns)
            case events.LeaveFolder(number):
                self.machine.handle_stored(number, "")
            case events.Announced(number, parent, path, entry):
                assert self._name(number, parent, entry.name) == path
                here = (self._here or {}).get(path, b"")
                self._contents[number] = bytearray(here)
                if self.machine.answers:
                    chunks = [here[start : start + CHUNK] for start in range(0, len(here), CHUNK)]
                    self.machine.handle_have(number, [blake3(chunk).digest(CHUNK_DIGEST) for chunk in chunks])
            case events.MakeSymlink(number, parent, entry):
                self.tree[self._name(number, parent, entry.name)] = ("->", entry.target)
                self.machine.handle_stored(number, "")
            case events.MakeHardlink(number, parent, entry):
                self.tree[self._name(number, parent, entry.name)] = ("=", self._paths[entry.to])
                self.machine.handle_stored(number, "")
            case events.Write(number, offset, pieces):
                self.on_write(action)
                content = self._contents[number]
                data = b"".join(pieces)
                content[offset : offset + len(data)] = data
            case events.LeaveHole(number, offset, length):
                self._contents[number][offset : offset + length] = bytes(length)
            case events.Complete(number, size, digest):
                self._store(number, bytes(self._contents[number][:size]), digest)
            case events.Whole(number, content, digest):
                self._store(number, bytes(content), digest)
            case events.Keep() | events.Drop():
                pass

    def _name(self, number: int, parent: int | None, name: str) -> str:
        self._paths[number] = f"{self._paths[parent]}/{name}".lstrip("/")
        return self._paths[number]

    def _store(self, number: int, content: bytes, digest: bytes) -> None:
        assert blake3(content).digest() == digest
        self.tree[self._paths[number]] = content
        self.machine.handle_stored(number, "")


class Direct:
    """A path without a network, as far as SendingEnd knows a peer. Records arrive when they are looked at."""

    def __init__(self, sender: TransferSender, receiving: Receiving, *, goes_on: bool = False) -> None:
        self.reads = 0
        self._sender = sender
        self._receiving = receiving
        self._records: deque[bytes] = deque()
        if goes_on:
            sender.go_on()
            receiving.machine.go_on()
        else:
            sender.start()

    def poll_wanted(self, _: float) -> events.Wanted | None:
        self._send_control()
        wanted = self._sender.poll_wanted(5)
        self.reads += isinstance(wanted, events.Read | events.ReadWhole)
        return wanted

    def send(self, records: Sequence[Buffer], _: float) -> None:
        self._records.extend(map(bytes, records))  # as sealing copies them
        self._send_control()

    def advance(self, _: float) -> None:
        self._send_control()

    def deliver(self) -> bool:
        """Returns whether anything arrived."""
        receiver, moved = self._receiving.machine, False
        while True:
            if self._records:
                receiver.handle_record(self._records.popleft())
                self._receiving.advance()
            elif (answer := receiver.poll_record()) is not None:
                self._sender.handle_record(answer)
                self._send_control()
            else:
                return moved
            moved = True

    def _send_control(self) -> None:
        while (record := self._sender.poll_record()) is not None:
            self._records.append(record)


class Stage:
    """Runs a sending end as the loop does."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.events: list[events.SenderEvent] = []

    def count(self, end: SendingEnd) -> None:
        while not end.is_counted:
            ready = self.selector.select(GUARD)
            assert ready, "nobody counts"
            for key, mask in ready:
                key.data(mask)

    def run(
        self,
        end: SendingEnd,
        receiving: Receiving,
        *,
        breaks: Sequence[int] = (),
    ) -> None:
        """The path is lost in the turns `breaks`, with what is on its way."""
        path, turn = Direct(end.machine, receiving), 0
        try:
            while not (end.machine.ended and receiving.machine.ended):
                turn += 1
                is_busy = end.advance(cast(Peer, path), 0.0)
                if turn in breaks:
                    path = Direct(end.machine, receiving, goes_on=True)
                moved = path.deliver() or is_busy
                while (event := end.machine.poll_event()) is not None:
                    self.events.append(event)
                ready = self.selector.select(0.0 if moved or end.machine.ended else GUARD)
                assert ready or moved or end.machine.ended, "both wait for each other"
                for key, mask in ready:
                    key.data(mask)
        finally:
            end.close()
        receiving.advance()
        assert not self.selector.get_map()

    @property
    def missed(self) -> dict[str, tuple[ExitCode, str]]:
        told = [event for event in self.events if isinstance(event, events.NotTransferred)]
        return {event.path: (event.exit_code, event.reason) for event in told}

    @property
    def exit_code(self) -> ExitCode:
        [finished] = [event for event in self.events if isinstance(event, events.Finished)]
        return finished.exit_code


def describe(root: Path, name: str) -> Described:
    """What lies at `root`, as far as it can be sent, read in the plainest way."""
    tree: Described = {}
    first_names: dict[int, str] = {}

    def add(path: Path, sent_as: str, depth: int) -> None:
        status = path.lstat()
        if path.is_symlink():
            if stays_inside(target := os.readlink(path), depth - 1):
                tree[sent_as] = ("->", target)
        elif path.is_dir():
            tree[sent_as + "/"] = (status.st_mode & 0o777, status.st_mtime_ns)
            for inner in sorted(path.iterdir(), key=lambda each: os.fsencode(each.name)):
                add(inner, f"{sent_as}/{inner.name}", depth + 1)
        elif path.is_file():
            first = first_names.setdefault(status.st_ino, sent_as)
            tree[sent_as] = path.read_bytes() if first == sent_as else ("=", first)

    add(root, name, 0)
    return tree


def make(folder: Path, things: dict[str, Any]) -> Path:
    folder.mkdir()
    for name, thing in things.items():
        path = folder / name
        match thing:
            case dict():
                make(path, thing)
            case bytes():
                path.write_bytes(thing)
            case ("zeros", size):  # bytes() of so many would drown what hypothesis shows of an example
                path.write_bytes(bytes(size))
            case ("->", target):
                path.symlink_to(target)
            case ("hole", size):
                path.touch()
                os.truncate(path, size)
            case "pipe":
                os.mkfifo(path)
            case "linked":
                others = [each for each in folder.iterdir() if each.is_file() and not each.is_symlink()]
                if others:
                    os.link(min(others), path)
    return folder
