"""`doctor` as a program on loopback: exit codes, the two outputs, and a server that sees no more than we do."""

from __future__ import annotations

import subprocess

from harness import Program, Stage, stage

from p2p.core.errors import ExitCode


def doctor(*options: str) -> Program:
    return Program(subprocess.Popen, ["-m", "p2p.peer", "doctor", *options])


def on(programs: Stage, *options: str) -> Program:
    return doctor("--server", programs.address, *options)


def test_a_server_on_the_same_machine_is_told_to_see_nothing_of_the_internet() -> None:
    with stage() as programs:
        machine, person, quiet = on(programs, "--json"), on(programs, "--verbose"), on(programs, "--quiet")
        assert [each.finish() for each in (machine, person, quiet)] == [0, 0, 0]
    end = machine.event("diagnosis")
    assert end["answered"] is True
    assert end["network"] == "unknown"
    assert set(end["friends"].values()) == {"unsure"}
    assert end["verdict"].startswith("The server stands in your own network")
    assert machine.event("mtu")["mtu"] == 1500
    assert machine.event("nat") | {"address": "127.0.0.1", "translates": False} == machine.event("nat")
    assert machine.events[0]["event"] == "interfaces"
    assert machine.events[-1] == end
    assert person.out.startswith("The server stands in your own network")
    assert "With a friend" not in person.out
    assert "Packets: of the usual 1500 bytes" in person.err
    assert quiet.out.count("\n") <= 2
    assert quiet.err == ""


def test_nobody_there_ends_with_3_and_says_what_to_look_at() -> None:
    with stage() as programs:
        programs.server.kill()
        machine, person = on(programs, "--json"), on(programs)
        assert machine.finish() == person.finish() == ExitCode.NO_PEER
    assert machine.event("failed")["code"] == ExitCode.NO_PEER
    assert machine.events[-1]["event"] == "failed"
    tcp = [event for event in machine.events if event["event"] == "tcp"][-1]["ports"]
    assert [each["outcome"] for each in tcp] == ["refused", "refused"]
    assert "Check --server" in person.out


def test_options_that_mean_nothing_end_with_2() -> None:
    for options in (["--server", "a:b:c"], ["--stun", "host:0"], ["--timeout", "-1"], ["--code", "x"]):
        program = doctor(*options)
        assert program.finish() == ExitCode.USAGE, options
        assert program.out == ""
        assert program.err


def test_a_stun_server_alone_is_enough() -> None:
    with stage() as programs:
        program = doctor("--json", "--timeout", "2", "--stun", programs.address)
        assert program.finish() == 0
    assert program.event("diagnosis")["answered"] is True
