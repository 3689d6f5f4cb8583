"""HTTP as UPnP needs it: one request, one answer, then the connection closes. Every size has a cap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from p2p.core.address import Address
from p2p.core.errors import DecodeError

MAX_HEAD: Final = 8 * 1024  # bytes of status line and headers; routers send some 300
MAX_BODY: Final = 64 * 1024  # bytes; descriptions of routers have 3 to 20 KiB
MAX_RECEIVED: Final = 2 * (MAX_HEAD + MAX_BODY)  # bytes in all: chunks and interim answers cost something
MAX_CHUNK_LINE: Final = 64  # bytes
MAX_TARGET: Final = 512  # bytes of a path and query
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |$)")
_TARGET = re.compile(r"/[!-~]*")


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Url:
    """Where on a device: an address, and the path and query."""

    address: Address
    target: str


def parse_url(text: str, host: str, base: Url | None = None) -> Url:
    """An http URL on the IPv4 address `host`, which it has to name itself. Raises DecodeError for any other.

    So a device can send us to no other machine, and not by a name whose meaning it could change.
    """
    try:
        if base is not None:
            text = urljoin(f"http://{base.address}{base.target}", text)
        parts = urlsplit(text)
        port = parts.port or 80
    except ValueError as error:
        raise DecodeError("a URL that is none") from error
    if parts.scheme != "http" or parts.username is not None or parts.hostname != host:
        raise DecodeError("a URL that leads elsewhere than to the device that gave it")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if len(target) > MAX_TARGET or not _TARGET.fullmatch(target):
        raise DecodeError("a URL with a path that cannot be asked for")
    return Url(Address(host, port), target)


def get(url: Url) -> bytes:
    return f"GET {url.target} HTTP/1.1\r\nHost: {url.address}\r\nConnection: close\r\n\r\n".encode("ascii")


def post(url: Url, action: str, body: str) -> bytes:
    """`action` goes into SOAPAction (UPnP Device Architecture 2.0, section 3.2.1)."""
    content = body.encode("utf-8")
    head = (
        f'POST {url.target} HTTP/1.1\r\nHost: {url.address}\r\nContent-Type: text/xml; charset="utf-8"\r\n'
        f'SOAPAction: "{action}"\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n'
    )
    return head.encode("ascii") + content


class ResponseReader:
    """Takes the bytes of one connection. RFC 9112 sections 6 and 7, without trailers."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes | memoryview) -> Response | None:
        """The answer, once it is whole. Raises DecodeError for what is none, or is too large."""
        self._received += data
        if len(self._received) > MAX_RECEIVED:
            raise DecodeError("its answer is too large")
        return self._read(is_end=False)

    def end(self) -> Response:
        """The other side has closed. Raises DecodeError when the answer is not whole."""
        response = self._read(is_end=True)
        if response is None:
            raise DecodeError("its answer is cut short")
        return response

    def _read(self, *, is_end: bool) -> Response | None:
        start = 0
        while (head := self._head(start)) is not None:
            status, headers, start = head
            if status >= 200:
                return self._body(status, headers, start, is_end=is_end)
        return None

    def _head(self, start: int) -> tuple[int, dict[bytes, bytes], int] | None:
        """Status, headers, and where they end; None when they have not come yet."""
        end = self._received.find(b"\r\n\r\n", start, start + MAX_HEAD)
        if end < 0:
            if len(self._received) - start >= MAX_HEAD:
                raise DecodeError("the head of its answer is too large")
            return None
        first, *lines = bytes(self._received[start:end]).split(b"\r\n")
        if (status := _STATUS.match(first)) is None:
            raise DecodeError("its answer is not HTTP")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        return int(status[1]), headers, end + 4

    def _body(self, status: int, headers: dict[bytes, bytes], start: int, *, is_end: bool) -> Response | None:
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            chunks = self._chunks(start)
            return None if chunks is None else Response(status, chunks)
        length = headers.get(b"content-length")
        if length is None:
            if len(self._received) - start > MAX_BODY:
                raise DecodeError("its answer is too large")
            return Response(status, bytes(self._received[start:])) if is_end else None
        wanted = _number(length, 10, MAX_BODY)
        if len(self._received) - start < wanted:
            return None
        return Response(status, bytes(self._received[start : start + wanted]))

    def _chunks(self, at: int) -> bytes | None:
        body = bytearray()
        while True:
            end = self._received.find(b"\r\n", at, at + MAX_CHUNK_LINE)
            if end < 0:
                if len(self._received) - at >= MAX_CHUNK_LINE:
                    raise DecodeError("its answer is not HTTP")
                return None
            size = _number(bytes(self._received[at:end]).partition(b";")[0].strip(), 16, MAX_BODY - len(body))
            if size == 0:
                return bytes(body)
            at = end + 2 + size + 2
            if len(self._received) < at:
                return None
            body += self._received[end + 2 : end + 2 + size]


def _number(text: bytes, base: int, limit: int) -> int:
    if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}" if base == 16 else rb"[0-9]{1,8}", text):
        raise DecodeError("its answer is not HTTP")
    if (number := int(text, base)) > limit:
        raise DecodeError("its answer is too large")
    return number
