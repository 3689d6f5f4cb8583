"""The scenes in which something goes wrong that a person can meet."""

from __future__ import annotations

import os
from contextlib import suppress

from docs.screens.scenes import Scene
from docs.screens.stage import CODE, HOMES, WHEN, Stage
from docs.screens.terminal import Terminal, exit_codes

SIZE = 40_000_000  # bytes: long enough to be stopped
STICK = f"{HOMES}/bob/stick"


def _stick(size: str) -> str:
    """Gives bob a memory stick of that size."""
    return f"mkdir {STICK} && mount -t tmpfs -o size={size} tmpfs {STICK}"


def _offered(stage: Stage, *options: str, size: int = SIZE) -> tuple[Terminal, Terminal]:
    """alice sends, and bob is asked."""
    stage.file("holiday.mov", size)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(" ".join(["p2p send alice bob holiday.mov", *options, "--code", CODE]))
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --code {CODE}")
    bob.sees(r"Take it\?")
    return alice, bob


def wrong_code(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types("p2p send alice bob holiday.mov")
    code = alice.sees(r"this code when it asks:  (\S+)")[1]
    alice.sees("Waiting for bob")
    bob.types("p2p recv bob alice")
    bob.sees("screen shows: ")
    bob.types("ember-walnut-tiger")
    bob.asks_for_exit_code()
    bob.types("p2p recv bob alice --yes")
    bob.sees("screen shows: ")
    bob.types(code)
    exit_codes(bob, alice)


def burnt_code(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types("p2p send alice bob holiday.mov")
    alice.sees("Waiting for bob")
    for _ in range(3):
        bob.types("p2p recv bob alice --code ember-walnut-tiger")
        bob.ends()
    exit_codes(bob, alice)


def refused(stage: Stage) -> None:
    alice, bob = _offered(stage, "--once")
    bob.types("n")
    exit_codes(bob, alice)


def mistaken(stage: Stage) -> None:
    alice, bob = _offered(stage, size=1_000_000)
    bob.types("n")
    bob.asks_for_exit_code()
    alice.sees("Waiting 60 seconds")
    bob.types(f"p2p recv bob alice --out inbox --code {CODE}")
    bob.sees(r"Take it\?")
    bob.types("yes")
    exit_codes(bob, alice)


def sender_stops(stage: Stage) -> None:
    alice, bob = _offered(stage, "--limit-rate 8M")
    bob.types("y")
    _stops(alice, bob)


def receiver_stops(stage: Stage) -> None:
    alice, bob = _offered(stage, "--limit-rate 8M")
    bob.types("y")
    _stops(bob, alice)


def _stops(person: Terminal, other: Terminal) -> None:
    """In the middle, by Ctrl-C."""
    person.sees(r"\b3\d %")
    person.stops()
    exit_codes(person, other)


def disk_full(stage: Stage) -> None:
    stage.file("holiday.mov", SIZE)
    alice = stage.person("alice")
    bob = stage.person("bob", prepare=_stick("30M"))
    alice.types(f"p2p send alice bob holiday.mov --once --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --out stick --code {CODE}")
    exit_codes(bob, alice)


def disk_fills_up(stage: Stage) -> None:
    stage.file("holiday.mov", SIZE)
    alice = stage.person("alice")
    bob = stage.person("bob", prepare=_stick("50M"))
    alice.types(f"p2p send alice bob holiday.mov --limit-rate 8M --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --out stick --code {CODE}")
    bob.sees(r"\b3\d %")
    with suppress(OSError), bob.place(f"{STICK}/other").open("wb") as file:  # until it is full
        file.write(bytes(SIZE))
    exit_codes(bob, alice)


def nobody(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    alice = stage.person("alice")
    bob = stage.person("bob")
    alice.types("p2p send alice bob holiday.mov --timeout 3")
    alice.asks_for_exit_code()
    bob.types(f"p2p recv bob alice --timeout 3 --code {CODE}")
    bob.asks_for_exit_code()


def no_server(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    stage.stop_server()
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types("p2p send alice bob holiday.mov --timeout 5")
    stage.lab.blackhole("bob")
    bob.types(f"p2p recv bob alice --timeout 5 --code {CODE}")
    exit_codes(alice, bob)


def mistyped(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    alice = stage.person("alice")
    alice.types("p2p send alice bob holiday.mov --server meet.exmaple.org")
    alice.asks_for_exit_code()
    alice.types("p2p send alice bob hoilday.mov")
    alice.asks_for_exit_code()
    alice.types("p2p send alice bob")
    alice.asks_for_exit_code()


def source_changes(stage: Stage) -> None:
    alice, bob = _offered(stage, "--limit-rate 8M")
    bob.types("y")
    alice.sees(r"\b3\d %")
    file = stage.home("alice") / "holiday.mov"
    with file.open("r+b") as written:
        written.write(b"another beginning")
    os.utime(file, (WHEN + 60, WHEN + 60))
    exit_codes(bob, alice)


def unstorable(stage: Stage) -> None:
    for number in range(1, 4):
        stage.file(f"holiday/picture {number}.jpg", 200_000, seed=number)
    stage.file("holiday/film.mov", 30_000_000)
    stage.file("holiday/x", 10_000)
    folder = os.fsencode(stage.home("alice") / "holiday")
    os.rename(folder + b"/x", folder + b"/caf\xe9.jpg")
    os.mkfifo(folder + b"/queue")
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(f"p2p send alice bob holiday --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types("ulimit -f 20480")
    bob.ends()
    bob.types(f"p2p recv bob alice --code {CODE}")
    bob.sees(r"Take it\?")
    bob.types("y")
    exit_codes(bob, alice)


def same_role(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(f"p2p recv alice bob --timeout 20 --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --timeout 20 --code {CODE}")
    exit_codes(bob, alice)


def seat_taken(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    stage.file("notes.txt", 1_200)
    alice = stage.person("alice")
    again, bob = stage.person("alice", where="alice, in another window"), stage.person("bob")
    alice.types(f"p2p send alice bob holiday.mov --code {CODE}")
    alice.sees("Waiting for bob")
    again.types(f"p2p send alice bob notes.txt --code {CODE}")
    again.sees("in our place")
    again.asks_for_exit_code()
    bob.types(f"p2p recv bob alice --yes --code {CODE}")
    exit_codes(bob, alice)


def _wall_in(stage: Stage) -> None:
    """Nothing leaves either network but what goes to the server."""
    server = stage.lab.host("server").address
    for router in ("left", "right"):
        stage.lab.host(router).iptables(f"iptables -I FORWARD -i lan ! -d {server} -j DROP")


def relayed(stage: Stage) -> None:
    _wall_in(stage)
    stage.file("holiday.mov", 1_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(f"p2p send alice bob holiday.mov --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --code {CODE}")
    exit_codes(bob, alice)


def no_path(stage: Stage) -> None:
    _wall_in(stage)
    stage.file("holiday.mov", 1_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(f"p2p send alice bob holiday.mov --no-relay --once --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --code {CODE}")
    exit_codes(bob, alice)


FAILURES = (
    Scene("wrong-code", "A wrong code, then the right one", "bob mishears the first word.", wrong_code),
    Scene("used-up", "Three wrong codes", "Somebody guesses in bob's place.", burnt_code),
    Scene("refused", "A no", "With `--once`, which ends alice's command at once.", refused),
    Scene(
        "mistaken",
        "A no that was none",
        "bob wants it in another folder. Without `--once` alice's command waits for that another minute.",
        mistaken,
    ),
    Scene("sender-stops", "Ctrl-C at the sender", "", sender_stops),
    Scene("receiver-stops", "Ctrl-C at the receiver", "", receiver_stops),
    Scene("no-room", "No room for it", "bob's USB stick has 30 MB left.", disk_full),
    Scene(
        "fills-up",
        "The disk fills up on the way",
        "There was room for it at first; another program of bob's takes it.",
        disk_fills_up,
    ),
    Scene("nobody", "Nobody there", "Without `--timeout` both would wait until Ctrl-C.", nobody),
    Scene(
        "no-server",
        "No server",
        "No server runs at that address. bob's network leads nowhere, besides.",
        no_server,
    ),
    Scene("mistyped", "Mistyped", "A server that has no address, a file that is not there, a word too few.", mistyped),
    Scene("same-role", "Both receive", "", same_role),
    Scene(
        "taken",
        "Two senders under the same two names",
        "alice forgets that she sends already. The first of the two has the seat, and keeps it.",
        seat_taken,
    ),
    Scene(
        "changed",
        "The file changes while it is sent",
        "Another program of alice's writes to the beginning of it, which has crossed already.",
        source_changes,
    ),
    Scene(
        "left-out",
        "Not everything can be sent, or stored",
        "alice's folder has a name that is not UTF-8, and a named pipe; bob's "
        "`ulimit -f` allows no file of more than 20 MiB.",
        unstorable,
    ),
    Scene("relayed", "No direct path", "Both networks let nobody out but to the server, which forwards.", relayed),
    Scene(
        "no-path",
        "No direct path, and no relay wanted",
        "The same networks.",
        no_path,
    ),
)
