"""Copies one file over aioquic; see small_program.py.

aioquic takes whatever it is given into memory, so the receiver says how far it has come, and the sender keeps `AHEAD`
bytes before that: more than any path here holds.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import struct
import sys
from pathlib import Path

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PORT = 4433
CHUNK, STEP, AHEAD = 1 << 18, 1 << 20, 1 << 24  # bytes: of a read, between two reports, before the last report
LINGER = 1.0  # seconds in which the last report may be lost and sent again
DATAGRAM = 1452  # bytes of UDP payload; an MTU of 1500 less both headers, rounded down for IPv6
REPORT = struct.Struct(">Q")


def configuration(*, is_client: bool) -> QuicConfiguration:
    """With windows that no path here fills."""
    made = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=["p2p-bench"],
        congestion_control_algorithm="cubic",
        max_data=4 * AHEAD,
        max_stream_data=4 * AHEAD,
        max_datagram_size=DATAGRAM,
        verify_mode=ssl.CERT_NONE if is_client else None,
    )
    if not is_client:
        made.private_key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=name,
            subject_name=name,
            public_key=made.private_key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=1),
        )
        made.certificate = builder.sign(made.private_key, hashes.SHA256())
    return made


async def receive(address: str, path: Path) -> None:
    over = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        total = reported = 0
        with path.open("wb", buffering=0) as file:
            while data := await reader.read(CHUNK):
                file.write(data)
                total += len(data)
                if total - reported >= STEP:
                    writer.write(REPORT.pack(total))
                    reported = total
        writer.write(REPORT.pack(total))
        writer.write_eof()

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(take(reader, writer))
        tasks.add(task)
        task.add_done_callback(lambda _: asyncio.get_running_loop().call_later(LINGER, over.set))

    server = await serve(address, PORT, configuration=configuration(is_client=False), stream_handler=on_stream)
    print(f"ready {address}:{PORT}", flush=True)
    await over.wait()
    server.close()


async def send(ticket: str, path: Path) -> None:
    host, _, port = ticket.partition(":")
    async with connect(host, int(port), configuration=configuration(is_client=True)) as connection:
        reader, writer = await connection.create_stream()
        sent = reported = 0
        with path.open("rb", buffering=0) as file:
            while data := file.read(CHUNK):
                writer.write(data)
                sent += len(data)
                while sent - reported > AHEAD:
                    (reported,) = REPORT.unpack(await reader.readexactly(REPORT.size))
        writer.write_eof()
        while reported < sent:
            (reported,) = REPORT.unpack(await reader.readexactly(REPORT.size))


if __name__ == "__main__":
    asyncio.run({"receive": receive, "send": send}[sys.argv[1]](sys.argv[2], Path(sys.argv[3])))
