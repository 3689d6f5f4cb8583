"""Reading and writing the fields of a message."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from p2p.core.address import Address, decode_address
from p2p.core.errors import DecodeError

Member = TypeVar("Member", bound=IntEnum)


class Reader:
    """Takes fields off the front of a message; raises DecodeError when they are not there."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        self._data = bytes(data)
        self._offset = offset

    @property
    def remaining(self) -> int:
        return len(self._data) - self._offset

    def take(self, length: int) -> bytes:
        start = self._offset
        end = start + length
        if end > len(self._data):
            raise DecodeError(f"message is cut short: {length} bytes wanted, {self.remaining} left")
        self._offset = end
        return self._data[start:end]

    def uint(self, length: int) -> int:
        """Unsigned big-endian integer of `length` bytes."""
        return int.from_bytes(self.take(length), "big")

    def member(self, enum: type[Member]) -> Member:
        """One byte, the value of a member of `enum`."""
        value = self.uint(1)
        try:
            return enum(value)
        except ValueError as error:
            raise DecodeError(f"{value} is not a {enum.__name__}") from error

    def zeros(self, length: int) -> None:
        """Padding, or reserved bytes."""
        if self.take(length) != bytes(length):
            raise DecodeError("padding is not zero")

    def bytes8(self, limit: int = 255) -> bytes:
        """length(1) bytes"""
        return self._counted(self.uint(1), limit)

    def bytes16(self, limit: int = 65535) -> bytes:
        """length(2) bytes"""
        return self._counted(self.uint(2), limit)

    def text8(self, limit: int = 255) -> str:
        """length(1) UTF-8"""
        return self._text(self.bytes8(limit))

    def text16(self, limit: int = 65535) -> str:
        """length(2) UTF-8"""
        return self._text(self.bytes16(limit))

    def address(self) -> Address:
        address, self._offset = decode_address(self._data, self._offset)
        return address

    def rest(self) -> bytes:
        return self.take(self.remaining)

    def end(self) -> None:
        """Raises DecodeError unless the whole message was read."""
        if self.remaining:
            raise DecodeError(f"{self.remaining} bytes too many")

    def _counted(self, length: int, limit: int) -> bytes:
        if length > limit:
            raise DecodeError(f"field of {length} bytes where {limit} are allowed")
        return self.take(length)

    @staticmethod
    def _text(data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError("text is not UTF-8") from error


def uint(value: int, length: int) -> bytes:
    return value.to_bytes(length, "big")


def bytes8(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def bytes16(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def text8(text: str) -> bytes:
    return bytes8(text.encode("utf-8"))


def text16(text: str) -> bytes:
    return bytes16(text.encode("utf-8"))
