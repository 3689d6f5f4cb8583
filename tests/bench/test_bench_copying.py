"""When a file is there, in whichever way a program writes it."""

from __future__ import annotations

from pathlib import Path

from bench.copying import allocated, is_whole


def test_a_file_is_whole_with_all_its_blocks_under_its_name(tmp_path: Path) -> None:
    final = tmp_path / "file"
    assert not is_whole(final, 8192)
    assert allocated(tmp_path) == 0
    with final.open("wb") as file:
        file.truncate(1 << 20)  # the right size, but nothing in it yet
    assert not is_whole(final, 1 << 20)
    (tmp_path / "file.part").write_bytes(bytes(4096))
    assert allocated(tmp_path) >= 4096
    final.write_bytes(b"x" * (1 << 20))
    assert is_whole(final, 1 << 20)
