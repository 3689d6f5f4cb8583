"""The contacts of this machine's user: one file in the platform's data folder that nobody else may read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final

from platformdirs import user_data_path

from p2p.core.calling import command, option
from p2p.core.contacts.keys import KEY, ContactKeys
from p2p.core.errors import CallerError, DecodeError, ExitCode, Failure, P2PError
from p2p.core.introduction import NamePair
from p2p.core.text import escape
from p2p.io.locks import try_lock

VERSION: Final = 1
MAX_CONTACTS: Final = 1_000  # the file is read and written whole; nobody makes as many by hand
MAX_FILE: Final = 1 << 20  # bytes; MAX_CONTACTS with the longest names take some 700 kB
LOCK_TRIES: Final = 40
LOCK_PAUSE: Final = 0.05  # seconds; another program holds the lock for one read and one write

_NAME: Final = "contacts.json"
_LOCK: Final = "contacts.lock"


class ContactsError(P2PError):
    """The file cannot be used; `failure` names it, and says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(ExitCode.STORAGE, message)


class ChangedKey(ContactsError):
    """The friend shows another key than the one that is remembered."""


@dataclass(frozen=True, slots=True)
class Contact:
    """`private`: ours for this friend; `public`: the friend's, both in hexadecimal digits.

    `is_confirmed`: the friend has proved that it holds ours. `since`: Unix time, seconds.
    """

    me: str
    friend: str
    private: str
    public: str
    is_confirmed: bool
    since: int

    @property
    def keys(self) -> ContactKeys:
        return ContactKeys(bytes.fromhex(self.private), (self.me, self.friend))

    @property
    def secret(self) -> bytes:
        """What takes the place of the code."""
        return self.keys.secret(bytes.fromhex(self.public))


class Contacts:
    """Reads the file whenever it is asked, for other programs write it too; never overwrites what it cannot read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _NAME

    @classmethod
    def of_user(cls) -> Contacts:
        """None can be kept for one who has no home folder, as many a container's user."""
        try:
            return cls(user_data_path("p2p"))
        except RuntimeError:
            return cls(Path())

    def all(self) -> list[Contact]:
        """By name. Raises ContactsError."""
        return sorted(self._read(), key=lambda contact: (contact.friend, contact.me))

    def find(self, me: str, friend: str) -> Contact | None:
        """Raises ContactsError."""
        me, friend = normal(me), normal(friend)
        return next((each for each in self._read() if (each.me, each.friend) == (me, friend)), None)

    def keys_for(self, me: str, friend: str) -> ContactKeys:
        """Ours for that friend: those that are stored, or fresh ones, which `hold` stores. Raises ContactsError."""
        contact = self.find(me, friend)
        return contact.keys if contact else ContactKeys(secrets.token_bytes(KEY), (normal(me), normal(friend)))

    def hold(self, me: str, friend: str, keys: ContactKeys, public: bytes) -> None:
        """Stores both keys, not confirmed yet; durable on return. What is stored already stays as it is.

        A friend whose key is confirmed keeps it: raises ChangedKey for another one, and ContactsError.
        """
        me, friend = normal(me), normal(friend)
        fresh = Contact(me, friend, keys.private.hex(), public.hex(), is_confirmed=False, since=int(time.time()))

        def change(contacts: list[Contact]) -> list[Contact]:
            known = next((each for each in contacts if (each.me, each.friend) == (me, friend)), None)
            if known is None:
                if len(contacts) >= MAX_CONTACTS:
                    raise ContactsError(
                        f"{self._path} holds {MAX_CONTACTS} contacts, and no more: forget some that you no longer need "
                        f"({command('contacts list')})"
                    )
                return [*contacts, fresh]
            if known.public == fresh.public and known.private == fresh.private:
                return contacts
            if known.is_confirmed:
                raise ChangedKey(changed_key(friend))
            if known.private != fresh.private:
                raise ContactsError(
                    f"Another run of this program remembers {escape(friend)} at this moment. Run both commands again"
                )
            return [fresh if each is known else each for each in contacts]

        self._change(change)

    def confirm(self, me: str, friend: str, public: bytes) -> None:
        """The friend has proved that it holds our key. Without effect when another one is stored. Raises
        ContactsError."""
        me, friend = normal(me), normal(friend)
        self._change(
            lambda contacts: [
                replace(each, is_confirmed=True) if _is(each, me, friend, public) else each for each in contacts
            ]
        )

    def drop(self, me: str, friend: str, public: bytes) -> None:
        """The friend has said that it does not hold our key: removed unless it is confirmed. Raises ContactsError."""
        me, friend = normal(me), normal(friend)
        self._change(
            lambda contacts: [each for each in contacts if each.is_confirmed or not _is(each, me, friend, public)]
        )

    def forget(self, friend: str) -> list[Contact]:
        """Removes every contact with that friend, under whatever name of ours, and returns them. Raises
        ContactsError."""
        friend = normal(friend)
        gone: list[Contact] = []

        def change(contacts: list[Contact]) -> list[Contact]:
            gone.extend(each for each in contacts if each.friend == friend)
            return [each for each in contacts if each.friend != friend]

        if self._path.exists():  # else no folder is made for nothing
            self._change(change)
        return gone

    # inside

    def _change(self, change: Callable[[list[Contact]], list[Contact]]) -> None:
        with self._blaming(), self._locked():
            contacts = self._read()
            changed = change(contacts)
            if changed != contacts:
                self._write(changed)

    def _read(self) -> list[Contact]:
        if not self._folder.is_absolute():
            return []  # never those of the folder in which we happen to stand
        with self._blaming():
            try:
                fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                return []
            with os.fdopen(fd, "rb") as file:
                self._check_privacy(os.fstat(fd))
                data = file.read(MAX_FILE + 1)
        try:
            return _decode(data)
        except _NewerError as error:
            raise ContactsError(f"{self._path} is of a newer version of p2p: please update this one") from error
        except (ValueError, P2PError) as error:
            raise ContactsError(
                f"{self._path} is damaged ({error}). It was left as it is: restore it, or move it away and remember "
                f"each other again. With {option('--code')} no contact is needed"
            ) from error

    def _check_privacy(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise ContactsError(f"{self._path} is no file. Move it away")
        if status.st_uid != os.geteuid():
            raise ContactsError(f"{self._path} belongs to somebody else. Move it away")
        if status.st_mode & 0o077:
            raise ContactsError(
                f"{self._path} holds secret keys and can be read or changed by others on this machine. If nobody did, "
                f"run `chmod 600` on it; else move it away and remember each other again"
            )

    def _write(self, contacts: list[Contact]) -> None:
        """In one step: whoever reads sees the old contacts or the new ones, also after a power cut."""
        text = json.dumps({"version": VERSION, "contacts": [asdict(each) for each in contacts]}, ensure_ascii=False)
        fresh = self._folder / f".{_NAME}.{secrets.token_hex(8)}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(fd)
            os.replace(fresh, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._folder.is_absolute():
            raise ContactsError("There is no place for contacts: this user has no home folder")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._folder.stat().st_mode & 0o077:
            os.chmod(self._folder, 0o700)
        fd = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for attempt in range(LOCK_TRIES):
                if try_lock(fd) is not False:  # where a file system has no locks, two of us rarely write at once
                    break
                if attempt == LOCK_TRIES - 1:
                    raise ContactsError(
                        f"Another program holds {self._folder / _LOCK} all the time. End it and try again"
                    )
                time.sleep(LOCK_PAUSE)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ContactsError(f"Contacts cannot be kept in {self._folder}: {error.strerror or error}") from error


def normal(name: str) -> str:
    """One spelling for what looks the same, as for the names of a run."""
    return unicodedata.normalize("NFC", name)


def changed_key(friend: str) -> str:
    name = escape(friend)
    return (
        f"{name} shows another key than the one that you remember, and was not remembered anew. If {name} has lost its "
        f"contacts, or has a new machine, run `{command('contacts forget ' + shlex.quote(name))}`, "
        f"and then both use a code and {option('--remember')} again"
    )


class _NewerError(ValueError):
    pass


def _is(contact: Contact, me: str, friend: str, public: bytes) -> bool:
    return (contact.me, contact.friend, contact.public) == (me, friend, public.hex())


def _decode(data: bytes) -> list[Contact]:
    """Raises ValueError and P2PError for everything that `_write` does not write."""
    if len(data) > MAX_FILE:
        raise ValueError(f"more than {MAX_FILE} bytes")
    try:
        document = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(document, dict) or not isinstance(document.get("version"), int):
        raise ValueError("no version")
    if document["version"] > VERSION:
        raise _NewerError
    listed = document.get("contacts")
    if document["version"] != VERSION or not isinstance(listed, list) or len(listed) > MAX_CONTACTS:
        raise ValueError("no list of contacts")
    contacts = [_decode_contact(each) for each in listed]
    if len({(each.me, each.friend) for each in contacts}) != len(contacts):
        raise ValueError("a contact stands there twice")
    return contacts


def _decode_contact(found: object) -> Contact:
    types = {"is_confirmed": bool, "since": int}
    if not isinstance(found, dict) or set(found) != {field.name for field in fields(Contact)}:
        raise ValueError("a contact with other fields")
    for name, value in found.items():
        if type(value) is not types.get(name, str):
            raise ValueError(f"a contact whose {name} is no {types.get(name, str).__name__}")
    contact = Contact(**found)
    NamePair(contact.me, contact.friend)
    if (normal(contact.me), normal(contact.friend)) != (contact.me, contact.friend):
        raise ValueError("a name in another spelling")
    for key in (contact.private, contact.public):
        if len(key) != 2 * KEY or key != bytes.fromhex(key).hex():
            raise ValueError("a key that is none")
    try:
        _ = contact.secret
    except (CallerError, DecodeError) as error:
        raise ValueError(str(error)) from error
    return contact
