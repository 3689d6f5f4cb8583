"""The walk over real trees: what is said of them, what is left out, and what a tree may do meanwhile."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nobody import as_nobody
from walking import ALL, entries, found, make_tree, take_all, told

from p2p.core.errors import ExitCode
from p2p.core.transfer.entries import File, Folder, Leave, Skipped, Symlink
from p2p.core.transfer.limits import MAX_DEPTH
from p2p.core.transfer.names import safe_name, temporary_name
from p2p.io.sending import visits, walk
from p2p.io.sending.sources import Source, look_up
from p2p.io.sending.walk import Renamed, Walk

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices and mounts")


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Like tmp_path, which only its owner may enter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve()
        path.chmod(0o755)
        yield path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


# what is said of a tree


def test_depth_first_in_the_order_of_names(tree: Path) -> None:
    make_tree(tree, "b/y", "b/x", "a", "b/empty/", "ü", "B", "c")
    before = open_files()
    assert told(entries(tree)) == [
        *["tree/", "tree/B", "tree/a", "tree/b/", "tree/b/empty/", "tree/b/x", "tree/b/y", "tree/c", "tree/ü"]
    ]
    assert open_files() == before


def test_what_is_still_arriving_from_somebody_else_stays_here(tree: Path) -> None:
    """A part lies in the receiving folder, for weeks if its transfer broke off. Who names it wants it sent."""
    part = temporary_name(bytes(8))
    make_tree(tree, "a", part, f"b/{part}", f"b/{part}x")
    assert told(entries(tree)) == ["tree/", "tree/a", "tree/b/", f"tree/b/{part}x"]
    assert told(entries(tree / part)) == [f"_{part[1:]}"]


def test_several_roots_come_in_the_order_in_which_they_were_named(tmp_path: Path) -> None:
    make_tree(tmp_path, "b/x", "a", "other/a")
    paths = [tmp_path / "b", tmp_path / "a", tmp_path / "other" / "a"]
    assert told(entries(*paths)) == ["b/", "b/x", "a", "a (1)"]


def test_times_modes_and_sizes(tree: Path) -> None:
    make_tree(tree, "a")
    (tree / "link").symlink_to("a")
    (tree / "a").chmod(0o4751)
    os.utime(tree / "a", ns=(1, 1_234_567_890_123_456_789))
    os.utime(tree / "link", ns=(1, -5_000_000_000), follow_symlinks=False)
    tree.chmod(0o1700)
    os.utime(tree, ns=(1, 77))
    assert entries(tree) == [
        Folder("tree", 0o700, 77),
        File("a", 0o751, 1_234_567_890_123_456_789, 1),
        Symlink("link", -5_000_000_000, "a"),
        Leave(),
    ]


def test_sources_bear_the_numbers_of_their_entries(tree: Path) -> None:
    make_tree(tree, "a", "b/c", "d")
    os.mkfifo(tree / "b" / "pipe")
    (tree / "link").symlink_to("a")
    sources = {source.number: source for _, source in found(tree, tree / "a") if source is not None}
    assert all(isinstance(source, Source) for source in sources.values())
    # tree 0, a 1, b 2, c 3, d 4, link 5
    assert {number: source.read_whole() for number, source in sources.items()} == {1: b"a", 3: b"b/c", 4: b"d", 6: b"a"}


def test_a_link_that_was_named_is_followed_and_no_other(tmp_path: Path) -> None:
    make_tree(tmp_path, "real/a", "real/b")
    (tmp_path / "named").symlink_to("real")
    (tmp_path / "file").symlink_to("real/a")
    (tmp_path / "real" / "link").symlink_to("b")
    assert told(entries(tmp_path / "named", tmp_path / "file")) == [
        *["named/", "named/a", "named/b", "named/link -> b", "file"]
    ]
    [*_, (_, source)] = found(tmp_path / "file")
    assert source is not None
    assert source.read_whole() == b"real/a"


@pytest.mark.parametrize(
    ("place", "target", "is_sent"),
    [
        ("l", "a", True),
        ("l", "f/b", True),
        ("l", "nowhere", True),
        ("l", "./a", True),
        ("f/l", "../a", True),
        ("f/l", "..", True),
        ("f/l", "../f/b", True),
        ("l", "..", False),
        ("l", "../a", False),
        ("f/l", "../../a", False),
        ("l", "f/../a", False),
        ("l", "/etc/passwd", False),
        ("l", "/", False),
    ],
)
def test_only_links_that_stay_inside_are_sent(tree: Path, place: str, target: str, is_sent: bool) -> None:
    make_tree(tree, "a", "f/b")
    (tree / place).symlink_to(target)
    line = next(line for line in told(entries(tree)) if line.startswith(f"tree/{place} "))
    if is_sent:
        assert line == f"tree/{place} -> {target}"
    else:
        assert line.startswith(f"tree/{place} 9 is a link that leads out of what is sent")
        assert target not in line.removeprefix(f"tree/{place}")  # what lies where on this machine is nobody's business


def test_a_link_to_a_repaired_name_leads_to_it(tree: Path) -> None:
    make_tree(tree, "12:30", "l:/x")
    (tree / "link").symlink_to("12:30")
    (tree / "other").symlink_to("./l:/x")
    assert told(entries(tree)) == [
        *["tree/", "tree/12_30", "tree/l_/", "tree/l_/x", "tree/link -> 12_30", "tree/other -> ./l_/x"]
    ]


def test_several_names_of_one_file(tree: Path, tmp_path: Path) -> None:
    make_tree(tree, "a", "f/")
    os.link(tree / "a", tree / "f" / "b")
    os.link(tree / "a", tree / "c")
    os.link(tree / "a", tmp_path / "outside")
    assert told(entries(tree, tmp_path / "outside")) == [
        *["tree/", "tree/a", "tree/c = 1", "tree/f/", "tree/f/b = 1", "outside = 1"]
    ]
    assert [entry.is_linked for entry in entries(tree) if isinstance(entry, File)] == [True]


def test_no_more_than_so_many_of_them_are_remembered(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tree, "a", "b")
    for name in "ab":
        os.link(tree / name, tree / (name + "2"))
    monkeypatch.setattr(walk, "MAX_LINKED", 1)
    assert told(entries(tree)) == ["tree/", "tree/a", "tree/a2 = 1", "tree/b", "tree/b2"]
    assert [entry.is_linked for entry in entries(tree) if isinstance(entry, File)] == [True, False, False]


def test_what_is_no_file_folder_or_link(tree: Path) -> None:
    make_tree(tree, "a")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        lines = told(entries(tree))
    rest = ": only files, folders and links are sent"
    assert lines == ["tree/", "tree/a", f"tree/pipe 9 is a named pipe{rest}", f"tree/socket 9 is a socket{rest}"]


@needs_root
def test_a_device(tree: Path) -> None:
    os.mknod(tree / "null", 0o20600, os.makedev(1, 3))
    assert told(entries(tree))[1].startswith("tree/null 9 is a device: ")


# names


def test_names_that_others_cannot_bear(tree: Path) -> None:
    for name in (b"12:30.png", b"back\\slash", b"latin\xe9", b"a\nb", b"plain"):
        (tree / os.fsdecode(name)).touch()
    walk_ = Walk(look_up([tree]), ALL)
    names = [entry.name for entry, _ in take_all(walk_) if isinstance(entry, File)]
    assert names == ["12_30.png", "a_b", "back_slash", "latin\ufffd", "plain"]
    assert [safe_name(name) for name in names] == names
    assert Renamed(f"{tree}/12:30.png", "12_30.png") in walk_.renamed
    assert walk_.renamed_count == len(walk_.renamed) == 4


def test_repaired_names_never_meet_others(tree: Path) -> None:
    for name in ("a:b", "a\\b", "a_b", "a_b (1)", "c:d", "c\\d"):
        make_tree(tree, name)
    (tree / "e:").mkdir()
    (tree / "e\\").mkdir()
    by_name = {entry.name: source for entry, source in found(tree) if isinstance(entry, File)}
    assert sorted(by_name) == ["a_b", "a_b (1)", "a_b (2)", "a_b (3)", "c_d", "c_d (1)"]
    contents = {name: source.read_whole().decode() for name, source in by_name.items() if source is not None}
    plain = {"a_b": "a_b", "a_b (1)": "a_b (1)"}
    assert contents == plain | {"a_b (2)": "a:b", "a_b (3)": "a\\b", "c_d": "c:d", "c_d (1)": "c\\d"}
    assert [entry.name for entry in entries(tree) if isinstance(entry, Folder)] == ["tree", "e_", "e_ (1)"]


def test_no_more_than_so_many_of_them_are_kept(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_REPAIRED", 2)
    monkeypatch.setattr(walk, "MAX_LISTED", 2)
    for number in range(8):
        make_tree(tree, "a" + ":\\"[number % 2] * (number // 2 + 1))
    walk_ = Walk(look_up([tree]), ALL)
    names = [entry.name for entry, _ in take_all(walk_) if isinstance(entry, File)]
    assert len(set(names)) == len(names) == 8
    assert (len(walk_.renamed), walk_.renamed_count) == (2, 8)


def test_a_root_whose_name_is_repaired(tmp_path: Path) -> None:
    make_tree(tmp_path, "12:30/a")
    walk_ = Walk(look_up([tmp_path / "12:30"]), ALL)
    assert told([entry for entry, _ in take_all(walk_)]) == ["12_30/", "12_30/a"]
    assert walk_.renamed == [Renamed(str(tmp_path / "12:30"), "12_30")]


# trouble


def test_what_this_user_may_not_read(public_path: Path) -> None:
    make_tree(public_path, "a", "secret/b", "z")
    (public_path / "secret").chmod(0)
    (public_path / "a").chmod(0)
    script = (
        "entries, _ = Walk(look_up([sys.argv[1]]), Exclude([])).take(99)\n"
        "for entry, source in entries:\n"
        "    print(type(entry).__name__, getattr(entry, 'name', ''), getattr(entry, 'reason', ''))\n"
        "    try:\n"
        "        if source is not None: source.read_whole()\n"
        "    except SourceError as error: print(error.unreadable)\n"
    )
    imports = "from p2p.io.sending.walk import Walk, Exclude; from p2p.io.sending.sources import SourceError, look_up"
    out, err = as_nobody(imports, script, public_path)
    assert err == ""
    reason = "cannot be read by this user: check its permissions"
    assert out.splitlines()[1:] == [
        "File a ",
        f"Unreadable(exit_code=<ExitCode.STORAGE: 9>, reason='{reason}')",
        f"Skipped secret {reason}",
        "File z ",
        "Leave  ",
    ]


def test_folders_below_each_other(tree: Path) -> None:
    make_tree(tree, "/".join("d" * (MAX_DEPTH - 1)) + "/file", "after")
    make_tree(tree, "/".join("d" * MAX_DEPTH) + "/lost")
    lines = told(entries(tree))
    deepest = "tree/" + "/".join("d" * (MAX_DEPTH - 1))
    assert lines[-1] == f"{deepest}/file"
    assert lines[-2].startswith(f"{deepest}/d 9 lies more than 64 folders deep")
    assert lines[1] == "tree/after"


def test_a_path_that_no_call_takes_as_a_whole(tree: Path) -> None:
    """More than PATH_MAX, which is 4,096."""
    folder = os.open(tree, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=folder)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    fd = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    os.write(fd, b"deep")
    os.close(fd)
    os.close(folder)
    before = open_files()
    [source] = [source for _, source in found(tree) if source is not None]
    assert source.read_whole() == b"deep"
    assert open_files() == before


@needs_root
def test_a_folder_that_lies_in_itself(tree: Path) -> None:
    make_tree(tree, "f/inner/", "f/z")
    subprocess.run(["mount", "--bind", tree, tree / "f" / "inner"], check=True)
    try:
        lines = told(entries(tree))
    finally:
        subprocess.run(["umount", tree / "f" / "inner"], check=True)
    assert [line.split(":")[0] for line in lines] == [
        *["tree/", "tree/f/", "tree/f/inner 9 is a folder that it lies in itself", "tree/f/z"]
    ]


def in_place_of(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        shutil.rmtree(path)
        make(path)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_place_of(lambda path: path.symlink_to("/etc")), "8 was replaced while it was being sent"),
        (shutil.rmtree, "9 went away while its folder was read"),
        (in_place_of(Path.touch), "8 was replaced while it was being sent"),
        (in_place_of(os.mkfifo), "8 was replaced while it was being sent"),
    ],
)
def test_a_folder_that_changes_before_it_is_entered(
    tree: Path, change: Callable[[Path], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between stat and open: the smallest window that there is."""
    make_tree(tree, "a", "f/secret", "z")
    open_ = os.open

    def change_and_open(path: str, *args: int, dir_fd: int | None = None) -> int:
        if path == "f":
            change(tree / "f")
        return open_(path, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", change_and_open)
    assert [line.split(":")[0] for line in told(entries(tree))] == ["tree/", "tree/a", f"tree/f {words}", "tree/z"]


def test_a_folder_that_is_moved_while_it_is_read_is_still_read(tree: Path) -> None:
    make_tree(tree, "f/a", "f/b", "f/g/c")
    walk_ = Walk(look_up([tree]), ALL)
    first, _ = walk_.take(3)
    (tree / "f").rename(tree / "moved")
    (tree / "f").symlink_to("/etc")
    rest = [entry for entry, _ in take_all(walk_)]
    assert told([*(entry for entry, _ in first), *rest]) == [
        *["tree/", "tree/f/", "tree/f/a", "tree/f/b", "tree/f/g/", "tree/f/g/c"]
    ]


def test_what_goes_away_after_it_was_listed(tree: Path) -> None:
    make_tree(tree, "a", "b", "c")
    walk_ = Walk(look_up([tree]), ALL)
    first, _ = walk_.take(1)
    (tree / "b").unlink()
    lines = told([first[0].entry, *(entry for entry, _ in take_all(walk_))])
    assert lines == [
        "tree/",
        "tree/a",
        "tree/b 9 went away while its folder was read: send it again if it is needed",
        "tree/c",
    ]


def test_roots_that_go_away(tmp_path: Path) -> None:
    make_tree(tmp_path, "f/a", "b", "c/d")
    walk_ = Walk(look_up([tmp_path / "f", tmp_path / "b", tmp_path / "c"]), ALL)
    shutil.rmtree(tmp_path / "f")
    (tmp_path / "b").unlink()
    lines = told([entry for entry, _ in take_all(walk_)])  # that b is gone is seen when it is read
    assert lines == ["f 9 went away while its folder was read: send it again if it is needed", "b", "c/", "c/d"]


def test_a_root_that_is_another_by_its_turn(tmp_path: Path) -> None:
    make_tree(tmp_path, "f/a", "other/secret")
    walk_ = Walk(look_up([tmp_path / "f"]), ALL)
    shutil.rmtree(tmp_path / "f")
    (tmp_path / "f").symlink_to("other")
    lines = told([entry for entry, _ in take_all(walk_)])
    assert lines == ["f 8 was replaced while it was being sent: send it again when nothing writes to it"]


def test_a_folder_that_cannot_be_read_to_its_end(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tree, "f/a", "z")
    drain = visits._drain

    def drain_and_break(names: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        is_inner = any(entry.name == "a" for entry in names)
        yield from drain(names)
        if is_inner:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(visits, "_drain", drain_and_break)
    assert told(entries(tree)) == [
        *["tree/", "tree/f/", "tree/f/a", "tree/f 9 cannot be read: Input/output error: check the disk", "tree/z"]
    ]


# many


def test_names_of_a_large_folder_come_as_the_system_has_them(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "MAX_SORTED", 20)
    names = {f"{number:03}" for number in range(50)}
    make_tree(tree, *names, "sub/x")
    lines = told(entries(tree))
    assert lines.index("tree/sub/x") == lines.index("tree/sub/") + 1  # what follows is read on
    assert sorted(lines) == sorted(["tree/", "tree/sub/", "tree/sub/x", *(f"tree/{name}" for name in names)])


def test_a_batch_reads_no_further_than_it_has_to(tree: Path) -> None:
    make_tree(tree, "a/x", "b/x", "c/x")
    walk_ = Walk(look_up([tree]), ALL)
    walk_.take(3)  # tree, a, a/x
    make_tree(tree, "b/y")
    assert "y" in [getattr(entry, "name", "") for entry, _ in take_all(walk_)]


def test_a_walk_that_is_closed_in_the_middle_leaves_nothing_open(tree: Path) -> None:
    make_tree(tree, "a/b/c/d", "e")
    before = open_files()
    walk_ = Walk(look_up([tree]), ALL)
    walk_.take(4)
    assert len(open_files()) > len(before)
    walk_.stop()
    walk_.close()
    assert open_files() == before
    assert walk_.take(5) == ([], True)


def test_codes_of_what_was_skipped_are_no_success(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    assert [entry.exit_code for entry in entries(tree) if isinstance(entry, Skipped)] == [ExitCode.STORAGE]
