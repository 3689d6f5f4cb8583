"""The private folder, the machine's own key, and which commands are the same."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from p2p.core.transfer.messages import TOKEN
from p2p.io.state import KEY, StateError, machine_key, private_folder, state_folder, token

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home" / "state"))
    return tmp_path / "home" / "state" / "p2p"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_made_private_when_first_needed_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        assert state_folder() == home
    finally:
        os.umask(before)
    assert [mode(path) for path in (home, home.parent)] == [0o700, 0o700]
    assert state_folder() == home


def test_one_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "p2p").mkdir(0o755)
    assert private_folder(tmp_path / "p2p") == tmp_path / "p2p"
    assert mode(tmp_path / "p2p") == 0o700


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o1777])
@pytest.mark.parametrize("through_link", [False, True])
def test_one_in_which_others_may_write_is_refused(tmp_path: Path, bits: int, through_link: bool) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    folder.chmod(bits)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(StateError, match="others may write in"):
        private_folder(tmp_path / "link" if through_link else folder)
    assert mode(folder) == stat.S_IMODE(bits)


@as_root
@pytest.mark.parametrize("through_link", [False, True])
def test_somebody_elses_is_refused(tmp_path: Path, through_link: bool) -> None:
    folder = tmp_path / "real"
    folder.mkdir(0o700)
    os.chown(folder, NOBODY, NOBODY)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(StateError, match="belongs to someone else"):
        private_folder(tmp_path / "link" if through_link else folder)


@as_root
def test_nothing_is_left_behind_in_somebody_elses_home(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(StateError, match="belongs to someone else"):
        private_folder(tmp_path / ".local" / "state" / "p2p")
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_private_one_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    assert private_folder(tmp_path / "link") == tmp_path / "link"


@pytest.mark.parametrize("broken", ["file", "dangling", "nowhere"])
def test_without_one_there_is_a_sentence_and_a_token_that_is_never_seen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nothing")
    where = Path("/proc/self") if broken == "nowhere" else tmp_path / broken
    monkeypatch.setenv("XDG_STATE_HOME", str(where))
    said: list[str] = []
    assert state_folder(said.append) is None
    assert said[0].startswith("After an interruption this cannot be gone on with, for ")
    assert str(where) in said[0]
    tokens = {token(("me", "you"), ["a"], [], said.append) for _ in range(3)}
    assert len(tokens) == 3
    assert {len(each) for each in tokens} == {TOKEN}
    assert len(said) == 4


def test_the_key_stays_and_is_ours_alone(home: Path) -> None:
    folder = state_folder()
    assert folder is not None
    key = machine_key(folder)
    assert len(key) == KEY
    assert machine_key(folder) == key
    assert mode(home / "key") == 0o600
    assert [path.name for path in home.iterdir()] == ["key"]


@pytest.mark.parametrize("content", [b"", b"short", bytes(KEY + 1)])
def test_a_damaged_key_is_made_anew(home: Path, content: bytes) -> None:
    folder = state_folder()
    assert folder is not None
    (home / "key").write_bytes(content)
    key = machine_key(folder)
    assert len(key) == KEY
    assert (home / "key").read_bytes() == key


def test_a_key_that_is_a_link_is_not_followed(home: Path, tmp_path: Path) -> None:
    assert state_folder() is not None
    (tmp_path / "elsewhere").write_bytes(bytes(KEY))
    (home / "key").symlink_to(tmp_path / "elsewhere")
    said: list[str] = []
    assert token(None, ["a"], [], said.append) != token(None, ["a"], [], said.append)
    assert len(said) == 2


def test_programs_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / str(number)
        keys = []
        start, go = os.pipe()
        children = []
        for _ in range(4):
            result, answer = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(go)
                    os.read(start, 1)  # until the parent closes it
                    os.write(answer, machine_key(private_folder(folder)))
                finally:
                    os._exit(0)
            os.close(answer)
            children.append((pid, result))
        os.close(start)
        os.close(go)
        for pid, result in children:
            with os.fdopen(result, "rb") as stream:
                keys.append(stream.read())
            os.waitpid(pid, 0)
        assert set(keys) == {(folder / "key").read_bytes()}, number
        assert len(keys[0]) == KEY
        assert [path.name for path in folder.iterdir()] == ["key"]


@pytest.mark.usefixtures("home")
def test_the_same_command_is_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "tree").mkdir(parents=True)
    (tmp_path / "link").symlink_to("data")
    absolute = token(("me", "you"), [str(tmp_path / "data" / "tree")], ["*.o"])
    monkeypatch.chdir(tmp_path / "link")
    assert token(("me", "you"), ["tree"], ["*.o"]) == absolute
    assert token(("me", "you"), ["./tree/", "tree"], ["*.o"]) == absolute
    monkeypatch.chdir(tmp_path / "data" / "tree")
    assert token(("me", "you"), ["."], ["*.o"]) == absolute


@pytest.mark.usefixtures("home")
def test_the_order_of_paths_does_not_matter() -> None:
    assert token(None, ["/b", "/a"], []) == token(None, ["/a", "/b"], [])


@pytest.mark.usefixtures("home")
def test_other_commands_have_other_tokens() -> None:
    commands = [
        (("me", "you"), ["/a"], []),
        (("you", "me"), ["/a"], []),
        (("mey", "ou"), ["/a"], []),
        (None, ["/a"], []),
        (None, ["/a", "/b"], []),
        (None, ["/a/b"], []),
        (None, ["/a"], ["/b"]),
        (None, ["/a"], ["x", "!y"]),
        (None, ["/a"], ["!y", "x"]),
        (None, ["/a"], ["x!y"]),
        (None, ["/a\udcff"], []),
    ]
    assert len({token(*command) for command in commands}) == len(commands)


def test_another_machine_gives_the_same_command_another_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = []
    for machine in ("one", "two"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / machine))
        tokens.append(token(("me", "you"), ["/a"], []))
    assert tokens[0] != tokens[1]
