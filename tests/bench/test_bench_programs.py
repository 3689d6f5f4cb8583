"""Programs under measurement, on this machine instead of in a lab."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.copying import Job, Pair, copy, killed_after
from bench.measure import MeasuringError, Watched, make_file

GUARD = 30.0  # seconds


class Here:
    """Where a lab's machine is expected."""

    def popen(self, command: list[str], **kwargs: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(command, **kwargs)


def python(code: str, *arguments: str) -> Watched:
    return Watched(Here(), [sys.executable, "-c", code, *arguments])  # type: ignore[arg-type]


def test_cpu_and_memory_are_known_after_the_end() -> None:
    program = python("b = bytearray(b'x' * 50_000_000); sum(range(20_000_000))")
    usage = program.finish(GUARD)
    assert usage.cpu_seconds > 0.05
    assert usage.peak_bytes > 50_000_000
    assert program.usage() == usage


def test_asking_whether_all_is_well_loses_no_figures() -> None:
    program = python("import time; time.sleep(0.1)")
    while not program.has_ended:
        time.sleep(0.01)
    program.check()
    assert program.finish(GUARD).peak_bytes > 0


def test_a_program_that_fails_is_quoted() -> None:
    program = python("raise SystemExit('no such luck')")
    with pytest.raises(MeasuringError, match=r"ended with 1: no such luck"):
        program.finish(GUARD)


def test_lines_are_awaited_and_a_silent_end_is_told() -> None:
    program = python("print('almost'); print('ready 7', flush=True); input()")
    assert program.wait_for(r"ready (\d)", GUARD)[1] == "7"
    with pytest.raises(MeasuringError, match="did not say 'more'"):
        program.wait_for("more", GUARD)
    program.kill()


def job(folder: Path, limit: float = GUARD) -> Job:
    (folder / "here").mkdir()
    source = folder / "here" / "file"
    return Job(None, source, make_file(source, 1_000_000), limit)  # type: ignore[arg-type]


WRITE = """
import os, shutil, sys, time
shutil.copyfile(sys.argv[1], sys.argv[2] + ".part")
time.sleep(0.3)
{damage}
os.rename(sys.argv[2] + ".part", sys.argv[2])
"""


def moved(job: Job, damage: str = "") -> Any:
    @contextmanager
    def start(job: Job, out: Path) -> Iterator[Pair]:
        receiver = python(WRITE.format(damage=damage), str(job.source), str(out / job.source.name))
        sender = python("")
        with killed_after(sender, receiver):
            yield Pair(sender, receiver, lambda: {"further": 1.0})

    return copy(job, start)


def test_the_clock_runs_from_the_first_byte_to_the_final_name(tmp_path: Path) -> None:
    sample = moved(job(tmp_path))
    assert sample.extra["seconds"] >= 0.25
    assert sample.extra["further"] == 1.0
    assert sample.value == pytest.approx(8e6 / sample.extra["seconds"])
    assert not list((tmp_path / "here").glob("out-*"))


def test_other_content_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(MeasuringError, match="other content"):
        moved(job(tmp_path), "with open(sys.argv[2] + '.part', 'r+b') as f: f.write(b'wrong')")


def test_what_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    sample = moved(job(tmp_path, 0.05))
    assert "cut off" in sample.note
    assert sample.size < 1_000_000
