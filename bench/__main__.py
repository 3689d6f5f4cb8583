"""p2p beside other programs that move files, in the networks of netlab. docs/performance.md says how it is measured.

    python -m bench                     everything (three quarters of an hour)
    python -m bench punched wan         these parts only: lan, punched, wan, files, relay, resources, server
    python -m bench --short             a few rows and runs; ratios judged with slack; exit code 1 when one fails

Needs root; what a rival needs is said where its figures would be.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from bench import (
    chart,
    company,
    direct,
    goals,
    introductions,
    links,
    machine,
    many,
    relay,
    report,
    resources,
    rows,
    wan,
)
from bench.copying import Rival
from bench.rivals.hyperdht import HyperDht
from bench.rivals.iroh import Iroh
from bench.rivals.quic import Quic
from bench.rivals.srt import Srt
from bench.rivals.wormhole import Wormhole
from bench.world import World
from netlab.requirements import missing_requirements

PARTS = ("lan", "punched", "wan", "files", "relay", "resources", "server")
SHORT_PARTS = PARTS[:-1]  # of the server's figures none is a ratio
MIB = 2**20


def main() -> int:
    options = _options()
    if missing := missing_requirements():
        print("The benchmark cannot run here: " + "; ".join(missing), file=sys.stderr)
        return 1
    about = machine.describe()
    for name, value in about.items():
        print(f"{name}: {value}")
    with World() as world:
        chosen = [row for row in _rows(world, options) if re.search(options.only, row.key)]
        if options.list:
            print("\n".join(row.key for row in chosen))
            return 0
        outcomes = rows.measure(chosen, options.runs, lambda line: print(line, file=sys.stderr, flush=True))
    print("\n".join(report.table(outcomes)))
    judged = list(goals.verdicts(outcomes, short=options.short))
    if judged:
        print("\nGoals")
        print("\n".join(map(str, judged)))
    found = {
        "machine": about,
        "runs": options.runs,
        "rows": rows.to_json(outcomes),
        "goals": [verdict.to_json() for verdict in judged],
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(chart.draw(found))
    failed = [outcome for outcome in outcomes.values() if outcome.failures]
    if options.short and any(verdict.passed is False for verdict in judged):
        return 1
    return 1 if failed else 0


def _rows(world: World, options: argparse.Namespace) -> list[rows.Row]:
    made: list[rows.Row] = []
    if "lan" in options.parts:
        made += direct.lan_rows(world, options.size)
    if "punched" in options.parts:
        made += direct.punched_rows(world, options.size, _rivals(short=options.short))
    if "wan" in options.parts:
        made += _wan_rows(world, options)
    if "files" in options.parts:
        made += many.rows(world, options.files)
    if "relay" in options.parts:
        made += relay.rows(world, short=options.short)
    if "resources" in options.parts:
        made += resources.rows(world, options.waiting, options.sparse)
    if "server" in options.parts:
        made += introductions.rows(world, options.watched)
    return made


def _wan_rows(world: World, options: argparse.Namespace) -> list[rows.Row]:
    far = wan.Far(world, options.seconds)
    if options.short:
        compared = [row for row in wan.rival_rows(far, []) if row.name != "iperf3 TCP, BBR"]
        return [*compared, *wan.bound_rows(far, (links.DEEP,)), company.share_row(far)]
    chosen = links.grid() if options.all else links.SELECTED
    return [*wan.rival_rows(far, _rivals(short=False)), *wan.bound_rows(far, chosen), *company.rows(far)]


def _rivals(*, short: bool) -> list[Rival]:
    """Those that are given public addresses. In the short form, those of which a goal speaks."""
    judged: list[Rival] = [Iroh(), Wormhole()]
    return judged if short else [*judged, Srt(), HyperDht(), Quic()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = f"of {', '.join(PARTS)} (default: all, with --short all but the server)"
    parser.add_argument("parts", nargs="*", metavar="PART", help=which)
    parser.add_argument("--short", action="store_true", help="the form for CI: few minutes")
    parser.add_argument("--runs", type=int, help="of every row, interleaved (default: 3, with --short 2)")
    parser.add_argument("--size", type=int, help="bytes of the file on the fast networks (default: 1 GiB)")
    parser.add_argument("--files", type=int, help="number of small files (default: 10,000, with --short 1,000)")
    parser.add_argument("--waiting", type=float, help="seconds that an idle peer is watched (default: 60, --short 15)")
    parser.add_argument("--sparse", type=float, help="GiB of the file for peak memory (default: 8, with --short 1)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for which a file fills a far link (default: 5)")
    parser.add_argument("--watched", type=float, default=3.0, help="seconds of each of the server's rows (default: 3)")
    parser.add_argument("--all", action="store_true", help="the whole grid of far links, not a selection")
    parser.add_argument("--only", default="", metavar="REGEX", help="only rows whose `group: name` it matches")
    parser.add_argument("--list", action="store_true", help="name the rows, run nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single figure there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart there")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    options.parts = options.parts or list(SHORT_PARTS if options.short else PARTS)
    options.runs = options.runs or (2 if options.short else 3)
    options.size = options.size or (256 * MIB if options.short else 1024 * MIB)
    options.files = options.files or (1000 if options.short else 10_000)
    options.waiting = options.waiting or (15.0 if options.short else 60.0)
    options.sparse = options.sparse or (1.0 if options.short else 8.0)
    return options


if __name__ == "__main__":
    sys.exit(main())
