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

import pytest
from storing import Store, announce, begin, entry, finish, in_pieces, names, problems, whole

from p2p.core.calling import spoken
from p2p.core.errors import ExitCode
from p2p.core.transfer.events import Announced, Whole
from p2p.core.transfer.names import is_temporary
from p2p.io.receiving import contents, naming
from p2p.io.receiving.destination import Destination, StorageError
from p2p.io.receiving.jobs import Discard, Finish, Job, Problem, Stored

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
PLAIN_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(params=["in pieces", "whole", "whole, where no file is without a name"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "in pieces":
        return in_pieces
    if request.param != "whole":
        monkeypatch.setattr(contents, "open_nameless", lambda _: None)
    return whole


def test_a_file_gets_its_name_only_at_the_end(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        part = begin(destination, entry(), b"ab")
        [temporary] = tmp_path.iterdir()
        assert is_temporary(temporary.name)
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        part.write(2, [memoryview(b"c")])
        assert finish(destination, part) == ["a.txt"]
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
            store(destination, entry(mode=mode, mtime_ns=1_234_567_890_987_654_321), b"abc")
    finally:
        assert os.umask(before) == umask, "the umask was changed on the way"
    status = (tmp_path / "a.txt").stat()
    assert stat.S_IMODE(status.st_mode) == expected
    assert status.st_mtime_ns == 1_234_567_890_987_654_321


@pytest.mark.parametrize("mtime_ns", [-(2**63), -1, 0, 2**63 - 1])
def test_strange_times_do_no_harm(tmp_path: Path, store: Store, mtime_ns: int) -> None:
    with Destination(tmp_path) as destination:
        assert store(destination, entry(mtime_ns=mtime_ns), b"abc") == "a.txt"


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
        assert store(destination, entry(), b"abc") == "a (4).txt"
        assert store(destination, entry(), b"abc") == "a (5).txt"
    assert (tmp_path / "a.txt").read_bytes() == b"mine"
    assert (tmp_path / "a (2).txt").is_symlink()
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "a (4).txt").stat().st_nlink == 1
    assert not any(is_temporary(path.name) for path in tmp_path.iterdir())


RACER = """
import sys
from p2p.io.receiving.destination import Destination
from storing import begin, entry, finish
with Destination(sys.argv[1]) as destination:
    parts = [begin(destination, entry(size=4), sys.argv[2].encode() + b"%03d" % number) for number in range(100)]
    print("ready", flush=True)
    sys.stdin.readline()
    for part in parts:
        print(finish(destination, part, size=4)[0], flush=True)
"""


def test_two_processes_that_want_the_same_names(tmp_path: Path) -> None:
    """Both begin at once; every content ends under exactly one name, the one that was said."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, tmp_path, letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
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
    said: dict[str, str] = {}
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
        begin(destination, entry(name), b"abc")
    store(destination, entry("kept"), b"abc")
    destination.close()
    destination.close()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_exception_removes_what_is_unfinished(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Destination(tmp_path) as destination:
            begin(destination, entry(), b"abc")
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
    part = begin(destination, entry(), b"abc")
    failures: list[StorageError] = []

    def store() -> None:
        try:
            finish(destination, part)
        except StorageError as error:
            failures.append(error)

    thread = threading.Thread(target=store)
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
        begin(destination, entry(), b"abc")
    assert list(tmp_path.iterdir()) == []
    with Destination(inbox) as destination:
        store(destination, entry(), b"abc")
    assert (inbox / "a.txt").read_bytes() == b"abc"


KILLED = """
import sys
from p2p.io.receiving.destination import Destination
from storing import begin, entry
destination = Destination(sys.argv[1])
begin(destination, entry(size=9), b"half")
print("ready", flush=True)
sys.stdin.readline()
"""


def test_leftovers_of_a_killed_run_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, "-c", KILLED, tmp_path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
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
            with pytest.raises(FileExistsError):
                begin(destination, entry(), b"abc")
        part = begin(destination, entry(), b"abc")
        finish(destination, part)
    assert victim.read_bytes() == b"precious"


def test_a_link_in_place_of_the_temporary_file_is_not_named(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        part = begin(destination, entry(), b"abc")
        (tmp_path / part.temporary).unlink()
        (tmp_path / part.temporary).symlink_to("/etc/passwd")
        outcomes = destination.carry_out([Finish(part.number, part, 3, b"", must_verify=False)])
        assert problems(outcomes) == ["a.txt cannot be stored: something else took its place meanwhile"]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_exchanged_for_a_link_gets_nothing(tmp_path: Path, store: Store) -> None:
    inbox, elsewhere = tmp_path / "inbox", tmp_path / "elsewhere"
    elsewhere.mkdir()
    inbox.mkdir()
    with Destination(inbox) as destination:
        inbox.rename(tmp_path / "moved")
        inbox.symlink_to(elsewhere)
        store(destination, entry(), b"abc")
    assert list(elsewhere.iterdir()) == []
    assert (tmp_path / "moved" / "a.txt").exists()


@pytest.mark.parametrize("when", ["before the file", "before its name"])
def test_a_directory_that_is_removed_is_said(tmp_path: Path, when: str) -> None:
    inbox = tmp_path / "inbox"
    with Destination(inbox) as destination:
        number = announce(destination, entry())
        jobs: list[Job] = [Whole(number, b"abc", b"")]
        if when == "before its name":
            part = destination.open(number, "a.txt")
            part.write(0, [b"abc"])
            (inbox / part.temporary).unlink()
            jobs = [Finish(number, part, 3, b"", must_verify=False)]
        inbox.rmdir()
        with pytest.raises(StorageError, match="removed by someone else"):
            destination.carry_out(jobs)


def test_no_room(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        status = os.statvfs(tmp_path)
        destination.require_room(1000)
        with pytest.raises(StorageError, match=r"Not enough space in .*: needed .*B, free .*B; free some") as caught:
            destination.require_room(2 * status.f_bavail * status.f_frsize)
        assert str(tmp_path) not in caught.value.public


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.touch(), "that is not a folder"),
        (lambda path: path.symlink_to("nowhere"), "that is not a folder"),
        (lambda path: path.symlink_to("/proc/self/net"), "Cannot store"),
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
    script = "from p2p.io.receiving.destination import Destination; import sys; Destination(sys.argv[1])"
    stderr = as_nobody(script, inbox)
    assert f"in {inbox}: this user may not write there; choose another folder with --out" in spoken(stderr)
    assert list(inbox.iterdir()) == []


def test_a_file_beyond_the_limit_is_a_problem_of_its_own(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Destination(tmp_path) as destination:
        part = begin(destination, entry(), b"abc")
        small, large = announce(destination, entry("small")), announce(destination, entry("large", 1001))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                part.write(800, [bytes(100), bytes(200)])  # the kernel writes 200 bytes of it and reports no error
            assert destination.explain(caught.value, "a.txt") is None
            outcomes = destination.carry_out([Whole(small, b"abc", b""), Whole(large, bytes(1001), b"")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        too_large = "large cannot be stored: the file is larger than that file system, or ulimit -f, allows"
        assert problems(outcomes) == [too_large]
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


FULL = """
import os, sys
from p2p.io.receiving.destination import Destination
from storing import begin, entry
os.chdir(sys.argv[1])
with Destination("inbox") as destination:
    part = begin(destination, entry(size=10**7))
    try:
        for piece in range(1000):
            part.write(piece * 61440, [bytes(61440)])
    except OSError as error:
        failure = destination.explain(error, "a.txt")
        print(failure)
        print(failure.public)
print(os.listdir("inbox") if os.path.exists("inbox") else "gone")
"""


@pytest.mark.parametrize("options", ["size=1m", "nr_inodes=2,size=1m", "ro"])
def test_a_disk_that_is_full_or_read_only(tmp_path: Path, options: str) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted: needs root with CAP_SYS_ADMIN")
    mount = f"mount -t tmpfs -o {options} none {tmp_path} && exec \"$0\" -c '{FULL}' {tmp_path}"
    command = ["unshare", "--mount", "sh", "-c", mount, sys.executable]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)
    if options == "size=1m":
        here = f"Cannot store a.txt in {tmp_path}/inbox: the disk is full; free some space"
        assert here in result.stdout
        assert "the receiver cannot store a.txt: the disk is full\ngone" in result.stdout
    else:
        assert ("read-only" if options == "ro" else "its inodes are used up") in result.stderr


def test_a_disk_that_fails_ends_it_all(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        part = begin(destination, entry(), b"abc")
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, part.fd)
        os.close(full)
        with pytest.raises(OSError, match="No space") as caught:
            part.write(0, [b"abc"])
        failure = destination.explain(caught.value, "a.txt")
        assert failure is not None
        assert "the disk is full" in str(failure)


def test_many_files_in_groups(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        for start in range(0, 5000, 100):
            parts = [begin(destination, entry(f"{number}", size=0)) for number in range(start, start + 100)]
            assert finish(destination, *parts, size=0) == [f"{number}" for number in range(start, start + 100)]
    assert len(list(tmp_path.iterdir())) == 5000


def test_what_was_dropped_gets_no_name(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        part = begin(destination, entry(), b"abc")
        assert destination.carry_out([Discard(part.number, part)]) == []
        assert destination.carry_out([Finish(part.number, part, 3, b"", must_verify=False)]) == []
        assert destination.carry_out([Whole(part.number, b"abc", b"")]) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("has_renameat2", [True, False])
def test_a_name_that_the_locale_cannot_spell(tmp_path: Path, has_renameat2: bool) -> None:
    program = f"""
from p2p.io.receiving import naming
from p2p.io.receiving.destination import Destination
from storing import entry, in_pieces
if not {has_renameat2}:
    naming._renameat2 = lambda: None
with Destination({os.fspath(tmp_path)!r}) as destination:
    print([ascii(in_pieces(destination, entry(chr(0x1f600)))) for _ in range(2)])
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=ENVIRONMENT | PLAIN_LOCALE, timeout=60)
    assert sorted(os.listdir(tmp_path)) == ["\U0001f600", "\U0001f600 (1)"]


def test_small_files_go_to_the_disk_together(tmp_path: Path) -> None:
    many = {f"{number}.txt": b"%03d" % number for number in range(100)}
    with Destination(tmp_path) as destination:
        jobs: list[Job] = []
        for number, (name, content) in enumerate(many.items()):
            jobs.append(Announced(number, None, name, entry(name)))
            jobs.append(Whole(number, content, b""))
        assert names(destination.carry_out(jobs)) == list(many)
        assert names(destination.carry_out(jobs[:4])) == ["0 (1).txt", "1 (1).txt"]
    assert all((tmp_path / name).read_bytes() == content for name, content in many.items())
    assert len(list(tmp_path.iterdir())) == 102


def test_nothing_is_stored_after_the_end(tmp_path: Path) -> None:
    destination = Destination(tmp_path)
    number = announce(destination, entry())
    destination.stop()
    with pytest.raises(StorageError, match="ended"):
        destination.carry_out([Whole(number, b"abc", b"")])
    destination.close()
    with pytest.raises(StorageError, match="ended"):
        destination.carry_out([Whole(number, b"abc", b"")])
    assert list(tmp_path.iterdir()) == []


NOT_ALLOWED = """
import sys
from p2p.core.transfer.entries import File, Folder
from p2p.core.transfer.events import Announced, MakeFolder, Whole
from p2p.io.receiving.destination import Destination, Policy
with Destination(sys.argv[1], policy=Policy.OVERWRITE) as destination:
    outcomes = destination.carry_out([
        MakeFolder(0, None, Folder("locked", 0o755, 0)),
        Announced(1, 0, "locked/a", File("a", 0o644, 0, 3)),
        Announced(2, None, "good", File("good", 0o644, 0, 3)),
        Whole(1, b"abc", b""),
        Whole(2, b"abc", b""),
    ])
    print(*outcomes, file=sys.stderr)
"""


def test_a_folder_that_may_not_be_written_is_a_problem_of_its_own(
    public_path: Path, as_nobody: Callable[[str, Path], str]
) -> None:
    public_path.chmod(0o777)
    (public_path / "locked").mkdir(mode=0o555)
    words = "locked/a cannot be stored: this user may not write there"
    assert as_nobody(NOT_ALLOWED, public_path) == f"{Problem(1, words)} {Stored(2, 'good')}\n"
