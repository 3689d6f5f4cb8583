"""Strangers in the place of a side that was killed: what they can try at the one that still runs."""

from __future__ import annotations

from pathlib import Path

from harness import make_file, stage

SIZE = 60_000_000  # bytes
RATE = "5M"  # bytes a second: so that there is a moment to step in
TRIES = 3


def test_all_strangers_together_have_as_many_guesses_as_ever(tmp_path: Path) -> None:
    """Whoever comes after the third wrong code is asked for none, until the survivor gives up."""
    make_file(tmp_path / "file", SIZE)
    with stage() as programs:
        sender = programs.send("alice", "bob", tmp_path / "file", "--json", "--limit-rate", RATE)
        receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json", "--reconnect", "40")
        receiver.wait_for_events("progress", 2)
        sender.kill()
        for number in range(TRIES):
            stranger = programs.send("alice", "bob", tmp_path / "file", "--json", code=f"guess number {number}")
            stranger.wait_for_events("code_rejected")
            stranger.interrupt()
            stranger.finish()
        late = programs.send("alice", "bob", tmp_path / "file", "--json", code="guess number 3")
        assert receiver.finish() == 7
        assert "code_rejected" not in late.out
        assert receiver.err.count("without the code") == 1
        assert receiver.events_named("peer_restarted") == []
        assert "Traceback" not in receiver.err
