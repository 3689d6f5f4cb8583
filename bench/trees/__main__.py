"""Folders, resume, changes of address and pipes at full size, across two port-restricted NATs: python -m bench.trees

    python -m bench.trees               all parts: tree, kills, changes, pipe (ten minutes)
    python -m bench.trees kills pipe    these parts only
    python -m bench.trees --small       every part in seconds
    python -m bench.trees tree --files 1000000 --sparse 0 --largest 1024
                                        a million files; on tmpfs each takes 4 KiB at least, here and there: 9 GB

tree      100,000 small files, links, odd names, and a sparse file; then both trees are compared, node by node
kills     kill -9 of either side, by turns, at 20 random moments; the same two commands again each time
changes   ten changes of address and forgotten mappings during one transfer
pipe      a producer | send - ... recv --out - | a consumer, 20 GB; and what becomes of a producer that fails

Exit code 1 when something is not equal, or a bound does not hold. Needs root, and room on --directory: half a
gigabyte for the tree twice, and twice --size.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import machine
from bench.measure import MeasuringError
from bench.rivals.ours import rendezvous
from bench.trees import changes, kills, pipe, whole
from bench.trees.forest import LARGEST, Forest
from bench.trees.sides import Sides, Verdict
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED
from netlab.requirements import missing_requirements
from netlab.topology import two_nats

MB = 1_000_000
Part = Callable[[Sides, argparse.Namespace], Iterator[str | Verdict]]
PARTS: dict[str, Part] = {
    "tree": lambda sides, options: whole.run(
        sides, Forest(options.files, options.folders, options.sparse * MB, options.seed, options.largest)
    ),
    "kills": lambda sides, options: kills.run(
        sides, options.size * MB, options.kills, options.seed, options.kills_rate
    ),
    "changes": lambda sides, options: changes.run(sides, options.changes, options.changes_rate, options.seed),
    "pipe": lambda sides, options: pipe.run(sides, options.pipe * MB),
}
WHOLE = {"files": 100_000, "folders": 2_000, "sparse": 5_000, "size": 2_000, "kills": 20, "changes": 10, "pipe": 20_000}
SMALL = {
    "files": 1_000,
    "folders": 40,
    "sparse": 50,
    "size": 60,
    "kills": 2,
    "changes": 2,
    "pipe": 200,
    "kills_rate": "20M",  # so that there is a moment for each
}


def main() -> int:
    options = _options()
    if missing := missing_requirements():
        print("The benchmark cannot run here: " + "; ".join(missing), file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):  # what was made goes away
        # A background job of a shell ignores Ctrl-C, and so would all that it starts, but for this.
        signal.signal(number, signal.default_int_handler)
    for name, value in machine.describe().items():
        print(f"{name}: {value}")
    failed = False
    for part in options.parts:
        print(f"\n{part}", flush=True)
        with (
            tempfile.TemporaryDirectory(dir=options.directory, prefix="p2p-trees-") as folder,
            Lab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED)) as lab,
            rendezvous(lab) as server,
        ):
            try:
                for said in PARTS[part](Sides(lab, server, Path(folder)), options):
                    print(f"  {said}", flush=True)
                    failed |= isinstance(said, Verdict) and not said.holds
            except MeasuringError as error:
                print(f"  FAILED: {error}", flush=True)
                failed = True
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.trees", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--small", action="store_true", help="every part in seconds, where no option says more")
    parser.add_argument("--directory", default="/dev/shm", help="where the files lie (default: /dev/shm)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, help="small files of the tree (default: 100,000)")
    parser.add_argument("--folders", type=int, help="folders of the tree (default: 2,000)")
    parser.add_argument("--sparse", type=int, metavar="MB", help="of the tree's sparse file (default: 5,000; 0: none)")
    parser.add_argument(
        "--largest",
        type=int,
        metavar="BYTES",
        default=LARGEST,
        help=f"of the tree's small files (default: {LARGEST:,})",
    )
    parser.add_argument("--size", type=int, metavar="MB", help="what is interrupted by kills (default: 2,000)")
    parser.add_argument("--kills", type=int, help="how often (default: 20)")
    parser.add_argument("--kills-rate", metavar="RATE", help="--limit-rate of the interrupted runs (default: none)")
    parser.add_argument("--changes", type=int, help="changes of address (default: 10)")
    parser.add_argument("--changes-rate", metavar="MB", type=int, default=8, help="MB a second meanwhile (default: 8)")
    parser.add_argument("--pipe", type=int, metavar="MB", help="what goes through the pipe (default: 20,000)")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    for name, value in (SMALL if options.small else WHOLE).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; what was made is gone.")
