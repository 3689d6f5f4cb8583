"""The file of contacts: private, whole, and never overwritten when it cannot be read."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import stat
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p.core.contacts.keys import ContactKeys
from p2p.core.errors import ExitCode
from p2p.io.contacts import MAX_CONTACTS, ChangedKey, Contact, Contacts, ContactsError

FRIEND = ContactKeys(bytes(range(32)), ("alice", "bob")).public
OTHER = ContactKeys(bytes(range(1, 33)), ("alice", "bob")).public


@pytest.fixture
def contacts(tmp_path: Path) -> Contacts:
    return Contacts(tmp_path / "p2p")


def remember(contacts: Contacts, friend: str = "bob", public: bytes = FRIEND, *, confirm: bool = True) -> Contact:
    contacts.hold("alice", friend, contacts.keys_for("alice", friend), public)
    if confirm:
        contacts.confirm("alice", friend, public)
    found = contacts.find("alice", friend)
    assert found is not None
    return found


def test_a_user_without_a_home_has_no_contacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as some number: neither a traceback, nor contacts of the folder we stand in."""

    def nobody(_: int) -> None:
        raise KeyError

    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    remember(Contacts(tmp_path))
    contacts = Contacts.of_user()
    assert contacts.all() == []
    assert contacts.find("alice", "bob") is None
    with pytest.raises(ContactsError, match="this user has no home folder"):
        contacts.hold("alice", "bob", contacts.keys_for("alice", "bob"), FRIEND)


def test_what_is_stored_is_found(contacts: Contacts, tmp_path: Path) -> None:
    assert contacts.find("alice", "bob") is None
    assert not (tmp_path / "p2p").exists()  # nothing is made for a question
    assert not remember(contacts, confirm=False).is_confirmed
    found = remember(contacts)
    assert found.is_confirmed
    assert found.secret == contacts.keys_for("alice", "bob").secret(FRIEND)
    assert contacts.find("bob", "alice") is None
    assert Contacts(tmp_path / "p2p").all() == [found]


def test_the_file_is_ours_alone(contacts: Contacts, tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        remember(contacts)
    finally:
        os.umask(mask)
    for path, mode in ((tmp_path / "p2p", 0o700), (tmp_path / "p2p" / "contacts.json", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert {path.name for path in (tmp_path / "p2p").iterdir()} == {"contacts.json", "contacts.lock"}


def test_a_folder_that_was_open_is_closed(contacts: Contacts, tmp_path: Path) -> None:
    (tmp_path / "p2p").mkdir(mode=0o755)
    remember(contacts)
    assert stat.S_IMODE((tmp_path / "p2p").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_file_that_others_may_touch_is_not_used(contacts: Contacts, tmp_path: Path, mode: int) -> None:
    remember(contacts)
    (tmp_path / "p2p" / "contacts.json").chmod(mode)
    with pytest.raises(ContactsError, match="chmod 600") as caught:
        contacts.find("alice", "bob")
    assert caught.value.failure.code is ExitCode.STORAGE


def test_a_link_is_not_followed(contacts: Contacts, tmp_path: Path) -> None:
    remember(contacts)
    (tmp_path / "p2p" / "contacts.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "p2p" / "contacts.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ContactsError):
        contacts.all()


def test_a_pipe_in_its_place_stops_nobody(contacts: Contacts, tmp_path: Path) -> None:
    (tmp_path / "p2p").mkdir()
    os.mkfifo(tmp_path / "p2p" / "contacts.json", 0o600)
    with pytest.raises(ContactsError, match="no file"):
        contacts.all()


def test_names_that_look_the_same_are_the_same(contacts: Contacts) -> None:
    remember(contacts, "Jörg")
    assert contacts.find("alice", unicodedata.normalize("NFD", "Jörg")) is not None
    assert contacts.forget(unicodedata.normalize("NFD", "Jörg"))


def test_a_confirmed_key_stays(contacts: Contacts) -> None:
    known = remember(contacts)
    with pytest.raises(ChangedKey, match="contacts forget bob"):
        contacts.hold("alice", "bob", contacts.keys_for("alice", "bob"), OTHER)
    contacts.confirm("alice", "bob", OTHER)
    contacts.drop("alice", "bob", FRIEND)
    assert contacts.all() == [known]


def test_a_key_that_is_not_confirmed_gives_way(contacts: Contacts) -> None:
    first = remember(contacts, confirm=False)
    second = remember(contacts, public=OTHER, confirm=False)
    assert (second.private, second.public) == (first.private, OTHER.hex())
    contacts.drop("alice", "bob", FRIEND)
    assert contacts.all() == [second]
    contacts.drop("alice", "bob", OTHER)
    assert contacts.all() == []


def test_two_exchanges_at_once_do_not_mix(contacts: Contacts) -> None:
    early, late = contacts.keys_for("alice", "bob"), contacts.keys_for("alice", "bob")
    contacts.hold("alice", "bob", early, FRIEND)
    with pytest.raises(ContactsError, match="Another run"):
        contacts.hold("alice", "bob", late, FRIEND)


def test_each_friend_gets_a_key_of_its_own(contacts: Contacts) -> None:
    assert remember(contacts, "bob").private != remember(contacts, "carol", OTHER).private


def test_forgetting(contacts: Contacts, tmp_path: Path) -> None:
    assert contacts.forget("bob") == []
    assert not (tmp_path / "p2p").exists()
    bob, carol = remember(contacts), remember(contacts, "carol", OTHER)
    contacts.hold("al", "bob", contacts.keys_for("al", "bob"), FRIEND)
    assert [(each.me, each.friend) for each in contacts.forget("bob")] == [("alice", "bob"), ("al", "bob")]
    assert contacts.all() == [carol]
    assert bob.private not in (tmp_path / "p2p" / "contacts.json").read_text()


def test_there_is_an_end_to_them(contacts: Contacts, tmp_path: Path) -> None:
    known = remember(contacts)
    row = json.loads((tmp_path / "p2p" / "contacts.json").read_text())["contacts"][0]
    many = [row | {"friend": f"{number:05}" + 59 * "\x01"} for number in range(MAX_CONTACTS - 1)]  # six bytes a letter
    write(tmp_path, {"version": 1, "contacts": [row, *many]})
    assert len(contacts.all()) == MAX_CONTACTS
    with pytest.raises(ContactsError, match="forget some"):
        remember(contacts, "one more")
    contacts.confirm("alice", "bob", FRIEND)
    assert contacts.find("alice", "bob") == known
    contacts.forget(many[0]["friend"])  # it can be written
    assert len(contacts.all()) == MAX_CONTACTS - 1


def write(tmp_path: Path, document: object) -> bytes:
    path = tmp_path / "p2p" / "contacts.json"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    path.write_bytes(data)
    path.chmod(0o600)
    return data


ROW = {"me": "alice", "friend": "bob", "private": bytes(range(32)).hex(), "public": OTHER.hex(), "is_confirmed": True,
       "since": 1}  # fmt: skip
DAMAGED = {
    "empty": b"",
    "cut short": b'{"version": 1, "contacts": [',
    "not UTF-8": b"\xff",
    "another document": [],
    "no version": {"contacts": []},
    "version 0": {"version": 0, "contacts": []},
    "version of another type": {"version": "1", "contacts": []},
    "no list": {"version": 1, "contacts": {}},
    "not a contact": {"version": 1, "contacts": [1]},
    "twice": {"version": 1, "contacts": [ROW, ROW]},
    "too long": b" " * (1 << 20) + b'{"version": 1, "contacts": []}',
    "too deep": b"[" * 100_000,
    **{f"{name} missing": {"version": 1, "contacts": [{k: v for k, v in ROW.items() if k != name}]} for name in ROW},
    **{
        f"{name} {value!r}": {"version": 1, "contacts": [ROW | {name: value}]}
        for name, value in [
            ("me", "bob"), ("me", ""), ("friend", 65 * "x"), ("friend", unicodedata.normalize("NFD", "Jörg")),
            ("friend", "\ud800"), ("private", ""), ("private", "00"), ("private", "é" * 64), ("private", None),
            ("public", "0" * 64), ("public", OTHER.hex().upper()), ("public", " " * 64), ("is_confirmed", 1),
            ("since", True), ("since", "1"), ("more", 1),
            ("public", ContactKeys(bytes(range(32)), ("alice", "bob")).public.hex()),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("document", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_is_said_and_left_alone(contacts: Contacts, tmp_path: Path, document: object) -> None:
    data = write(tmp_path, document)
    for use in (
        contacts.all,
        lambda: contacts.find("alice", "bob"),
        lambda: remember(contacts),
        lambda: contacts.forget("bob"),
        lambda: contacts.confirm("alice", "bob", FRIEND),
    ):
        with pytest.raises(ContactsError, match="damaged") as caught:
            use()
        assert str(tmp_path) in str(caught.value)
    assert (tmp_path / "p2p" / "contacts.json").read_bytes() == data


def test_a_newer_file_is_left_alone(contacts: Contacts, tmp_path: Path) -> None:
    data = write(tmp_path, {"version": 2, "friends": []})
    with pytest.raises(ContactsError, match="newer"):
        remember(contacts)
    assert (tmp_path / "p2p" / "contacts.json").read_bytes() == data


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps({"version": 1, "contacts": [value]}).encode()))  # fmt: skip
def test_any_bytes_are_contacts_or_an_error(contacts: Contacts, tmp_path: Path, data: bytes) -> None:
    write(tmp_path, data)
    try:
        contacts.all()
    except ContactsError:
        return


def test_a_full_disk_costs_nothing_that_was_there(contacts: Contacts, tmp_path: Path) -> None:
    known = remember(contacts)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(ContactsError, match="cannot be kept"):
            contacts.hold("alice", "carol", ContactKeys(bytes(32), ("alice", "carol")), OTHER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contacts.all() == [known]
    assert {path.name for path in (tmp_path / "p2p").iterdir()} == {"contacts.json", "contacts.lock"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    contacts = Contacts(tmp_path / "file" / "p2p")
    with pytest.raises(ContactsError, match="cannot be kept"):
        remember(contacts)


def _remember_many(folder: Path, first: int) -> None:
    contacts = Contacts(folder)
    for number in range(first, first + 10):
        remember(contacts, f"friend {number}")


def test_programs_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    programs = [context.Process(target=_remember_many, args=(tmp_path, first)) for first in (0, 100, 200)]
    for program in programs:
        program.start()
    for program in programs:
        program.join()
    assert [program.exitcode for program in programs] == [0, 0, 0]
    assert len(Contacts(tmp_path).all()) == 30
