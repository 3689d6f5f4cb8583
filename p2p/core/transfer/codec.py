"""Messages of the transfer to bytes and back. Their layout stands with each of them, in messages.py."""

from __future__ import annotations

import struct
from typing import assert_never

from p2p.core.datagram import Buffer
from p2p.core.errors import DecodeError, VersionError
from p2p.core.transfer.entries import (
    MAX_NAME_BYTES,
    MAX_REASON_BYTES,
    UNKNOWN_SIZE,
    Entry,
    Kind,
    decode_entry,
    encode_entry,
    read_exit_code,
    reason,
)
from p2p.core.transfer.limits import MAX_HOLE, MAX_ROOTS, SMALL
from p2p.core.transfer.messages import (
    CHUNK_DIGEST,
    DATA_HEADER,
    MAX_MESSAGE,
    TOKEN,
    UNNUMBERED,
    VERSION,
    WHOLE_FILE_HEADER,
    Abort,
    Accept,
    Continue,
    Data,
    Entries,
    FileEnd,
    Finish,
    Finished,
    Have,
    Hole,
    Keepalive,
    LeftOut,
    Message,
    MessageType,
    Offer,
    OfferKind,
    Problem,
    Refuse,
    Root,
    Same,
    Taken,
    Totals,
    WholeFile,
    WholeFiles,
)
from p2p.core.wire import Reader, text16, uint

_DATA = struct.Struct(">BIQ")
_RANGE = struct.Struct(">BIQQ")
_WHOLE_FILE = struct.Struct(">IH32s")
_FINAL = 0x01  # of OFFER and TOTALS
_ANSWERS = 0x01  # of ACCEPT
_LAST = 0x01  # of HAVE
_LACKING = 4  # of HAVE: the number in the upper four bits


def encode(message: Message) -> bytes:
    """The plaintext of one record. A reason that is too long is cut."""
    match message:
        case Offer(kind, token, totals, roots, shown):
            header = bytes([MessageType.OFFER, VERSION, kind, _FINAL if totals.is_final else 0]) + token
            return header + uint(roots, 4) + _numbers(totals) + b"".join(map(_encode_root, shown[:MAX_ROOTS]))
        case Totals():
            return bytes([MessageType.TOTALS, _FINAL if message.is_final else 0]) + _numbers(message)
        case Entries(entries):
            return bytes([MessageType.ENTRIES]) + b"".join(map(encode_entry, entries))
        case Accept(answers, rate):
            return bytes([MessageType.ACCEPT, _ANSWERS if answers else 0]) + uint(rate, 8)
        case Refuse(exit_code, why):
            return bytes([MessageType.REFUSE, exit_code]) + reason(why)
        case Data(file, offset, piece):
            return _DATA.pack(MessageType.DATA, file, offset) + bytes(piece)
        case Hole(file, offset, length):
            return _RANGE.pack(MessageType.HOLE, file, offset, length)
        case Same(file, offset, length):
            return _RANGE.pack(MessageType.SAME, file, offset, length)
        case FileEnd(file, digest):
            return bytes([MessageType.FILE_END]) + uint(file, 4) + digest
        case WholeFiles(files):
            parts = [part for f in files for part in (_WHOLE_FILE.pack(f.file, len(f.content), f.digest), f.content)]
            return b"".join([bytes([MessageType.WHOLE_FILES]), *parts])
        case LeftOut(file, exit_code, why):
            return bytes([MessageType.LEFT_OUT]) + uint(file, 4) + bytes([exit_code]) + reason(why)
        case Finish(entries, digest):
            return bytes([MessageType.FINISH]) + uint(entries, 4) + digest
        case Have(file, first, digests, is_last, lacking):
            header = bytes([MessageType.HAVE]) + uint(file, 4) + uint(first, 4)
            return header + bytes([is_last * _LAST | lacking << _LACKING]) + b"".join(digests)
        case Problem(number, why):
            return bytes([MessageType.PROBLEM]) + uint(number, 4) + reason(why)
        case Finished(digest):
            return bytes([MessageType.FINISHED]) + digest
        case Abort(exit_code, why):
            return bytes([MessageType.ABORT, exit_code]) + reason(why)
        case Keepalive():
            return bytes([MessageType.KEEPALIVE])
        case Continue(records):
            return bytes([MessageType.CONTINUE]) + uint(records, 8)
        case Taken(records):
            return bytes([MessageType.TAKEN]) + uint(records, 8)
        case _:
            assert_never(message)


def write_data_header(record: bytearray | memoryview, file: int, offset: int) -> None:
    """Fills in the first `DATA_HEADER` bytes of a record whose piece is already in place."""
    _DATA.pack_into(record, 0, MessageType.DATA, file, offset)


def is_numbered(record: Buffer) -> bool:
    """Whether a record is counted, and sent again on the next path."""
    return record[0] not in UNNUMBERED


def decode(plaintext: Buffer) -> Message:
    """Raises DecodeError, or VersionError for an OFFER of another version. The piece of a DATA is not copied."""
    view = memoryview(plaintext)
    if not view:
        raise DecodeError("empty transfer message")
    if view[0] == MessageType.DATA:
        return _decode_data(view)
    try:
        kind = MessageType(view[0])
    except ValueError:
        raise DecodeError(f"unknown transfer message type {view[0]}") from None
    if len(view) > MAX_MESSAGE:
        raise DecodeError(f"{kind.name} message of {len(view)} bytes")
    if kind is MessageType.WHOLE_FILES:
        return _decode_whole_files(view)
    reader = Reader(view, 1)
    message = _decode_control(kind, reader)
    reader.end()
    return message


def _decode_data(view: memoryview) -> Data:
    if not DATA_HEADER < len(view) <= MAX_MESSAGE:
        raise DecodeError(f"DATA message of {len(view)} bytes")
    _, file, offset = _DATA.unpack_from(view)
    return Data(file, offset, view[DATA_HEADER:])


def _decode_whole_files(view: memoryview) -> WholeFiles:
    """By hand: thousands of small files a second come this way."""
    end = len(view)
    files: list[WholeFile] = []
    start = 1
    while start < end or not files:
        content = start + WHOLE_FILE_HEADER
        if content > end:
            raise DecodeError("WHOLE_FILES is cut short")
        file, length, digest = _WHOLE_FILE.unpack_from(view, start)
        if length > SMALL or content + length > end:
            raise DecodeError(f"small file of {length} bytes")
        files.append(WholeFile(file, digest, view[content : content + length]))
        start = content + length
    return WholeFiles(tuple(files))


def _decode_control(kind: MessageType, reader: Reader) -> Message:
    match kind:
        case MessageType.OFFER:
            return _decode_offer(reader)
        case MessageType.TOTALS:
            return _read_totals(reader, is_final=_flag(reader))
        case MessageType.ENTRIES:
            entries: list[Entry] = []
            while reader.remaining or not entries:  # an empty ENTRIES would be a message without end or effect
                entries.append(decode_entry(reader))
            return Entries(tuple(entries))
        case MessageType.ACCEPT:
            return Accept(_flag(reader), reader.uint(8))
        case MessageType.REFUSE:
            return Refuse(read_exit_code(reader), reader.text16(MAX_REASON_BYTES))
        case MessageType.HOLE:
            hole = Hole(reader.uint(4), reader.uint(8), reader.uint(8))
            if not 0 < hole.length <= MAX_HOLE:
                raise DecodeError(f"HOLE of {hole.length} bytes")
            return hole
        case MessageType.SAME:
            return Same(reader.uint(4), reader.uint(8), reader.uint(8))
        case MessageType.FILE_END:
            return FileEnd(reader.uint(4), reader.take(32))
        case MessageType.LEFT_OUT:
            file, code = reader.uint(4), read_exit_code(reader)
            return LeftOut(file, code, reader.text16(MAX_REASON_BYTES))
        case MessageType.FINISH:
            return Finish(reader.uint(4), reader.take(32))
        case MessageType.HAVE:
            return _decode_have(reader)
        case MessageType.PROBLEM:
            return Problem(reader.uint(4), reader.text16(MAX_REASON_BYTES))
        case MessageType.FINISHED:
            return Finished(reader.take(32))
        case MessageType.ABORT:
            return Abort(read_exit_code(reader), reader.text16(MAX_REASON_BYTES))
        case MessageType.KEEPALIVE:
            return Keepalive()
        case MessageType.CONTINUE:
            return Continue(reader.uint(8))
        case MessageType.TAKEN:
            return Taken(reader.uint(8))
        case MessageType.DATA | MessageType.WHOLE_FILES:
            raise DecodeError(f"{kind.name} is not a control message")
        case _:
            assert_never(kind)


def _decode_offer(reader: Reader) -> Offer:
    version = reader.uint(1)
    if version != VERSION:
        raise VersionError(version)
    kind = reader.member(OfferKind)
    is_final, token = _flag(reader), reader.take(TOKEN)
    roots, totals = reader.uint(4), _read_totals(reader, is_final=is_final)
    shown: list[Root] = []
    while reader.remaining and len(shown) < MAX_ROOTS:
        root_kind, size = reader.member(Kind), _read_size(reader)
        if root_kind not in (Kind.FOLDER, Kind.FILE):
            raise DecodeError(f"a {root_kind.name} is offered")
        shown.append(Root(root_kind, reader.text16(MAX_NAME_BYTES), size))
    return Offer(kind, token, totals, roots, tuple(shown))


def _decode_have(reader: Reader) -> Have:
    file, first, flags = reader.uint(4), reader.uint(4), reader.uint(1)
    is_last, lacking = bool(flags & _LAST), flags >> _LACKING
    if flags != is_last * _LAST | lacking << _LACKING:
        raise DecodeError(f"unknown flags {flags:#04x}")
    if reader.remaining % CHUNK_DIGEST:
        raise DecodeError("HAVE ends within a digest")
    digests = tuple(reader.take(CHUNK_DIGEST) for _ in range(reader.remaining // CHUNK_DIGEST))
    if not digests and not is_last:
        raise DecodeError("HAVE says nothing")
    if lacking and not (digests and is_last):
        raise DecodeError("only the last chunk of a HAVE may be shorter")
    return Have(file, first, digests, is_last, lacking)


def _encode_root(root: Root) -> bytes:
    return bytes([root.kind]) + _size(root.size) + text16(root.name)


def _numbers(totals: Totals) -> bytes:
    return uint(totals.files, 8) + _size(totals.size) + uint(totals.others, 8) + uint(totals.holes, 8)


def _read_totals(reader: Reader, *, is_final: bool) -> Totals:
    return Totals(reader.uint(8), _read_size(reader), is_final, reader.uint(8), reader.uint(8))


def _size(size: int | None) -> bytes:
    return uint(UNKNOWN_SIZE if size is None else size, 8)


def _read_size(reader: Reader) -> int | None:
    size = reader.uint(8)
    return None if size == UNKNOWN_SIZE else size


def _flag(reader: Reader) -> bool:
    """All flags fields but that of HAVE have one flag by now."""
    if (flags := reader.uint(1)) > 1:
        raise DecodeError(f"unknown flags {flags:#04x}")
    return bool(flags)
