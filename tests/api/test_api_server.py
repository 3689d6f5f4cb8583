"""The rendezvous server as part of a program, and what importing costs."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from beside import Beside, Told
from harness import ROOT, make_file

import p2p


def crosses(server: p2p.Server, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 10)
    told = Told()
    sending = Beside(partial(p2p.send, tmp_path / "file", server=server.address, on_code=told))
    p2p.receive(told.text, out=tmp_path / "out", server=server.address)
    assert sending.error is None


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def test_on_all_addresses_of_this_machine(tmp_path: Path) -> None:
    with p2p.Server(port=0) as server:
        assert server.address == f"127.0.0.1:{server.ports[0]}"
        crosses(server, tmp_path)


def test_started_and_stopped_by_hand(tmp_path: Path) -> None:
    server = p2p.Server("127.0.0.1", 0)
    server.start()
    crosses(server, tmp_path)
    assert not is_free(server.ports[0])
    server.stop()
    assert is_free(server.ports[0])
    server.stop()
    with pytest.raises(RuntimeError, match="once"):
        server.start()


def test_in_the_thread_of_whoever_calls(tmp_path: Path) -> None:
    server = p2p.Server("127.0.0.1", 0)
    serving = Beside(server.run)
    crosses(server, tmp_path)
    server.stop()
    assert serving.error is None
    assert is_free(server.ports[0])


def test_one_that_never_served_frees_its_ports_too() -> None:
    server = p2p.Server("127.0.0.1", 0)
    server.stop()
    assert is_free(server.ports[0])


def test_a_port_that_is_taken_is_an_os_error() -> None:
    with p2p.Server("127.0.0.1", 0) as server, pytest.raises(OSError, match="in use") as caught:
        p2p.Server("127.0.0.1", server.ports[0])
    assert f"port {server.ports[0]}" in str(caught.value)


def test_what_ended_the_server_is_raised_where_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    server = p2p.Server("127.0.0.1", 0)
    broken = threading.Event()

    def fail(*_: object) -> None:
        broken.set()
        raise ZeroDivisionError

    monkeypatch.setattr(server._loop, "_counts", fail)
    server.start()
    assert broken.wait(60)
    with pytest.raises(ZeroDivisionError):
        server.stop()


def test_what_it_does_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "p2p.server"), p2p.Server("127.0.0.1", 0) as server:
        crosses(server, tmp_path)
    assert any(record.message.startswith("paired: code") for record in caplog.records)
    assert "stopping: no longer wanted" in caplog.messages


def test_importing_loads_nothing_else() -> None:
    program = "import sys, p2p; print([name for name in sys.modules if name.startswith('p2p.')]); print(dir(p2p))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, names = run.stdout.splitlines()
    assert loaded == "[]"
    for name in p2p.__all__:
        assert f"'{name}'" in names
        assert getattr(p2p, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'receiev'"):
        p2p.receiev  # type: ignore[attr-defined]  # noqa: B018
