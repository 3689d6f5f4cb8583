"""What is remembered of a transfer that did not end: whatever kills the program, or damages the file."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p.core.transfer.names import temporary_name
from p2p.io.receiving import journal_file, journal_rows
from p2p.io.receiving.journal import MAX_AGE, MAX_JOURNALS, Journal, JournalInUse, Journals, Node, Row

TOKEN = bytes(range(16))
KILLS = 100
PATIENCE = 30.0  # seconds until a hang is called one


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(0o700)
    return tmp_path / "state"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def part_name(number: int) -> str:
    return temporary_name(number.to_bytes(8, "big"))


def status_of(path: Path) -> os.stat_result:
    path.touch()
    return path.stat()


def named(path: str, status: os.stat_result, name: str = "name") -> Row:
    return Row(path, name, None, status.st_dev, status.st_ino)


def begin(state: Path, out: Path, token: bytes = TOKEN) -> Journal:
    journals = Journals(state)
    journal = journals.begin(token, out)
    assert (journal.failure, journals.notes) == (None, [])
    return journal


def again(state: Path, out: Path, token: bytes = TOKEN) -> Journal:
    """As the next run finds it."""
    journals = Journals(state)
    journal = journals.find(token, out)
    assert journal is not None
    assert journals.notes == []
    return journal


def files_in(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "journals").iterdir())


# what is remembered


def test_the_next_run_finds_what_this_one_noted(state: Path, out: Path) -> None:
    folder, whole, part = out.stat(), status_of(out / "whole"), status_of(out / part_name(1))
    journal = begin(state, out)
    assert journal.note_folder("a", "a (1)", folder)
    assert journal.note_named([named("a/whole", whole, "whole")])
    assert journal.note_part("a/part", part_name(1), part)
    assert journal.find("a/whole") is None  # it is of this run: two files of one name do not meet
    journal.close()
    journal = again(state, out)
    assert journal.find("a") == Row("a", "a (1)", None, folder.st_dev, folder.st_ino)
    assert journal.find("a/whole") == Row("a/whole", "whole", None, whole.st_dev, whole.st_ino)
    assert journal.find("a/part") == Row("a/part", None, part_name(1), part.st_dev, part.st_ino)
    assert journal.find("whole") is None
    journal.close()
    assert again(state, out).find("a") is not None  # what is not touched is known to the run after that, too


def test_a_file_may_lie_under_its_name_or_still_in_its_part(state: Path, out: Path) -> None:
    """Killed between the two: the next run has to look under both."""
    part = status_of(out / part_name(1))
    journal = begin(state, out)
    journal.note_part("file", part_name(1), part)
    journal.note_named([named("file", part, "file (2)")])
    journal.close()
    journal = again(state, out)
    assert journal.find("file") == Row("file", "file (2)", part_name(1), part.st_dev, part.st_ino)
    assert Journals(state).parts_in(out) == {part_name(1)}
    journal.close()


def test_a_part_is_forgotten_once_the_batch_behind_it_is_noted(state: Path, out: Path) -> None:
    statuses = [status_of(out / part_name(number)) for number in range(3)]
    journal = begin(state, out)
    for number, status in enumerate(statuses):
        journal.note_part(str(number), part_name(number), status)
    for number, status in enumerate(statuses[:2]):
        journal.note_named([named(str(number), status)])
    assert Journals(state).parts_in(out) == {part_name(1), part_name(2)}
    journal.close()


def test_a_new_part_that_is_to_replace_a_whole_file(state: Path, out: Path) -> None:
    old, new = status_of(out / "old"), status_of(out / part_name(1))
    journal = begin(state, out)
    journal.note_named([named("file", old, "old")])
    journal.close()
    journal = again(state, out)
    journal.note_part("file", part_name(1), new, replaces=Node(old.st_dev, old.st_ino))
    journal.close()
    expected = Row("file", "old", part_name(1), new.st_dev, new.st_ino, Node(old.st_dev, old.st_ino))
    journal = again(state, out)
    assert journal.find("file") == expected
    journal.note_named([named("file", new, "old")])  # killed before it took the place
    journal.close()
    journal = again(state, out)
    assert journal.find("file") == expected
    journal.drop_part("file")
    journal.close()
    assert again(state, out).find("file") == Row("file", "old", None, new.st_dev, new.st_ino)


def test_numbers_of_64_bits_without_a_sign(state: Path, out: Path) -> None:
    """As overlay file systems have them."""
    journal = begin(state, out)
    high = Node(2**64 - 2, 2**63 + 5)
    journal.note_named([Row("file", "file", None, *high)])
    journal.note_part("other", part_name(1), out.stat(), replaces=high)
    journal.close()
    journal = again(state, out)
    assert journal.find("file") == Row("file", "file", None, *high)
    other = journal.find("other")
    assert other is not None
    assert other.replaces == high


def test_the_device_may_have_another_number_after_a_restart(
    state: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, elsewhere = status_of(out / "file"), Node(77, 1)
    journal = begin(state, out)
    journal.note_named([named("here", status), Row("mounted", "mounted", None, *elsewhere)])
    journal.close()
    real = journal_rows.Place.of

    def restarted(directory: Path | int) -> journal_rows.Place:
        place = real(directory)
        return journal_rows.Place(place.path, 4711, place.inode, place.system)

    monkeypatch.setattr(journal_rows.Place, "of", restarted)
    journal = again(state, out)
    assert journal.find("here") == Row("here", "name", None, 4711, status.st_ino)
    assert journal.find("mounted") == Row("mounted", "mounted", None, *elsewhere)


def test_a_folder_that_was_moved_is_still_the_same(state: Path, out: Path) -> None:
    journal = begin(state, out)
    journal.note_folder("a", "a", out.stat())
    journal.close()
    moved = out.rename(out.parent / "moved")
    out.mkdir()
    assert Journals(state).find(TOKEN, out) is None
    assert again(state, moved).find("a") is not None


def test_another_token_or_folder_is_another_journal(state: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    journal = begin(state, out)
    journal.note_part("file", part_name(1), status_of(out / part_name(1)))
    journal.close()
    journals = Journals(state)
    assert journals.find(bytes(16), out) is None
    assert journals.find(TOKEN, tmp_path / "other") is None
    assert journals.find(TOKEN, tmp_path / "missing") is None
    assert journals.parts_in(out) == {part_name(1)}
    assert journals.parts_in(tmp_path / "other") == journals.parts_in(tmp_path / "missing") == frozenset()
    other = journals.begin(bytes(16), out)
    assert other.find("file") is None
    other.close()


def test_long_paths_are_told_apart_and_take_no_more_room(state: Path, out: Path) -> None:
    status = status_of(out / "file")
    paths = [f"{'x' * 4000}/{number}" for number in range(50)]
    journal = begin(state, out)
    journal.note_named([named(path, status, path[-2:].strip("/")) for path in paths])
    journal.close()
    journal = again(state, out)
    rows = [journal.find(path) for path in paths]
    assert [row.name for row in rows if row] == [path[-2:].strip("/") for path in paths]
    journal.close()
    [file] = (state / "journals").glob("*.db")
    assert file.stat().st_size < 50 * 4000 / 2


def test_everything_is_private(state: Path, out: Path) -> None:
    before = os.umask(0)
    try:
        journal = begin(state, out)
        journal.note_folder("a", "a", out.stat())
    finally:
        os.umask(before)
    assert (state / "journals").stat().st_mode & 0o777 == 0o700
    assert len(files_in(state)) == 4
    for path in (state / "journals").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    journal.close()


def test_done_means_gone_with_parts_of_files_that_are_not_sent_any_more(state: Path, out: Path) -> None:
    journal = begin(state, out)
    journal.note_part("file", part_name(1), status_of(out / part_name(1)))
    journal.close()
    (out / part_name(2)).touch()  # of another transfer
    journal = again(state, out)
    journal.finish()
    journal.close()
    assert files_in(state) == []
    assert [path.name for path in out.iterdir()] == [part_name(2)]
    assert Journals(state).find(TOKEN, out) is None


def test_a_journal_of_nothing_is_not_left(state: Path, out: Path) -> None:
    begin(state, out).close()
    assert files_in(state) == []
    journals = Journals(state)
    assert journals.find(TOKEN, out) is None
    assert files_in(state) == []


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)
notes = st.tuples(st.sampled_from(["named", "part", "folder", "drop", "run"]), st.sampled_from("abc"), names)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(notes, max_size=30))
def test_any_order_of_notes_and_runs(tmp_path: Path, steps: list[tuple[str, str, str]]) -> None:
    """Against a dictionary."""
    state, out = tmp_path / "state", tmp_path / "out"
    shutil.rmtree(state, ignore_errors=True)
    out.mkdir(exist_ok=True)
    state.mkdir(0o700)
    whole: dict[str, tuple[str, int]] = {}
    parts: dict[str, tuple[str, int]] = {}
    last: list[str] = []
    status = out.stat()
    journal = begin(state, out)
    for number, (kind, path, name) in enumerate([*steps, ("run", "a", "a")], start=1):
        fields = list(status)
        fields[1] = number
        fake = os.stat_result(fields)
        match kind:
            case "named":
                journal.note_named([Row(path, name, None, status.st_dev, number)])
                for each in last:
                    parts.pop(each, None)
                last, whole[path] = [path], (name, number)
            case "folder":
                journal.note_folder(path, name, fake)
                whole[path] = (name, number)
            case "part":
                journal.note_part(path, part_name(number), fake)
                parts[path] = (part_name(number), number)
            case "drop":
                journal.drop_part(path)
                parts.pop(path, None)
            case _:
                journal.close()
                last = []
                assert Journals(state).parts_in(out) == {part for part, _ in parts.values()}
                journal = begin(state, out)
                for each in "abc":
                    row, in_part = journal.find(each), parts.get(each)
                    got = row and (row.name, row.part, row.inode)
                    here = whole.get(each, (None, 0))
                    if in_part is not None:
                        assert got == (here[0], *in_part)
                    else:
                        assert got == ((here[0], None, here[1]) if here[0] is not None else None)
    journal.close()


# one program at a time


def test_a_second_run_of_the_same_is_told_who_holds_it(state: Path, out: Path) -> None:
    journal = begin(state, out)
    journal.note_folder("a", "a", out.stat())
    for call in (Journals(state).find, Journals(state).begin):
        with pytest.raises(JournalInUse, match=f"process {os.getpid()}"):
            call(TOKEN, out)
    with pytest.raises(JournalInUse):
        Journals(state).discard(out)
    other = begin(state, out, bytes(16))
    other.close()
    journal.close()
    assert again(state, out).find("a") is not None


def test_what_was_found_can_be_gone_on_with(state: Path, out: Path) -> None:
    journal = begin(state, out)
    journal.note_folder("a", "a", out.stat())
    journal.close()
    journals = Journals(state)
    assert journals.begin(TOKEN, out) is journals.find(TOKEN, out)


def test_the_lock_goes_with_a_process_that_is_killed(state: Path, out: Path) -> None:
    def hold(_: Callable[[str], None]) -> None:
        begin(state, out).note_folder("a", "a", out.stat())

    assert killed_after(hold, 0, random.Random(1)) == []
    assert again(state, out).find("a") is not None


# durability


def killed_after(work: Callable[[Callable[[str], None]], None], lines: int, rng: random.Random) -> list[str]:
    """Runs `work` in a child, which is killed once it has said so many lines. Returns all that it said."""
    result, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            stream = os.fdopen(answer, "w")
            work(lambda text: print(text, file=stream, flush=True))
            print("end", file=stream, flush=True)
            threading.Event().wait()  # for the end
        finally:
            os._exit(1)
    os.close(answer)
    with os.fdopen(result, "r") as answers:
        said: list[str] = []
        while len(said) < lines or (not lines and not said):
            line = answers.readline().strip()
            if line == "end":
                break
            said.append(line)
        for _ in range(rng.randrange(2000)):  # some moment within what comes next
            pass
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        said += [line for line in answers.read().splitlines() if line != "end"]
    return said


def test_what_was_said_to_be_remembered_is_there_whenever_it_is_killed(state: Path, out: Path) -> None:
    """SIGKILL, KILLS times, the same journal, each time gone on with."""
    rng = random.Random(7)
    status = out.stat()
    promised: dict[str, tuple[str | None, str | None]] = {}
    for kill in range(KILLS):

        def write(say: Callable[[str], None], kill: int = kill) -> None:
            journal = Journals(state).begin(TOKEN, out)
            for batch in range(10_000):
                path = f"{kill}/{batch}"
                if journal.note_part(f"{path}/part", part_name(batch), status):
                    say(f"part {path}/part")
                rows = [Row(f"{path}/{number}", f"{number}", None, 1, number) for number in range(rng.randrange(1, 64))]
                if journal.note_named(rows):
                    say(f"named {path}/{len(rows) - 1}")

        for line in killed_after(write, 1 + rng.randrange(40), rng):
            kind, path = line.split()
            folder, _, last = path.rpartition("/")
            if kind == "part":
                promised[path] = (None, part_name(int(path.split("/")[1])))
            else:
                promised.update({f"{folder}/{number}": (str(number), None) for number in range(int(last) + 1)})
    journal = again(state, out)
    for path, expected in promised.items():
        row = journal.find(path)
        assert row is not None, path
        assert (row.name, row.part) == expected
    assert len(promised) > 10 * KILLS
    journal.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows what a program asks of the disk")
def test_what_is_named_has_been_brought_to_the_disk_before(state: Path, out: Path, tmp_path: Path) -> None:
    program = f"""
import os, pathlib
from p2p.io.receiving.journal import Journals, Row
out = pathlib.Path({str(out)!r})
journal = Journals(pathlib.Path({str(state)!r})).begin(bytes(16), out)
for number in range(5):
    os.write(2, b"begin part\\n")
    journal.note_part(f"part {{number}}", f".p2p-{{number}}.part", out.stat())
    os.write(2, b"begin named\\n")
    journal.note_named([Row(f"named {{number}}", "name", None, 1, 1)])
    os.write(2, b"end\\n")
"""
    trace = tmp_path / "trace"
    calls = "trace=write,pwrite64,fsync,fdatasync"
    command = ["strace", "-f", "-e", calls, "-o", str(trace), sys.executable, "-c", program]
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}, capture_output=True, check=False)
    if run.returncode:
        pytest.skip(f"strace may not trace here: {run.stderr.decode()[-200:]}")
    stages: dict[str, list[str]] = {"part": [], "named": [], "end": []}
    stage = "end"
    for line in trace.read_text().splitlines():
        if "begin part" in line:
            stage = "part"
        elif "begin named" in line:
            stage = "named"
            stages["named"].append("|")
        elif '"end\\n"' in line:
            stage = "end"
        elif "sync(" in line or "pwrite64(" in line:
            stages[stage].append("sync" if "sync(" in line else "write")
    assert "sync" not in stages["part"]
    assert stages["part"].count("write") >= 5
    batches = " ".join(stages["named"]).split("|")[1:]
    assert len(batches) == 5
    assert all(batch.split()[-1] == "sync" for batch in batches), batches


def test_notes_do_not_wait_for_another_thread_that_waits_for_the_disk(state: Path, out: Path) -> None:
    journal = begin(state, out)
    status = out.stat()
    with journal._writing:  # as `note_named` holds it
        assert journal.note_part("part", part_name(1), status)
        assert journal.note_folder("folder", "folder", status)
    journal.note_named([named("file", status)])
    assert Journals(state).parts_in(out) == {part_name(1)}
    journal.close()
    journal = again(state, out)
    assert all(journal.find(path) for path in ("part", "folder", "file"))


def test_many_threads_at_once(state: Path, out: Path) -> None:
    journal = begin(state, out)
    status = out.stat()

    def name_them() -> None:
        for batch in range(50):
            assert journal.note_named([named(f"named/{batch}/{number}", status) for number in range(20)])

    def note_parts() -> None:
        for number in range(1000):
            assert journal.note_part(f"part/{number}", part_name(number), status)
            assert journal.find(f"named/{number}") is None

    threads = [threading.Thread(target=name_them), threading.Thread(target=note_parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    journal.close()
    journal = again(state, out)
    assert all(journal.find(f"named/{batch}/{number}") for batch in range(50) for number in range(20))
    assert all(journal.find(f"part/{number}") for number in range(1000))
    journal.close()


def test_the_file_beside_it_stays_small_whatever_is_noted(
    state: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in ("CHECKPOINT_EVERY", "MAX_UNCHECKED", "MAX_PENDING"):
        monkeypatch.setattr(journal_file, constant, 50)
    status = out.stat()
    journal = begin(state, out)
    for number in range(1000):
        journal.note_folder(f"folder/{number}", "name", status)
    for number in range(1000):
        journal.note_named([named(f"file/{number}", status)])
    [beside] = (state / "journals").glob("*.db-wal")
    assert beside.stat().st_size < 200 * 4 * 4096
    journal.close()
    journal = again(state, out)
    assert all(journal.find(f"{kind}/{number}") for kind in ("folder", "file") for number in range(1000))
    journal.close()


# what goes wrong


def filled(state: Path, out: Path) -> Path:
    status = out.stat()
    journal = begin(state, out)
    journal.note_named([named(f"file/{number}", status) for number in range(2000)])
    for number in range(50):
        journal.note_part(f"part/{number}", part_name(number), status)
    journal.close()
    [file] = (state / "journals").glob("*.db")
    return file


def use(state: Path, out: Path) -> list[str]:
    """As a run does. Returns what is said to the person; nothing is raised."""
    journals = Journals(state)
    journals.parts_in(out)
    journal = journals.find(TOKEN, out) or journals.begin(TOKEN, out)
    for number in range(0, 2000, 7):
        row = journal.find(f"file/{number}")
        assert row is None or row.name is None or "/" not in row.name
        row = journal.find(f"part/{number}")
        assert row is None or row.part is None or row.part.startswith(".p2p-")
    journal.note_part("part/1", part_name(1), out.stat())
    journal.note_named([named(f"new/{number}", out.stat()) for number in range(100)])
    journal.close()
    return journals.notes + ([journal.failure] if journal.failure else [])


def test_a_file_that_is_cut_off_is_not_fatal(state: Path, out: Path) -> None:
    whole = filled(state, out).read_bytes()
    for length in [0, 1, 15, 16, 99, 100, *range(511, len(whole), 10_000)]:
        shutil.rmtree(state / "journals")
        (state / "journals").mkdir(0o700)
        file = filled(state, out)
        os.truncate(file, length)
        use(state, out)
        if length:
            assert use(state, out) == [], f"damage at {length} is put aside once"


def test_random_bytes_in_it_are_not_fatal(state: Path, out: Path) -> None:
    rng = random.Random(3)
    whole = filled(state, out).read_bytes()
    [file] = (state / "journals").glob("*.db")
    said = 0
    for _ in range(30):
        for path in (state / "journals").iterdir():
            path.unlink()
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 40)):
            start = rng.randrange(len(whole))
            damaged[start : start + rng.randrange(1, 200)] = rng.randbytes(rng.randrange(1, 200))
        file.write_bytes(damaged)
        said += bool(use(state, out))
    assert said


@pytest.mark.parametrize("what", ["random", "folder", "full folder", "fifo", "link"])
def test_what_is_no_journal_is_put_aside(state: Path, out: Path, tmp_path: Path, what: str) -> None:
    file = filled(state, out)
    file.unlink()
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    match what:
        case "random":
            file.write_bytes(random.Random(1).randbytes(50_000))
        case "folder" | "full folder":
            file.mkdir()
            if what == "full folder":
                (file / "x").touch()
        case "fifo":
            os.mkfifo(file)
        case _:
            file.symlink_to(precious)
    said = use(state, out)
    assert len(said) == 1
    assert "damaged" in said[0]
    assert use(state, out) == []
    assert precious.read_bytes() == b"precious"


def test_one_of_another_version_is_discarded_with_a_word(state: Path, out: Path) -> None:
    file = filled(state, out)
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    journals = Journals(state)
    assert journals.find(TOKEN, out) is None
    assert len(journals.notes) == 1
    assert "another version" in journals.notes[0]
    assert use(state, out) == []


def test_a_full_disk_ends_what_is_remembered_and_nothing_else(state: Path, out: Path) -> None:
    """A limit on the size of files is what a program may set itself."""

    def write(say: Callable[[str], None]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        journal = begin(state, out)
        status = out.stat()
        for batch in range(1000):
            kept = journal.note_named([named(f"{batch}/{number}", status) for number in range(64)])
            assert kept == (journal.failure is None)
            if not kept:
                break
            say(str(batch))
        assert not journal.note_part("x", part_name(1), status)
        assert journal.find("x") is None
        assert journal.failure
        say(journal.failure)
        journal.close()
        say("closed")

    *batches, failure, closed = killed_after(write, 10_000, random.Random(1))
    assert closed == "closed"
    assert failure.startswith("After an interruption this cannot be gone on with, for its journal fails: ")
    journal = again(state, out)
    assert batches
    assert all(journal.find(f"{batch}/{number}") for batch in batches for number in range(64))


ON_A_FULL_DISK = """
import os, sys
from pathlib import Path
from p2p.core.transfer.names import temporary_name
from p2p.io.receiving.journal import Journals

disk, is_killed = Path(sys.argv[1]), sys.argv[2] == "killed"
state, out, part = disk / "state", disk / "out", temporary_name(bytes(8))
state.mkdir(0o700)
out.mkdir()
(out / part).write_bytes(bytes(500_000))
if not os.fork():
    journal = Journals(state).begin(bytes(16), out)
    assert journal.note_part("file", part, (out / part).stat())
    if not is_killed:
        journal.close()
    os._exit(0)
assert os.wait()[1] == 0
with open(disk / "other", "wb", buffering=0) as other:
    try:
        while other.write(bytes(512)):
            pass
    except OSError:
        pass
journals = Journals(state)
assert journals.parts_in(out) in (None, {part})
journals.find(bytes(16), out)
journals.begin(bytes(16), out).close()
assert not [note for note in journals.notes if "damaged" in note], journals.notes
(disk / "other").unlink()
assert Journals(state).parts_in(out) == {part}
found = Journals(state).find(bytes(16), out)
assert found.find("file").part == part
found.close()
with open(disk / "other", "wb", buffering=0) as other:
    try:
        while other.write(bytes(512)):
            pass
    except OSError:
        pass
assert Journals(state).discard(out) == 1
assert not (out / part).exists(), "who discards wants room"
"""


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_a_full_disk_is_no_damage(tmp_path: Path, how: str) -> None:
    """Journal and part on one disk: the run that filled it is gone on with when there is room, or discarded."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted: needs root with CAP_SYS_ADMIN")
    mount = f"mount -t tmpfs -o size=1m none {tmp_path} && exec \"$0\" -c '{ON_A_FULL_DISK}' {tmp_path} {how}"
    command = ["unshare", "--mount", "sh", "-c", mount, sys.executable]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert result.returncode == 0, result.stderr


def test_where_no_journal_can_be_made_there_is_one_that_forgets(tmp_path: Path, out: Path) -> None:
    (tmp_path / "file").touch()
    journals = Journals(tmp_path / "file")
    assert journals.find(TOKEN, out) is None
    journal = journals.begin(TOKEN, out)
    assert journal.failure
    assert "cannot be made" in journal.failure
    status = out.stat()
    assert not journal.note_folder("a", "a", status)
    assert not journal.note_part("a", part_name(1), status)
    assert not journal.note_named([named("a", status)])
    assert not journal.drop_part("a")
    assert journal.find("a") is None
    assert journals.parts_in(out) == frozenset()
    assert journals.discard(out) == 0
    journal.finish()
    journal.close()


# what does not stay


def with_part(state: Path, out: Path, number: int) -> None:
    (out / part_name(number)).write_bytes(b"part")
    journal = begin(state, out, number.to_bytes(16, "big"))
    journal.note_part("file", part_name(number), (out / part_name(number)).stat())
    journal.close()


def test_discard_forgets_all_of_that_folder_and_removes_their_parts(state: Path, out: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number in range(3):
        with_part(state, out, number)
    with_part(state, other, 9)
    (out / "whole").touch()
    (out / part_name(7)).touch()  # no journal names it
    assert Journals(state).discard(out) == 3
    assert sorted(path.name for path in out.iterdir()) == [part_name(7), "whole"]
    assert [path.name for path in other.iterdir()] == [part_name(9)]
    assert Journals(state).discard(out) == 0
    assert Journals(state).parts_in(other) == {part_name(9)}


def test_only_a_part_that_is_ours_alive_and_the_same_is_removed(state: Path, out: Path, tmp_path: Path) -> None:
    for number in range(5):
        with_part(state, out, number)
    (out / "another").write_bytes(b"somebody else's")
    (out / "another").rename(out / part_name(1))
    precious = tmp_path / "precious"
    (out / part_name(2)).rename(precious)
    (out / part_name(2)).symlink_to(precious)
    os.link(out / part_name(3), out / "name.txt")
    journal = begin(state, out, (5).to_bytes(16, "big"))
    journal.note_part("file", "name.txt", (out / "name.txt").stat())  # no temporary name
    journal.note_part("other", "../precious", precious.stat())
    journal.close()
    with (out / part_name(4)).open("rb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert Journals(state).discard(out) == 6
    left = sorted(path.name for path in out.iterdir())
    assert left == [part_name(1), part_name(2), part_name(4), "name.txt"]
    assert precious.exists()


def test_what_is_old_goes_with_its_parts(state: Path, out: Path) -> None:
    now = out.stat().st_mtime
    with_part(state, out, 1)
    for path in (state / "journals").iterdir():
        os.utime(path, (now - MAX_AGE - 5, now - MAX_AGE - 5))
    with_part(state, out, 2)
    assert [path.name for path in out.iterdir()] == [part_name(2)]
    assert Journals(state).parts_in(out) == {part_name(2)}
    later = Journals(state, clock=lambda: now + MAX_AGE + 3600)
    later.begin(TOKEN, out).close()
    assert files_in(state) == []
    assert list(out.iterdir()) == []


def test_no_more_than_so_many_are_kept_the_newest_ones(state: Path, out: Path) -> None:
    now = out.stat().st_mtime
    for number in range(MAX_JOURNALS):
        with_part(state, out, number)
        for path in (state / "journals").iterdir():
            if path.stat().st_mtime > now - 10_000:
                os.utime(path, (now - 20_000 + number, now - 20_000 + number))
    journal = begin(state, out, (0).to_bytes(16, "big"))  # gone on with, though it is the oldest
    assert len(list((state / "journals").glob("*.db"))) == MAX_JOURNALS
    assert journal.find("file") is not None
    journal.close()
    with_part(state, out, MAX_JOURNALS)
    expected = {part_name(number) for number in range(MAX_JOURNALS + 1)} - {part_name(1)}
    assert {path.name for path in out.iterdir()} == Journals(state).parts_in(out) == expected


def test_what_is_in_use_is_neither_too_old_nor_too_many(state: Path, out: Path) -> None:
    journal = begin(state, out)
    journal.note_part("file", part_name(1), status_of(out / part_name(1)))
    later = Journals(state, clock=lambda: out.stat().st_mtime + MAX_AGE + 3600)
    later.begin(bytes(16), out).close()
    assert Journals(state).parts_in(out) == {part_name(1)}
    journal.close()
    assert again(state, out).find("file") is not None
