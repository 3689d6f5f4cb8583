"""``python -m netlab`` as a person types it."""

from __future__ import annotations

import ast
import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import netlab
from netlab.__main__ import main, split_commands
from netlab.nat import KINDS
from netlab.plan import plan
from netlab.scenarios import KINDS_BY_NAME, SCENARIOS, pair, scenario

LIMIT = 60  # seconds; reached only when something is broken
ROOT = Path(__file__).parents[2]
PAIR = "full-cone-x-symmetric"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def typed(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "netlab", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        **{"env": ENVIRONMENT, "stdin": subprocess.DEVNULL, **options},  # type: ignore[call-overload]
    )


def test_netlab_runs_p2p_but_never_imports_it() -> None:
    for path in Path(netlab.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "p2p"], path


def test_every_pair_of_kinds_is_a_scenario_and_every_scenario_can_be_planned() -> None:
    assert len(KINDS_BY_NAME) == len(KINDS)
    for left in KINDS:
        for right in KINDS:
            assert [r.nat for r in scenario(pair(left, right)).topology.routers] == [left, right]
    for each in SCENARIOS.values():
        made = plan(each.topology)
        assert {"alice", "bob", "server"} <= set(made.nodes)
        assert all(part.isalnum() for part in each.name.split("-")), each.name


def test_list_prints_every_scenario_or_those_with_all_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SCENARIOS)
    assert main(["list", "one-lan", "behind port-restricted, random"]) == 0
    assert capsys.readouterr().out == (
        "one-lan-port-restricted-random-port  alice and bob on one LAN behind port-restricted, random port\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["draw", "full-cone-x-symetric"],
            "no scenario is named 'full-cone-x-symetric': did you mean full-cone-x-symm",
        ),
        (["draw", "zzz"], "no scenario is named 'zzz': `python -m netlab list` prints all names"),
        (["list", "zzz"], "no scenario is named 'zzz'"),
        (["up", PAIR, "--shell", "alise"], "no host is named 'alise': did you mean alice?"),
        (["run", PAIR], "no command to run: write it after --, as in `run full-cone-x-symmetric -- ping"),
        (["run", PAIR, "--", "server=true", "alise=true"], "no host is named 'alise': did you mean alice?"),
        (["run", PAIR, "--", "server=true", "true"], "'true' names no host: write each as HOST='COMMAND ARGUMENT'"),
        (["matrix", "--kinds", "simmetric"], "no NAT kind is named 'simmetric': did you mean symmetric"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_names_that_look_like_it(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"netlab: {sentence}")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["fly"], ["draw"], ["matrix", "--size", "0"], ["list", "--", "ls"]])
def test_usage_errors_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: python -m netlab" in capsys.readouterr().err


def test_a_plain_command_is_told_from_commands_for_hosts() -> None:
    chosen = scenario(PAIR)
    assert split_commands(chosen, ["env", "A=1", "sh"]) is None
    assert split_commands(chosen, ["A=1", "sh"]) is None
    assert split_commands(chosen, ["alice"]) is None
    assert split_commands(chosen, ["bob=a b=c", "left=d"]) == [("bob", "a b=c"), ("left", "d")]


def test_draw_writes_to_stdout_or_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", PAIR]) == 0
    shown = capsys.readouterr().out
    assert ElementTree.fromstring(shown).get("aria-label", "").startswith("alice behind full cone, bob behind")
    assert main(["draw", PAIR, "-o", str(tmp_path / "x.svg")]) == 0
    assert (tmp_path / "x.svg").read_text(encoding="utf-8") == shown
    assert main(["draw", PAIR, "-o", str(tmp_path / "no" / "x.svg")]) == 1
    assert capsys.readouterr().err == f"netlab: {tmp_path}/no/x.svg: No such file or directory\n"


def test_the_matrix_asks_for_its_folder_before_it_runs_for_minutes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["matrix", "-o", str(tmp_path / "no" / "x.html")]) == 1
    assert capsys.readouterr().err == f"netlab: there is no folder {tmp_path}/no to write x.html to\n"


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "netlab", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.netlab(needs="root")
def test_without_the_right_the_command_says_what_is_missing() -> None:
    # Imported first: the interpreter may be installed where only root can read.
    code = (
        "import os, pyroute2, scapy, netlab.lab, sys; from netlab.__main__ import main; os.setuid(65534);"
        f" sys.exit(main(['run', '{PAIR}', '--', 'true']))"
    )
    environment = ENVIRONMENT | {"NETLAB_ROOTLESS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 1
    assert "the NAT lab cannot run here: no network namespace can be made" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.netlab
def test_run_runs_a_command_in_alice_and_ends_as_it_does() -> None:
    done = typed("run", PAIR, "--", "sh", "-c", "ip -o -4 addr show dev eth0; echo $NETLAB_SERVER; exit 7")
    assert done.returncode == 7, done.stderr
    assert "192.168.1.10/24" in done.stdout
    assert done.stdout.endswith("\n20.0.0.1\n")


@pytest.mark.netlab
def test_run_passes_stdin_on_and_a_signal_is_128_and_its_number() -> None:
    done = typed("run", PAIR, "--", "sh", "-c", "read word; echo got $word; kill -9 $$", stdin=None, input="this\n")
    assert (done.returncode, done.stdout) == (128 + signal.SIGKILL, "got this\n")


@pytest.mark.netlab
def test_run_runs_commands_in_several_hosts_and_ends_with_the_last() -> None:
    said = "import socket,sys; s=socket.socket(); s.bind((sys.argv[1],80)); s.listen(); c,a=s.accept(); print(a[0])"
    ask = (
        f"""while ! {sys.executable} -c 'import socket; socket.create_connection(("20.0.0.1", 80))' 2>&-; do :; done"""
    )
    done = typed(
        "run", PAIR, "--", f'sleep=1; {sys.executable} -c "{said}" $NETLAB_SERVER'.replace("sleep=1; ", "server="),
        f"alice={ask}; echo served; exit 5",
    )  # fmt: skip
    assert done.returncode == 5, done.stdout + done.stderr
    assert " alice | served\n" in done.stdout


@pytest.mark.netlab
def test_run_writes_what_every_machine_saw_and_when(tmp_path: Path) -> None:
    refused = "import socket; raise SystemExit(socket.socket().connect_ex(('20.0.0.2', 9)))"
    done = typed("run", PAIR, "--captures", str(tmp_path / "seen"), "--", sys.executable, "-c", refused)
    assert done.returncode == errno.ECONNREFUSED, done.stderr
    files = {path.name: path.read_bytes() for path in (tmp_path / "seen").iterdir()}
    assert set(files) == {"timeline.jsonl", *(f"{name}.pcap" for name in plan(scenario(PAIR).topology).nodes)}
    on_the_way = {name for name, content in files.items() if bytes([20, 0, 0, 2]) in content}
    assert on_the_way == {f"{name}.pcap" for name in ("alice", "left", "core0", "core1", "server")}
    assert f"{sys.executable} -c" in files["timeline.jsonl"].decode()  # the rest of it is cut short


@pytest.mark.netlab
def test_a_command_that_does_not_exist_is_one_sentence() -> None:
    done = typed("run", PAIR, "--", "no-such-program", "a b")
    assert (done.returncode, done.stderr) == (
        1,
        "netlab: alice cannot run no-such-program 'a b': No such file or directory\n",
    )


@pytest.mark.netlab
def test_up_gives_a_shell_in_the_host_and_ends_with_it() -> None:
    words = "ip -o -4 addr show dev eth0\nexit 3\n"
    done = typed("up", PAIR, "--shell", "bob", env=ENVIRONMENT | {"SHELL": "/bin/sh"}, stdin=None, input=words)
    assert done.returncode == 3
    assert "192.168.2.10/24" in done.stdout
    assert "This is bob." in done.stderr


@pytest.mark.netlab
def test_up_holds_the_lab_until_it_is_interrupted_and_says_how_to_enter() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "netlab", "up", PAIR], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stderr is not None
        lines = [next(process.stderr) for _ in range(1 + len(plan(scenario(PAIR).topology).nodes) + 1)]
        assert lines[-1] == "Up. Ctrl-C takes it down.\n"
        (alice,) = (line for line in lines if line.startswith("  alice "))
        enter = alice.split()[2:]
        inside = subprocess.run([*enter, "ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True)
        assert "192.168.1.10/24" in inside.stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0


@pytest.mark.netlab
def test_probe_says_what_it_measured_and_that_it_is_as_the_profile_has_it() -> None:
    done = typed("probe", PAIR)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "alice: endpoint-independent mapping, endpoint-independent filtering, port preservation (as full cone has it)",
        "bob: address-and-port-dependent mapping, address-and-port-dependent filtering, no port preservation"
        " (as symmetric has it)",
    ]


@pytest.mark.netlab
@pytest.mark.parametrize("name", ["one-lan-carrier-grade", "carrier-grade-x-symmetric-sequential"])
def test_probe_measures_what_only_many_mappings_show(name: str) -> None:
    done = typed("probe", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("alice: ")
    assert "ports 10240 to 11263 for its first host (as carrier-grade has it)\nbob: " in done.stdout


@pytest.mark.netlab
@pytest.mark.parametrize(
    ("name", "alice"),
    [
        ("unguarded-port-restricted", "port preservation, unasked UDP let in (as port-restricted has it)"),
        ("one-carrier-symmetric", "no port preservation (as port-restricted behind symmetric has it)"),
        (
            "mapper-behind-carrier-grade",
            "ports 10240 to 11263 for its first host (as port-restricted, port mapper behind carrier-grade has it)",
        ),
    ],
)
def test_probe_judges_unguarded_routers_and_those_behind_a_carrier(name: str, alice: str) -> None:
    done = typed("probe", name)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("alice: ")
    assert first.endswith(alice)
    assert second.startswith("bob: ")
    assert " (as " in second


@pytest.mark.netlab
@pytest.mark.parametrize(
    ("name", "router", "wrong"),
    [(PAIR, "left", "full cone"), ("one-carrier-full-cone", "carrier", "port-restricted behind full cone")],
)
def test_probe_says_which_router_is_not_as_its_profile_and_ends_with_1(name: str, router: str, wrong: str) -> None:
    # The rules are the right ones; then somebody puts one before them that makes the router symmetric.
    symmetric = (
        "nft flush chain ip netlab keep; iptables -t nat -I POSTROUTING -o wan -p udp -j MASQUERADE --random-fully"
    )
    code = f"""
import sys
from netlab.__main__ import main
from netlab.lab import Lab
up = Lab.__enter__
def broken(lab):
    up(lab)
    lab.host({router!r}).run(["sh", "-c", {symmetric!r}], check=True)
    return lab
Lab.__enter__ = broken
sys.exit(main(["probe", {name!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("alice: address-and-port-dependent mapping, ")
    assert f"(NOT as {wrong} has it)\n" in done.stdout


def test_the_readme_shows_the_tested_file_word_for_word() -> None:
    manual = (ROOT / "netlab" / "README.md").read_text(encoding="utf-8")
    tested = (ROOT / "tests" / "netlab" / "test_netlab_other_program.py").read_text(encoding="utf-8")
    assert f"```python\n{tested}```\n" in manual


def test_the_manual_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    manual = (ROOT / "docs" / "netlab.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert commands == ["list", "up", "run", "probe", "draw", "matrix"]
    assert re.findall(r"^python -m netlab (\w+)", manual, re.MULTILINE)[:8] == [
        "list", "up", "up", "run", "run", "probe", "draw", "matrix",
    ]  # fmt: skip
