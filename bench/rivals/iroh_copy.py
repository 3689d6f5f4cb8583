"""Copies one file over iroh; see small_program.py.

iroh's Python binding fills the buffer that it hands to Rust byte by byte, in Python. That would measure the binding
and not iroh, so `copy_at_once` replaces it by one memmove.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from pathlib import Path
from typing import Any

import iroh
from iroh import iroh_ffi

ALPN = b"p2p-bench/1"
CHUNK = 1 << 20  # bytes


def copy_at_once() -> None:
    """The binding's loop over bytes becomes a memmove. Reading is a slice of a pointer, one copy already."""

    def write(self: Any, value: bytes) -> None:
        with self._reserve(len(value)):
            start = ctypes.cast(self.rbuf.data, ctypes.c_void_p).value or 0
            ctypes.memmove(start + self.rbuf.len, bytes(value), len(value))

    setattr(iroh_ffi._UniffiRustBufferBuilder, "write", write)  # noqa: B010  (no assignment to a method passes mypy)


async def bind(address: str) -> Any:
    options = iroh.EndpointOptions(
        preset=iroh.preset_minimal(),
        bind_addr=f"{address}:0",
        alpns=[ALPN],
        relay_mode=iroh.RelayMode.disabled(),
    )
    return await iroh.Endpoint.bind(options)


async def receive(address: str, path: Path) -> None:
    endpoint = await bind(address)
    where = next(each for each in endpoint.bound_sockets() if each.startswith(address))
    print(f"ready {endpoint.id()}@{where}", flush=True)
    incoming = await endpoint.accept_next()
    connection = await (await incoming.accept()).connect()
    stream = await connection.accept_bi()
    reading, writing = stream.recv(), stream.send()
    with path.open("wb", buffering=0) as file:
        while data := await reading.read(CHUNK):
            file.write(data)
    await writing.write_all(b"whole")
    await writing.finish()
    await connection.closed()
    await endpoint.close()


async def send(ticket: str, path: Path) -> None:
    identity, _, where = ticket.partition("@")
    endpoint = await bind("0.0.0.0")
    remote = iroh.EndpointAddr(iroh.EndpointId.from_string(identity), None, [where])
    connection = await endpoint.connect(remote, ALPN)
    stream = await connection.open_bi()
    reading, writing = stream.recv(), stream.send()
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK):
            await writing.write_all(data)
    await writing.finish()
    if await reading.read_to_end(16) != b"whole":
        raise SystemExit("the receiver did not get it all")
    connection.close(0, b"")
    await endpoint.close()


if __name__ == "__main__":
    copy_at_once()
    asyncio.run({"receive": receive, "send": send}[sys.argv[1]](sys.argv[2], Path(sys.argv[3])))
