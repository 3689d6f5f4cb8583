"""The laboratory on a command line: ``python -m netlab --help``.

Exit codes: 0 done · 1 it could not be done, or a probe disagrees · 2 usage · 130 Ctrl-C. ``run`` and
``up --shell`` end with the exit code of what ran inside.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from netlab import rootless
from netlab.addressing import Version
from netlab.behind import expected, way_out
from netlab.draw import draw
from netlab.nat import KINDS
from netlab.page import Result, page
from netlab.plan import plan
from netlab.requirements import NEEDS, MissingRequirements, lacking, require
from netlab.scenarios import SCENARIOS, Scenario, UnknownName, kind, scenario
from netlab.topology import all_routers
from netlab.words import nat_words, slug

if TYPE_CHECKING:
    from netlab.lab import Lab, Node

FIRST = "alice"  # where a command runs that names no host
DEFAULT_SIZE = 8_000_000  # bytes
DEFAULT_PAGE = Path("netlab-matrix.html")


class Usage(Exception):
    """The command line asks for something that has no meaning; the message says what to write."""


class Refused(Exception):
    """It cannot be done here; the message says why in one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Usage errors end the program with 2, as argparse has it."""
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    inside: list[str] = []
    if "--" in words:
        cut = words.index("--")
        words, inside = words[:cut], words[cut + 1 :]
    options = parser.parse_args(words)
    if inside and options.command is not run:
        parser.error("only `run` takes a command after --")
    options.inside = inside
    try:
        return int(options.command(options))
    except (UnknownName, Usage) as error:
        return _sorry(str(error), 2)
    except (Refused, MissingRequirements) as error:
        return _sorry(str(error), 1)
    except BrokenPipeError:  # who read us has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _sorry(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        return 130


def list_scenarios(options: argparse.Namespace) -> int:
    """Names and one sentence each, those with all the given words in either."""
    chosen = [
        each for each in SCENARIOS.values() if all(word in f"{each.name} {each.summary}" for word in options.words)
    ]
    if not chosen:
        raise UnknownName("scenario", " ".join(options.words), list(SCENARIOS), "`python -m netlab list` prints all")
    width = max(len(each.name) for each in chosen)
    for each in chosen:
        print(f"{each.name:{width}}  {each.summary}")
    return 0


def up(options: argparse.Namespace) -> int:
    """Hold the lab up until Ctrl-C, or for the length of a shell in one host."""
    chosen = scenario(options.scenario)
    _check_host(chosen, options.shell or FIRST)
    nsenter = "nsenter"
    if _enter_where_needed():
        nsenter += f" --user=/proc/{os.getpid()}/ns/user --preserve-credentials"
    with _lab(chosen) as lab:
        print(f"{chosen.name}: {chosen.summary}", file=sys.stderr)
        for name in lab.plan.nodes:
            node = lab.host(name)
            enter = f"{nsenter} --net=/proc/{os.getpid()}/fd/{node.namespace.fd}"
            print(f"  {name:11} {' '.join(node.addresses):32} {enter}", file=sys.stderr)
        if options.shell:
            return _shell(lab, options.shell)
        print("Up. Ctrl-C takes it down.", file=sys.stderr, flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
    return 0


def run(options: argparse.Namespace) -> int:
    """Run CMD in alice, or HOST=CMD in several; ends with the last one's exit code."""
    chosen = scenario(options.scenario)
    if not options.inside:
        raise Usage(f"no command to run: write it after --, as in `run {chosen.name} -- ping -c1 20.0.0.1`")
    commands = split_commands(chosen, options.inside)
    with _lab(chosen) as lab, _captures(lab, options.captures):
        environment = _environment(lab)
        if commands is None:
            return _code(_popen(lab.host(FIRST), options.inside, env=environment).wait())
        started = [
            (name, _popen(lab.host(name), ["sh", "-c", line], env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
            for name, line in commands
        ]  # fmt: skip
        width = max(len(name) for name, _ in started)
        readers = [
            threading.Thread(target=_relay, args=(f"{name:>{width}} | ", process.stdout), daemon=True)
            for name, process in started
        ]
        for reader in readers:
            reader.start()
        code = _code(started[-1][1].wait())
        readers[-1].join()
        return code


def probe(options: argparse.Namespace) -> int:
    """Measure what each host's router does; 1 when one does not do what its profile says."""
    chosen = scenario(options.scenario)
    outer = chosen.topology.routers
    routers = {router.name: router for router in all_routers(outer)}
    wrong = 0
    with _lab(chosen) as lab:
        from netlab.probe import ProbeError  # noqa: PLC0415 - needs pyroute2
        from netlab.prove import probe_port_mapper, prove  # noqa: PLC0415

        for name, attached in lab.plan.attachments.items():
            router = routers.get(attached.port.node)
            if router is None or attached.host.node not in lab.hosts:
                continue
            node = lab.host(attached.host.node)
            (host,) = (each for each in router.lan.hosts if each.name == node.name)
            way = way_out(outer, router)
            for version in Version:
                profile = expected(way, host, version)
                if profile is None:
                    continue
                try:
                    address = node.on(attached.host.interface, version)[0]
                    measured = prove(lab, node.name, profile, address=address)
                    if len(way) > 1 and router.nat is not None and router.nat.port_mapper:
                        mapper = probe_port_mapper(lab, node.name, address=address)
                        measured = replace(measured, port_mapper=mapper)
                except ProbeError as error:
                    raise Refused(f"{name} cannot be measured: {error}") from None
                ip = " IPv6" if version is Version.IPV6 else ""
                as_it = "as" if measured == profile else "NOT as"
                print(f"{name}{ip}: {', '.join(nat_words(measured))} ({as_it} {profile.name} has it)", flush=True)
                wrong += measured != profile
    return 1 if wrong else 0


def draw_scenario(options: argparse.Namespace) -> int:
    """Write the picture to a file or to stdout."""
    chosen = scenario(options.scenario)
    picture = draw(chosen.topology, plan(chosen.topology), chosen.summary)
    if options.output is None:
        print(picture, end="")
    else:
        options.output.write_text(picture, encoding="utf-8")
    return 0


def run_matrix(options: argparse.Namespace) -> int:
    """Run every pair of kinds, tell each result on stderr, write the page."""
    kinds = [kind(name) for name in options.kinds] or list(KINDS)
    if not options.output.parent.is_dir():
        raise Refused(f"there is no folder {options.output.parent} to write {options.output.name} to")
    if importlib.util.find_spec("p2p") is None:
        raise Refused("the matrix runs p2p, and the Python package p2p is not installed here")
    _enter_where_needed()
    require()
    from netlab.matrix import matrix  # noqa: PLC0415 - needs pyroute2

    results: list[Result] = []
    total = len(kinds) ** 2
    for result in matrix(kinds, size=options.size, jobs=options.jobs):
        results.append(result)
        spent = f" in {result.seconds:.2f} s" if result.seconds is not None else ""
        said = f"{result.path}{spent}" if result.path else f"no path ({result.words})"
        print(f"{len(results):3}/{total}  {result.left} x {result.right}: {said}", file=sys.stderr, flush=True)
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = f"Linux {os.uname().release}, {options.jobs} at a time"
    options.output.write_text(page(results, size=options.size, when=when, about=about), encoding="utf-8")
    print(options.output)
    return 0


def split_commands(chosen: Scenario, words: Sequence[str]) -> list[tuple[str, str]] | None:
    """``HOST=CMD`` words as (host, command line); None when it is one plain command.

    Raises ``Usage`` or ``UnknownName`` when the first word names a host of the scenario and another does not.
    """
    split = [word.partition("=") for word in words]
    names = list(plan(chosen.topology).nodes)
    if split[0][0] not in names or not split[0][1]:
        return None
    for name, equals, _ in split:
        if not equals:
            raise Usage(f"{name!r} names no host: write each as HOST='COMMAND ARGUMENT'")
        _check_host(chosen, name)
    return [(name, line) for name, _, line in split]


def _enter_where_needed() -> bool:
    """Enter a user namespace where labs need one, saying what has to be left out there; whether it did."""
    try:
        entered = rootless.enter_where_needed()
    except ValueError as error:
        raise Usage(str(error)) from None
    if entered:
        print(f"Without root, in a user namespace: {'; '.join(lacking(NEEDS))}.", file=sys.stderr)
    return entered


@contextmanager
def _lab(chosen: Scenario) -> Iterator[Lab]:
    _enter_where_needed()
    require()  # says what is missing before anything imports it
    from netlab.kernel import LabError  # noqa: PLC0415 - needs pyroute2
    from netlab.lab import Lab  # noqa: PLC0415

    try:
        with Lab(chosen.topology) as lab:
            yield lab
    except LabError as error:
        raise Refused(str(error)) from None


def _captures(lab: Lab, directory: Path | None) -> AbstractContextManager[object]:
    if directory is None:
        return nullcontext()
    if shutil.which("tcpdump") is None:
        raise Refused("--captures needs the program tcpdump (apt-get install tcpdump)")
    return lab.capture_all(directory)


def _check_host(chosen: Scenario, name: str) -> None:
    names = list(plan(chosen.topology).nodes)
    if name not in names:
        raise UnknownName("host", name, names)


def _popen(node: Node, argv: Sequence[str], **kwargs: object) -> subprocess.Popen[str]:
    try:
        return node.popen(argv, **kwargs)
    except OSError as error:
        raise Refused(f"{node.name} cannot run {shlex.join(argv)}: {error.strerror}") from None


def _shell(lab: Lab, name: str) -> int:
    shell = os.environ.get("SHELL", "/bin/sh")
    print(f"This is {name}. Leaving the shell takes the lab down.", file=sys.stderr, flush=True)
    # Ctrl-C is for what runs in the shell. A handler, since what is ignored stays so in children.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = _popen(lab.host(name), [shell], env=_environment(lab))
        return _code(process.wait())
    finally:
        signal.signal(signal.SIGINT, before)


def _environment(lab: Lab) -> dict[str, str]:
    """Ours, and NETLAB_<NODE> with the first address of each node, NETLAB_<NODE>_IPV6 with its first of IPv6."""
    nodes = {f"NETLAB_{name.upper()}": lab.host(name) for name in lab.plan.nodes}
    ipv6 = {f"{name}_IPV6": node.ipv6[0] for name, node in nodes.items() if node.ipv6}
    return dict(os.environ) | {name: node.address for name, node in nodes.items()} | ipv6


def _relay(prefix: str, stream: IO[str]) -> None:
    for line in stream:
        print(prefix + line, end="" if line.endswith("\n") else "\n", flush=True)


def _code(status: int) -> int:
    """As a shell has it: 128 + N for a program that signal N ended."""
    return status if status >= 0 else 128 - status


def _sorry(words: str, code: int) -> int:
    print(f"netlab: {words}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m netlab", description="NATs on the kernel you have.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(command=function)
        if name not in {"list", "matrix"}:
            made.add_argument("scenario", metavar="SCENARIO", help="a name that `list` prints")
        return made

    listed = command("list", list_scenarios, "Print the scenarios, or those with all these words.")
    listed.add_argument("words", metavar="WORD", nargs="*")
    shell = command("up", up, "Bring a scenario up and hold it.")
    shell.add_argument("--shell", metavar="HOST", help="with a shell in this machine; leaving it ends the lab")
    inside = command(
        "run",
        run,
        "Run a command in alice (run SCENARIO -- CMD ARGUMENT...), or one shell line in each of several machines"
        " (run SCENARIO -- server='python3 -m http.server' alice='...'); ends with the last one. NETLAB_SERVER,"
        " NETLAB_BOB, ... hold addresses.",
    )
    inside.add_argument(
        "--captures", metavar="DIR", type=Path, help="write MACHINE.pcap of each machine and timeline.jsonl there"
    )
    command("probe", probe, "Measure what the routers do, and compare with what they should.")
    command("draw", draw_scenario, "Write the topology as SVG.").add_argument(
        "-o", dest="output", metavar="FILE.svg", type=Path, help="default: stdout"
    )
    table = command("matrix", run_matrix, "Run p2p between every pair of NATs; write a page with the results.")
    table.add_argument("-o", dest="output", metavar="FILE.html", type=Path, default=DEFAULT_PAGE)
    names = ", ".join(slug(nat.name) for nat in KINDS)
    table.add_argument("--kinds", metavar="KIND", nargs="+", default=[], help=f"default: all of {names}")
    table.add_argument("--size", metavar="BYTES", type=_positive, default=DEFAULT_SIZE, help="sent by each pair")
    table.add_argument("--jobs", metavar="N", type=_positive, default=1, help="pairs at once; they share the machine")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
