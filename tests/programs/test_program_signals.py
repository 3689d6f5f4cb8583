"""A signal while the programs start: the exit code of docs/commands.md, and one line at most."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from harness import GUARD, ROOT, Program

# Run by Python itself before any program: sends the signal when the module is about to be imported.
AT_AN_IMPORT = """\
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT"]:
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
sys.meta_path.insert(0, Finder())
"""
PEER = ["argparse", "p2p.system", "p2p.core.errors", "p2p.io.run", "blake3", "cryptography.hazmat.bindings"]
SERVER = ["argparse", "p2p.system", "p2p.io.server.loop", "p2p.core.stun.server"]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SCRIPT = "import sys; sys.argv[0] = '/usr/bin/{name}'; from p2p.scripts import {function}; sys.exit({function}())"
BY_NAME = {"p2p": ["-c", SCRIPT.format(name="p2p", function="peer")], "peer": ["-m", "p2p.peer"]}
SERVER_SCRIPT = SCRIPT.format(name="p2p-server", function="server")
SERVER_BY_NAME = {"p2p-server": ["-c", SERVER_SCRIPT], "server": ["-m", "p2p.server"]}


def start(arguments: list[str], tmp_path: Path, at: str, number: int) -> tuple[int, str]:
    """How it ended, and all that it said. No signal is ignored, whoever started the tests."""
    (tmp_path / "sitecustomize.py").write_text(AT_AN_IMPORT)
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "AT": at, "SIGNAL": str(int(number)), "HOME": str(tmp_path)}

    def heed() -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    run = subprocess.run(
        [sys.executable, *arguments], env=environment, preexec_fn=heed,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GUARD, check=False,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("called", BY_NAME)
@pytest.mark.parametrize(("place", "at"), [*enumerate(PEER)])
def test_a_peer_that_is_stopped_while_it_is_imported(called: str, place: int, at: str, tmp_path: Path) -> None:
    number = SIGNALS[place % 3] if called == "p2p" else signal.SIGINT
    arguments = [*BY_NAME[called], "recv", "bob", "alice", "--code", "a code of ours"]
    assert start(arguments, tmp_path, at, number) == (130, "Stopped.\n")


@pytest.mark.parametrize("called", SERVER_BY_NAME)
@pytest.mark.parametrize(("place", "at"), [*enumerate(SERVER)])
def test_a_server_that_is_stopped_while_it_is_imported(called: str, place: int, at: str, tmp_path: Path) -> None:
    number = SIGNALS[place % 3] if called == "server" else signal.SIGTERM
    assert start([*SERVER_BY_NAME[called], "--port", "0"], tmp_path, at, number) == (0, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_before_the_run_has_begun(number: int, tmp_path: Path) -> None:
    """The code is to be read from a pipe into which nobody writes."""
    os.mkfifo(tmp_path / "code")
    words = ["recv", "bob", "alice", "--code-file", str(tmp_path / "code")]
    program = Program(
        subprocess.Popen, [*BY_NAME["p2p"], *words], preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)
    )
    writer: int | None = None
    while writer is None:
        assert program.process.poll() is None, program.err
        with contextlib.suppress(OSError):  # nobody reads yet
            writer = os.open(tmp_path / "code", os.O_WRONLY | os.O_NONBLOCK)
    # Our opening has woken it up; when it sleeps, it reads. A signal between its last look and that would end nothing.
    while Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "R":
        pass
    program.process.send_signal(number)
    assert program.finish() == 130
    os.close(writer)
    assert program.err == "Stopped.\n"


def test_what_is_ignored_stays_so(tmp_path: Path) -> None:
    """As in the background of a shell, and with nohup."""
    (tmp_path / "sitecustomize.py").write_text(AT_AN_IMPORT)
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "AT": "argparse", "SIGNAL": str(int(signal.SIGHUP))}
    run = subprocess.run(
        [sys.executable, "-m", "p2p.peer", "--version"], env=environment, capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert (run.returncode, run.stdout[:4]) == (0, "p2p ")


def test_the_console_scripts_are_those() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"p2p": "p2p.scripts:peer", "p2p-server": "p2p.scripts:server"}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (BY_NAME["p2p"], "p2p"),
        (BY_NAME["peer"], f"{Path(sys.executable).name} -m p2p.peer"),
        (SERVER_BY_NAME["p2p-server"], "p2p-server"),
        (SERVER_BY_NAME["server"], f"{Path(sys.executable).name} -m p2p.server"),
    ],
)
def test_help_calls_the_program_as_it_was_called(arguments: list[str], name: str) -> None:
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    help_command = [sys.executable, *arguments, "--help"]
    run = subprocess.run(help_command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"usage: {name} ")
    wrong = [sys.executable, *arguments, "--bogus"]
    run = subprocess.run(wrong, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert name in run.stderr
