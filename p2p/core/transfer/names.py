"""File names that come from another machine: what may reach a directory.

A name from the other side is one component. What only an attacker sends (`/`, `..`, NUL, drives) raises RemoteError.
What an honest person's file may well be called, and some system would stumble over (control characters, a backslash,
a colon, `con.txt`, a trailing dot), is replaced by `_`; the sender applies the same replacement, so honest names pass
unchanged.
"""

from __future__ import annotations

import re
import unicodedata

from p2p.core.errors import CallerError, RemoteError
from p2p.core.text import escape
from p2p.core.transfer.entries import MAX_NAME_BYTES

MAX_COMPONENT_BYTES = 255  # NAME_MAX on Linux, macOS and (in UTF-16 units) Windows
MAX_EXTENSION_BYTES = 16  # a longer "extension" is a sentence with a full stop in it
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".p2p-", ".part"

_DRIVE = re.compile(r"[A-Za-z]:(?:$|[\\/])")
_TRAILING = re.compile(r"[. ]+$")
_CAN_BE_UNPORTABLE = re.compile(r"[/\\:]|[. ]\Z|\A(?:con|prn|aux|nul|com|lpt|\.p2p-)", re.IGNORECASE)
_SHORT = MAX_COMPONENT_BYTES // 4  # characters, of four bytes at most
# learn.microsoft.com, "Naming Files, Paths, and Namespaces"
_RESERVED = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [device + digit for device in ("COM", "LPT") for digit in "0123456789¹²³"]
)


def safe_name(name: str) -> str:
    """The name under which something of the other side may be stored in a folder.

    Raises RemoteError for a name that could lead elsewhere or that nothing can bear.
    """
    if "\0" in name:
        raise RemoteError(f"name with a NUL: {escape(name)}")
    if "/" in name or name.startswith("\\") or _DRIVE.match(name):
        raise RemoteError(f"a path where a name was due: {escape(name[:80])}")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_COMPONENT_BYTES:
        raise RemoteError(f"name of more than {MAX_COMPONENT_BYTES} bytes: {escape(name[:80])}")
    if name in ("", ".") or ".." in name.split("\\"):
        raise RemoteError(f"name that leads elsewhere: {escape(name)}")
    return portable_component(name)


def stays_inside(target: str, depth: int) -> bool:
    """Whether a symbolic link, in a folder `depth` folders below the root of its tree, leads to a place in the tree.

    Only `..` at the beginning is counted, and after a name it is not allowed, for the name may be another link, whose
    parent is elsewhere. So no chain of links that are all like this leads out.
    """
    if not target or "\0" in target or "\\" in target or target.startswith("/") or _DRIVE.match(target):
        return False
    components = target.split("/")
    up = 0
    while up < len(components) and components[up] == "..":
        up += 1
    rest = components[up:]
    return up <= depth and ".." not in rest and len(target.encode("utf-8", "surrogatepass")) < MAX_NAME_BYTES


def portable_component(name: str) -> str:
    """A name near to `name` that every common file system can bear. Applied to its own result it changes nothing."""
    if 0 < len(name) <= _SHORT and name.isprintable() and not _CAN_BE_UNPORTABLE.search(name):
        return name  # nearly all of them: 1 µs instead of 12
    text = "".join(map(_portable_char, name))
    text = _without_trailing(text) or "_"
    if text.split(".")[0].rstrip(" ").upper() in _RESERVED:
        text = "_" + text
    if is_temporary(text):
        text = "_" + text[1:]
    return _without_trailing(_fit(text, ""))


def is_temporary(name: str) -> bool:
    """Whether a name in a directory is that of a temporary file of this program. No final name is."""
    lowered = name.lower()
    return lowered.startswith(TEMPORARY_PREFIX) and lowered.endswith(TEMPORARY_SUFFIX)


def temporary_name(entropy: bytes) -> str:
    return TEMPORARY_PREFIX + entropy.hex() + TEMPORARY_SUFFIX


def numbered(name: str, number: int) -> str:
    """`name (1).ext`: what to call a file whose name is taken. Distinct numbers give distinct names."""
    if number < 1:
        raise CallerError("numbers of taken names begin at 1")
    return _fit(name, f" ({number})")


def _portable_char(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cs":  # a byte of a name that is not UTF-8, as os.fsdecode gives it
        return "\ufffd"
    return "_" if category == "Cc" or char in "/\\:" else char


def _without_trailing(name: str) -> str:
    """Windows drops trailing dots and spaces, so two names would be one."""
    return _TRAILING.sub(lambda match: "_" * len(match[0]), name)


def _fit(name: str, addition: str) -> str:
    """`name` with `addition` before its extension, the stem cut so that the whole fits one component."""
    stem, extension = _split_extension(name)
    room = MAX_COMPONENT_BYTES - len((addition + extension).encode("utf-8"))
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore") + addition + extension


def _split_extension(name: str) -> tuple[str, str]:
    """`archive.tar.gz` has the extension `.tar.gz`; `.bashrc` and `Mr. Smith` have none."""
    stem, dot, extension = name.rpartition(".")
    if not stem or " " in extension or len(extension.encode("utf-8")) > MAX_EXTENSION_BYTES:
        return name, ""
    if stem.lower().endswith(".tar") and len(stem) > len(".tar"):
        stem, extension = stem[: -len(".tar")], stem[-len("tar") :] + dot + extension
    return stem, dot + extension
