"""Nothing half-written bears a final name, nothing is overwritten, nothing leads outside: on real directories."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from p2p.core.errors import CallerError, ExitCode
from p2p.core.transfer.messages import Entry
from p2p.core.transfer.names import is_temporary
from p2p.io import files, naming
from p2p.io.files import Destination, StorageError


def entry(name: str = "a.txt", size: int = 3, mode: int = 0o644, mtime_ns: int = 10**18) -> Entry:
    return Entry(0, size, mtime_ns, mode, name)


class Store(Protocol):
    def __call__(self, destination: Destination, offered: Entry, content: bytes = b"abc") -> str: ...


def in_pieces(destination: Destination, offered: Entry, content: bytes = b"abc") -> str:
    part = destination.open(offered)
    part.write(0, [content])
    return destination.finish([part])[0]


def whole(destination: Destination, offered: Entry, content: bytes = b"abc") -> str:
    return destination.store([(offered, content)])[0]


@pytest.fixture(params=["in pieces", "whole", "whole, where no file is without a name"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "in pieces":
        return in_pieces
    if request.param != "whole":
        monkeypatch.setattr(files, "open_nameless", lambda _: None)
    return whole


def test_a_file_gets_its_name_only_at_the_end(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        part = destination.open(entry())
        part.write(0, [b"ab"])
        [temporary] = tmp_path.iterdir()
        assert is_temporary(temporary.name)
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        part.write(2, [memoryview(b"c")])
        assert destination.finish([part]) == ["a.txt"]
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("mode", "umask", "expected"),
    [
        (0o644, 0o022, 0o644),
        (0o755, 0o022, 0o755),
        (0o600, 0o022, 0o600),
        (0o7777, 0o022, 0o755),
        (0o666, 0o077, 0o600),
        (0o000, 0o022, 0o400),
        (0o444, 0o022, 0o444),
    ],
)
def test_permission_bits_and_time(tmp_path: Path, store: Store, mode: int, umask: int, expected: int) -> None:
    before = os.umask(umask)
    try:
        with Destination(tmp_path) as destination:
            store(destination, entry(mode=mode, mtime_ns=1_234_567_890_987_654_321))
    finally:
        assert os.umask(before) == umask, "the umask was changed on the way"
    status = (tmp_path / "a.txt").stat()
    assert stat.S_IMODE(status.st_mode) == expected
    assert status.st_mtime_ns == 1_234_567_890_987_654_321


@pytest.mark.parametrize("mtime_ns", [-(2**63), -1, 0, 2**63 - 1])
def test_strange_times_do_no_harm(tmp_path: Path, store: Store, mtime_ns: int) -> None:
    with Destination(tmp_path) as destination:
        assert store(destination, entry(mtime_ns=mtime_ns)) == "a.txt"


@pytest.mark.parametrize("with_renameat2", [True, False])
def test_taken_names_are_numbered_whatever_takes_them(
    tmp_path: Path, store: Store, with_renameat2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_renameat2:  # as on NFS, where link and unlink do the same
        monkeypatch.setattr(naming, "_renameat2", lambda: None)
    (tmp_path / "a.txt").write_bytes(b"mine")
    (tmp_path / "a (1).txt").mkdir()
    (tmp_path / "a (2).txt").symlink_to("nowhere")
    (tmp_path / "a (3).txt").symlink_to("/etc/passwd")
    with Destination(tmp_path) as destination:
        assert store(destination, entry()) == "a (4).txt"
        assert store(destination, entry()) == "a (5).txt"
    assert (tmp_path / "a.txt").read_bytes() == b"mine"
    assert (tmp_path / "a (2).txt").is_symlink()
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "a (4).txt").stat().st_nlink == 1
    assert not any(is_temporary(path.name) for path in tmp_path.iterdir())


RACER = """
import sys
from p2p.core.transfer.messages import Entry
from p2p.io.files import Destination
with Destination(sys.argv[1]) as destination:
    parts = []
    for number in range(100):
        parts.append(destination.open(Entry(0, 4, 0, 0o644, "a.txt")))
        parts[-1].write(0, [sys.argv[2].encode() + b"%03d" % number])
    print("ready", flush=True)
    sys.stdin.readline()
    for part in parts:
        print(destination.finish([part])[0], flush=True)
"""


def test_two_processes_that_want_the_same_names(tmp_path: Path) -> None:
    """Both begin at once; every content ends under exactly one name, the one that was said."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, tmp_path, letter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for letter in "xy"
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = {}
    for letter, racer in zip("xy", racers, strict=True):
        output, _ = racer.communicate(timeout=60)
        assert racer.returncode == 0
        said |= {name: f"{letter}{number:03}" for number, name in enumerate(output.split("\n")[:-1])}
    assert len(said) == 200
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == said


def test_close_removes_what_is_unfinished(tmp_path: Path, store: Store) -> None:
    before = len(os.listdir("/proc/self/fd"))
    destination = Destination(tmp_path)
    for name in ("a", "b", "c"):
        destination.open(entry(name)).write(0, [b"abc"])
    store(destination, entry("kept"))
    destination.close()
    destination.close()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_exception_removes_what_is_unfinished(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Destination(tmp_path) as destination:
            destination.open(entry()).write(0, [b"abc"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_close_during_a_sync_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk syncs in one thread while the loop in another gives up."""
    syncing, closed = threading.Event(), threading.Event()
    sync = os.fsync

    def slow_sync(fd: int) -> None:
        syncing.set()
        assert closed.wait(30)
        sync(fd)

    monkeypatch.setattr(os, "fsync", slow_sync)
    destination = Destination(tmp_path)
    part = destination.open(entry())
    part.write(0, [b"abc"])
    failures: list[StorageError] = []

    def finish() -> None:
        try:
            destination.finish([part])
        except StorageError as error:
            failures.append(error)

    thread = threading.Thread(target=finish)
    thread.start()
    assert syncing.wait(30)
    destination.close()
    closed.set()
    thread.join(30)
    assert "the transfer was ended" in str(failures[0])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_made_and_unmade_if_it_served_nothing(tmp_path: Path, store: Store) -> None:
    inbox = tmp_path / "deep" / "inbox"
    with Destination(inbox) as destination:
        destination.open(entry()).write(0, [b"abc"])
    assert list(tmp_path.iterdir()) == []
    with Destination(inbox) as destination:
        store(destination, entry())
    assert (inbox / "a.txt").read_bytes() == b"abc"


KILLED = """
import os, signal, sys
from p2p.core.transfer.messages import Entry
from p2p.io.files import Destination
destination = Destination(sys.argv[1])
destination.open(Entry(0, 9, 0, 0o644, "a.txt")).write(0, [b"half"])
print("ready", flush=True)
sys.stdin.readline()
"""


def test_leftovers_of_a_killed_run_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Destination(tmp_path) as destination:
            assert destination.leftovers_removed == 0
        [temporary] = tmp_path.iterdir()
        assert is_temporary(temporary.name)
        process.send_signal(signal.SIGKILL)
    (tmp_path / ".p2p-notes.txt").touch()
    (tmp_path / ".p2p-link.part").symlink_to("/etc/passwd")
    (tmp_path / ".p2p-folder.part").mkdir()
    with Destination(tmp_path) as destination:
        assert destination.leftovers_removed == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".p2p-folder.part", ".p2p-link.part", ".p2p-notes.txt"]


def test_temporary_names_are_never_reused_or_followed(tmp_path: Path) -> None:
    """Someone planted a link, and a file that others may read, under the very names that are drawn first."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    draws = iter([bytes([number]) * 8 for number in range(9)])
    with Destination(inbox, random_bytes=lambda _: next(draws)) as destination:
        (inbox / (".p2p-" + "01" * 8 + ".part")).symlink_to(victim)
        (inbox / (".p2p-" + "02" * 8 + ".part")).hardlink_to(victim)
        for _ in range(2):
            with pytest.raises(StorageError):
                destination.open(entry())
        part = destination.open(entry())
        part.write(0, [b"abc"])
        destination.finish([part])
    assert victim.read_bytes() == b"precious"


def test_a_link_in_place_of_the_temporary_file_is_not_named(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        part = destination.open(entry())
        part.write(0, [b"abc"])
        (tmp_path / part.temporary).unlink()
        (tmp_path / part.temporary).symlink_to("/etc/passwd")
        with pytest.raises(StorageError, match="took the place"):
            destination.finish([part])
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_exchanged_for_a_link_gets_nothing(tmp_path: Path, store: Store) -> None:
    inbox, elsewhere = tmp_path / "inbox", tmp_path / "elsewhere"
    elsewhere.mkdir()
    inbox.mkdir()
    with Destination(inbox) as destination:
        inbox.rename(tmp_path / "moved")
        inbox.symlink_to(elsewhere)
        store(destination, entry())
    assert list(elsewhere.iterdir()) == []
    assert (tmp_path / "moved" / "a.txt").exists()


def test_a_directory_that_is_removed_is_said(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    with Destination(inbox) as destination:
        inbox.rmdir()
        with pytest.raises(StorageError, match="removed by someone else"):
            destination.open(entry())


def test_no_room(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        status = os.statvfs(tmp_path)
        free = status.f_bavail * status.f_frsize
        destination.reserve([1000, 0])
        with pytest.raises(StorageError, match=r"not enough space in .*: needed .*B, free .*B; free some") as caught:
            destination.reserve([2 * free])
        assert str(tmp_path) not in caught.value.public
        destination.reserve([free // 2 + free // 8])
        with pytest.raises(StorageError, match="not enough space"):
            destination.reserve([free // 2 + free // 8])  # fits the disk, but not beside what was promised


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.touch(), "that is not a folder"),
        (lambda path: path.symlink_to("nowhere"), "that is not a folder"),
        (lambda path: path.symlink_to("/proc/self/net"), "cannot store"),
    ],
)
def test_what_is_no_directory(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "inbox"
    make(path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match=words) as caught:
        Destination(path)
    assert caught.value.failure.code is ExitCode.STORAGE
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_directory_that_may_not_be_written(public_path: Path, as_nobody: Callable[[str, Path], str]) -> None:
    inbox = public_path / "inbox"
    inbox.mkdir(mode=0o555)
    script = "from p2p.io.files import Destination; import sys; Destination(sys.argv[1])"
    stderr = as_nobody(script, inbox)
    assert f"in {inbox}: this user may not write there; choose another folder with --out" in stderr
    assert list(inbox.iterdir()) == []


def test_a_file_beyond_the_limit(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Destination(tmp_path) as destination:
        part = destination.open(entry())
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(StorageError, match="larger than"):
                # the kernel writes 38,560 bytes of it and reports no error
                part.write(61_440, [bytes(30_000), bytes(31_440)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


FULL = """
import os, sys
from p2p.core.transfer.messages import Entry
from p2p.io.files import Destination, StorageError
os.chdir(sys.argv[1])
with Destination("inbox") as destination:
    part = destination.open(Entry(0, 10**7, 0, 0o644, "a.txt"))
    try:
        for piece in range(1000):
            part.write(piece * 61440, [bytes(61440)])
    except StorageError as error:
        print(error)
        print(error.public)
print(os.listdir("inbox") if os.path.exists("inbox") else "gone")
"""


@pytest.mark.parametrize("options", ["size=1m", "nr_inodes=2,size=1m", "ro"])
def test_a_disk_that_is_full_or_read_only(tmp_path: Path, options: str) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted: needs root with CAP_SYS_ADMIN")
    mount = f"mount -t tmpfs -o {options} none {tmp_path} && exec \"$0\" -c '{FULL}' {tmp_path}"
    command = ["unshare", "--mount", "sh", "-c", mount, sys.executable]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if options == "size=1m":
        here = f"cannot store a.txt in {tmp_path}/inbox: the disk is full; free some space"
        assert here in result.stdout
        assert "the receiver cannot store a.txt: the disk is full\ngone" in result.stdout
    else:
        assert ("read-only" if options == "ro" else "the disk is full") in result.stderr


def test_a_full_device(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        part = destination.open(entry())
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, part.fd)
        os.close(full)
        with pytest.raises(StorageError, match="the disk is full"):
            part.write(0, [b"abc"])


def test_many_files_in_groups(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        for start in range(0, 5000, 100):
            parts = [destination.open(entry(f"{number}", size=0)) for number in range(start, start + 100)]
            assert destination.finish(parts) == [f"{number}" for number in range(start, start + 100)]
    assert len(list(tmp_path.iterdir())) == 5000


def test_a_part_is_finished_once(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        part = destination.open(entry())
        destination.finish([part])
        assert part.final_name == "a.txt"
        with pytest.raises(CallerError):
            destination.finish([part])


@pytest.mark.parametrize("has_renameat2", [True, False])
def test_a_name_that_the_locale_cannot_spell(tmp_path: Path, has_renameat2: bool) -> None:
    program = f"""
from pathlib import Path
from p2p.core.transfer.messages import Entry
from p2p.io import files, naming
if not {has_renameat2}:
    naming._renameat2 = lambda: None
with files.Destination({os.fspath(tmp_path)!r}) as destination:
    print([ascii(destination.finish([destination.open(Entry(0, 0, 0, 0o644, chr(0x1f600)))])) for _ in range(2)])
"""
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)
    assert sorted(os.listdir(tmp_path)) == ["\U0001f600", "\U0001f600 (1)"]


def test_small_files_go_to_the_disk_together(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        many = [(entry(f"{number}.txt", mtime_ns=number), b"%03d" % number) for number in range(100)]
        assert destination.store(many) == [each.name for each, _ in many]
        assert destination.store(many[:2]) == ["0 (1).txt", "1 (1).txt"]
    assert all((tmp_path / each.name).read_bytes() == content for each, content in many)
    assert len(list(tmp_path.iterdir())) == 102


def test_a_small_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with Destination(tmp_path) as destination, pytest.raises(StorageError, match="larger than"):
            destination.store([(entry("small"), b"abc"), (entry("large", 1001), bytes(1001))])
        assert list(tmp_path.iterdir()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_nothing_is_stored_after_the_end(tmp_path: Path) -> None:
    destination = Destination(tmp_path)
    destination.close()
    with pytest.raises(StorageError, match="ended"):
        destination.store([(entry(), b"abc")])
    assert list(tmp_path.iterdir()) == []
