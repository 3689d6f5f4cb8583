"""XML from devices that nobody vouches for: no document types, so no entities; bounded in every direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from p2p.core.errors import DecodeError

MAX_SIZE = 64 * 1024  # bytes
MAX_DEPTH = 24  # a service lies 9 deep in a description
MAX_ELEMENTS = 2000  # large descriptions have 300


@dataclass(slots=True)
class Element:
    """`name` without its namespace; `text` is what stands directly in it."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, name: str) -> str | None:
        """The text of the first element of that name, at any depth, without spaces around it."""
        return next((element.text.strip() for element in self.walk() if element.name == name), None)


def parse(data: bytes) -> Element:
    """The root element. Raises DecodeError.

    UPnP wants UTF-8 (Device Architecture 2.0, section 2.3). Routers that write other bytes in their names are borne,
    and so is what stands behind the end of the root.
    """
    if len(data) > MAX_SIZE:
        raise DecodeError("its XML is too large")
    builder = _Builder()
    try:
        builder.parser.Parse(data.decode("utf-8", "replace").strip().encode(), True)
    except expat.ExpatError as error:
        if not builder.is_whole:
            raise DecodeError("its XML is broken") from error
    if builder.root is None:
        raise DecodeError("its XML is empty")
    return builder.root


class _Builder:
    def __init__(self) -> None:
        self.root: Element | None = None
        self.is_whole = False
        self._open: list[Element] = []
        self._count = 0
        self.parser = expat.ParserCreate("utf-8")  # whatever encoding the document claims
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _start(self, name: str, _: dict[str, str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise DecodeError("its XML is too large")
        element = Element(name.rpartition(":")[2])
        if self._open:
            self._open[-1].children.append(element)
        elif self.root is None:
            self.root = element
        self._open.append(element)

    def _end(self, _: str) -> None:
        self._open.pop()
        self.is_whole = not self._open

    def _text(self, text: str) -> None:
        self._open[-1].text += text

    def _doctype(self, *_: object) -> None:
        raise DecodeError("its XML has a document type")
