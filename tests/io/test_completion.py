"""Completion in real shells, by the script that the program prints."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2p.io.completion import SHELLS, known_names, script
from p2p.io.contacts import Contacts
from p2p.peer import build_parser
from p2p.server import build_parser as build_server_parser

ROOT = Path(__file__).parents[2]
GUARD = 20.0  # seconds
INTERACTIVE = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with files, and with p2p as it would be installed."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "p2p"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m p2p.peer "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(script(build_parser(), shell))
    files = tmp_path / "files"
    (files / "photos of us").mkdir(parents=True)
    (files / "notes.txt").touch()
    return tmp_path


def find(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell} here")
    return path


def environment_of(home: Path) -> dict[str, str]:
    return {
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "TERM": "vt100",
        "LC_ALL": "C.UTF-8",
    }


def run(home: Path, shell: str, program: str) -> list[str]:
    path = find(shell)
    command = [path, {"bash": "--norc", "fish": "--no-config"}[shell], "-c", program]
    folder, environment = home / "files", environment_of(home)
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    return result.stdout.splitlines()


def complete(home: Path, shell: str, *words: str) -> set[str]:
    """What the shell offers for the last word."""
    source = home / f"script.{shell}"
    if shell == "bash":
        listed = " ".join(f"'{word}'" for word in words)
        program = f"""
            source {source}
            COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}
            _shtab_{words[0].replace('-', '_')}
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
    else:
        program = f"source {source}; complete -C '{' '.join(words)}'"
    return {line.split("\t")[0] for line in run(home, shell, program) if line}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_command(home, shell):
    assert complete(home, shell, "p2p", "se") == {"send"}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_options_of_a_command(home, shell):
    assert complete(home, shell, "p2p", "recv", "--ov") == {"--overwrite"}
    assert complete(home, shell, "p2p", "send", "--ov") == set()


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_files_to_send(home, shell):
    offered = complete(home, shell, "p2p", "send", "anna", "ben", "no")
    assert offered == {"notes.txt"}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_folder_for_what_arrives(home, shell):
    offered = {name.rstrip("/") for name in complete(home, shell, "p2p", "recv", "--out", "")}
    assert "photos of us" in {name.replace("\\", "") for name in offered}
    assert "notes.txt" not in offered


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_shells_to_complete(home, shell):
    assert complete(home, shell, "p2p", "completion", "fi") == {"fish"}


class Terminal:
    """An interactive shell with a terminal of its own, at which somebody types."""

    def __init__(self, home: Path, shell: str) -> None:
        path = find(shell)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(home / "files")
            os.execve(path, [path, *INTERACTIVE[shell]], environment_of(home))
        self.seen = ""
        loads = "autoload -Uz compinit; compinit -u -D; " if shell == "zsh" else ""
        self.type(f"PS1=''; {loads}eval \"$(cat {home / f'script.{shell}'})\"; echo rea''dy\n")
        self.read_until("(ready)")

    def complete(self, line: str) -> str:
        """The line after the tabulator, as the shell itself understands it."""
        self.type(f"{line}\t\x01echo :\x05:\n")
        return self.read_until(r"[\r\n]:([^\r\n]*):\r").rstrip(" /")

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self.fd, text.encode())

    def read_until(self, pattern: str) -> str:
        end = time.monotonic() + GUARD
        while (match := re.search(pattern, re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", self.seen))) is None:
            assert select.select([self.fd], [], [], max(0.0, end - time.monotonic()))[0], self.seen
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        return match[1]

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_somebody_types(home, shell):
    terminal = Terminal(home, shell)
    try:
        assert terminal.complete("p2p se") == "p2p send"
        assert terminal.complete("p2p send --from-c") == "p2p send --from-command"
        assert terminal.complete("p2p recv --out ph") == "p2p recv --out photos of us"
        assert terminal.complete("p2p send no") == "p2p send notes.txt"
        assert terminal.complete("p2p send anna ben no") == "p2p send anna ben notes.txt"
        assert terminal.complete("p2p send anna ben one two no") == "p2p send anna ben one two notes.txt"
        assert terminal.complete("p2p recv --server x --ov") == "p2p recv --server x --overwrite"
        assert terminal.complete("p2p completion fi") == "p2p completion fish"
    finally:
        terminal.close()


@pytest.fixture
def contacts(home: Path, monkeypatch) -> None:
    """One whom bash can name, and one whom it cannot."""
    for variable in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(home / ".local" / "share" if variable != "HOME" else home))
    made = Contacts.of_user()
    for friend in ("benjamin", "Uncle $(reboot)"):
        made.hold("anna", friend, made.keys_for("anna", friend), bytes(range(32)))


@pytest.mark.usefixtures("contacts")
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_names_of_contacts(home, shell):
    assert known_names() == ["anna", "benjamin"]
    assert complete(home, shell, "p2p", "recv", "an") == {"anna"}
    assert complete(home, shell, "p2p", "send", "anna", "ben") == {"benjamin"}
    assert complete(home, shell, "p2p", "contacts", "forget", "ben") == {"benjamin"}


PROGRAMS = {"p2p": build_parser, "p2p-server": build_server_parser}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_program_prints_it(shell, program):
    command = [sys.executable, "-m", "p2p.peer", "completion", shell, program]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == script(PROGRAMS[program](), shell, program).strip()


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_options_of_the_server(home, shell):
    (home / f"script.{shell}").write_text(script(build_server_parser(), shell, "p2p-server"))
    assert complete(home, shell, "p2p-server", "--relay-r") == {"--relay-rate"}
    assert complete(home, shell, "p2p-server", "--alt") == {"--alt-host", "--alternate-port"}


def test_somebody_types_for_the_server_in_zsh(home):
    (home / "script.zsh").write_text(script(build_server_parser(), "zsh", "p2p-server"))
    terminal = Terminal(home, "zsh")
    try:
        assert terminal.complete("p2p-server --relay-r") == "p2p-server --relay-rate"
    finally:
        terminal.close()
