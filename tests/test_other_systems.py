"""On a system that lacks what p2p needs, one sentence says so; what only Linux has is done without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import GUARD, ROOT, tree_of

# Run by Python itself before any program: a system without these, as far as Python tells.
WITHOUT_MODULES = """\
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in {modules!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Finder())
"""
WITHOUT_NAMES = """\
import importlib
for module, names in {names!r}.items():
    module = importlib.import_module(module)
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""
WINDOWS = {
    "os": ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "geteuid", "getuid", "statvfs", "fork", "mkfifo"),
    "signal": ("SIGHUP",),
    "socket": ("SO_REUSEPORT", "AF_UNIX"),
}
MACOS = {
    "os": (
        "O_TMPFILE", "O_PATH", "O_LARGEFILE", "memfd_create", "posix_fadvise", "posix_fallocate", "splice", "eventfd",
        "sched_getaffinity", "sched_setaffinity", "copy_file_range", "listxattr", "pipe2", "fdatasync",
    ),
    "fcntl": ("F_SETPIPE_SZ", "F_GETPIPE_SZ"),
    "select": ("epoll",),
    "socket": (
        "SO_BINDTODEVICE", "SO_MARK", "SO_PRIORITY", "SO_INCOMING_CPU", "AF_NETLINK", "IP_RECVTOS",
        "IPV6_RECVPKTINFO", "IPV6_PKTINFO", "MSG_ERRQUEUE", "SO_PEERCRED", "TCP_USER_TIMEOUT", "TCP_QUICKACK",
    ),
}  # fmt: skip

TRANSFER = """\
import queue, threading
import p2p
codes = queue.Queue()
with p2p.Server("127.0.0.1", 0) as server:
    options = dict(on_code=codes.put, server=server.address, timeout=40)
    thread = threading.Thread(target=p2p.send, args=("tree",), kwargs=options)
    thread.start()
    result = p2p.receive(codes.get(timeout=60), out="out", server=server.address, timeout=40)
    thread.join()
print(result.size, result.missed_count)
"""


def run(
    tmp_path: Path, names: dict[str, tuple[str, ...]], modules: tuple[str, ...], *arguments: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """`before`: commands of a shell of its own, as root of a name space, by which the program is preceded."""
    lacking = WITHOUT_NAMES.format(names=names)
    if modules:
        lacking += WITHOUT_MODULES.format(modules=modules)
    (tmp_path / "sitecustomize.py").write_text(lacking)
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "HOME": str(tmp_path)}
    alone = ("unshare", "-rm", "sh", "-c", f'{before} && exec "$@"', "sh") if before else ()
    return subprocess.run(
        [*alone, sys.executable, *arguments], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=GUARD, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("program", ["p2p.peer", "p2p.server"])
@pytest.mark.parametrize("words", [["--help"], []])
def test_windows_is_told_in_one_sentence(program: str, words: list[str], tmp_path: Path) -> None:
    ended = run(tmp_path, WINDOWS, ("fcntl", "resource", "pwd", "termios"), "-m", program, *words)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("p2p runs on Linux and on macOS, and not on ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["send", "receive", "receive_many", "Server", "events"])
def test_a_program_on_windows_can_import_p2p_and_is_told_when_it_uses_it(name: str, tmp_path: Path) -> None:
    program = f"import p2p\ntry:\n    p2p.{name}\nexcept ImportError as error:\n    print(error)"
    ended = run(tmp_path, WINDOWS, ("fcntl", "resource"), "-c", program)
    assert ended.stderr == ""
    assert ended.stdout.startswith("p2p runs on Linux and on macOS, and not on ")


@pytest.mark.parametrize("lacking", [("fcntl",), ("resource",)])
def test_a_module_alone_is_missed(lacking: tuple[str, ...], tmp_path: Path) -> None:
    ended = run(tmp_path, {}, lacking, "-m", "p2p.peer", "--help")
    assert f"which has no {lacking[0]}" in ended.stderr


def may_hide(path: str) -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", path]
    return subprocess.run(command, capture_output=True, timeout=GUARD, check=False).returncode == 0


@pytest.mark.parametrize("has_proc", [True, False], ids=["", "no proc"])
@pytest.mark.parametrize("names", [MACOS, {}], ids=["macOS", "Linux"])
def test_a_transfer_without_what_only_linux_has(
    names: dict[str, tuple[str, ...]], has_proc: bool, tmp_path: Path
) -> None:
    if not has_proc and not may_hide("/proc"):
        pytest.skip("no name space in which /proc can be hidden")
    tree = tmp_path / "tree"
    (tree / "folder" / "empty").mkdir(parents=True)
    (tree / "folder" / "file").write_bytes(bytes(100_000))
    (tree / "folder" / "other name").hardlink_to(tree / "folder" / "file")
    (tree / "link").symlink_to("folder/file")
    (tree / "to a folder").symlink_to("folder")
    (tree / "to nothing").symlink_to("nowhere")
    for path in (*tree.rglob("*"), tree):
        os.utime(path, (10**9, 10**9), follow_symlinks=False)
    ended = run(tmp_path, names, (), "-c", TRANSFER, before="" if has_proc else "mount -t tmpfs none /proc")
    assert (ended.returncode, ended.stdout) == (0, "100000 0\n"), ended.stderr
    there = tmp_path / "out" / "tree"
    assert tree_of(there) == tree_of(tree)
    assert {path.lstat().st_mtime for path in (*there.rglob("*"), there)} == {10**9}
