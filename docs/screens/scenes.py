"""The scenes in which all goes well, or in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from docs.screens.stage import CODE, Stage
from docs.screens.terminal import exit_codes

Act = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Scene:
    """`name` is for the command line; `about` says what happens that no screen shows."""

    name: str
    title: str
    about: str
    act: Act


def whole_run(stage: Stage) -> None:
    stage.file("holiday.mov", 60_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types("p2p send alice bob holiday.mov --limit-rate 12M")
    code = alice.sees(r"this code when it asks:  (\S+)")[1]
    alice.sees("Waiting for bob")
    bob.types("p2p recv bob alice")
    bob.sees("screen shows: ")
    bob.types(code)
    bob.sees(r"Take it\?")
    bob.types("y")
    exit_codes(bob, alice)
    stage.shoot("alice's last line", alice, *MOMENTS)
    stage.shoot("bob's last line", bob, *MOMENTS)


MOMENTS = (25, 50, 75)  # percent


def one_time_code(stage: Stage) -> None:
    stage.file("holiday.mov", 5_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types("p2p send holiday.mov")
    code = alice.sees(r"recv (\d+-\S+)")[1]
    alice.sees("Waiting for")
    bob.types(f"p2p recv {code}")
    bob.sees(r"Take it\?")
    bob.types("y")
    exit_codes(bob, alice)


def folder(stage: Stage) -> None:
    for number in range(1, 41):
        stage.file(f"holiday/day {number % 3 + 1}/picture {number:02}.jpg", 200_000, seed=number)
    stage.file("notes.txt", 1_200)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(f"p2p send alice bob holiday/ notes.txt --exclude '*1.jpg' --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --out inbox --code {CODE}")
    bob.sees(r"Take it\?")
    bob.types("y")
    exit_codes(bob, alice)


def text(stage: Stage) -> None:
    alice, bob = stage.person("alice"), stage.person("bob")
    stage.home("alice")
    alice.types(f"p2p send alice bob --text 'See you at eight, platform 2.' --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --code {CODE}")
    bob.sees(r"Take it\?")
    bob.types("y")
    exit_codes(bob, alice)


def pipe(stage: Stage) -> None:
    for number in range(1, 11):
        stage.file(f"holiday/picture {number:02}.jpg", 2_000_000, seed=number)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(f"tar c holiday | p2p send alice bob - --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --out - --code {CODE} | tar x")
    exit_codes(bob, alice)
    bob.types("ls holiday | head -2")
    bob.ends()


def killed(stage: Stage) -> None:
    stage.file("holiday.mov", 40_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    send, receive = f"p2p send alice bob holiday.mov --code {CODE}", f"p2p recv bob alice --yes --code {CODE}"
    alice.types(f"{send} --limit-rate 8M")
    alice.sees("Waiting for bob")
    bob.types(receive)
    bob.sees(r"\b5\d %")
    bob.kills()
    bob.asks_for_exit_code()
    alice.sees("The connection was lost")
    alice.stops()
    alice.asks_for_exit_code()
    alice.types(send)
    alice.sees("Waiting for bob")
    bob.types(receive)
    exit_codes(bob, alice)


def sender_killed(stage: Stage) -> None:
    stage.file("holiday.mov", 40_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    send = f"p2p send alice bob holiday.mov --limit-rate 8M --code {CODE}"
    alice.types(send)
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --code {CODE}")
    alice.sees(r"\b5\d %")
    alice.kills()
    alice.asks_for_exit_code()
    bob.sees("The connection was lost")
    alice.types(send)
    exit_codes(bob, alice)


def lost_path(stage: Stage) -> None:
    stage.file("holiday.mov", 40_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(f"p2p send alice bob holiday.mov --limit-rate 4M --idle-timeout 6 --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --idle-timeout 6 --code {CODE}")
    bob.sees(r"\b3\d %")
    stage.lab.link_down("bob")
    for person in (alice, bob):
        person.sees("The connection was lost")
    bob.sees("Looking for alice again, for")
    stage.lab.link_up("bob")
    exit_codes(bob, alice)
    stage.shoot("bob's last line", bob, 30, "Looking for alice again", 60)


def rebound(stage: Stage) -> None:
    stage.file("holiday.mov", 40_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    alice.types(f"p2p send alice bob holiday.mov --limit-rate 8M --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --code {CODE}")
    bob.sees(r"\b3\d %")
    stage.lab.rebind("left")
    exit_codes(bob, alice)


def narrow(stage: Stage) -> None:
    stage.file("holiday.mov", 40_000_000)
    alice, bob = stage.person("alice", columns=40), stage.person("bob", TERM="dumb", LANG="C")
    alice.types(f"p2p send alice bob holiday.mov --limit-rate 8M --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --code {CODE}")
    bob.sees(r"Take it\?")
    bob.types("y")
    exit_codes(bob, alice)
    stage.shoot("alice's last line", alice, *MOMENTS)


SCENES = (
    Scene(
        "file",
        "A file, from start to end",
        "Nothing is agreed on beforehand but the two names and the server. alice reads the code to bob on the phone.",
        whole_run,
    ),
    Scene("code", "A file without names", "alice sends bob the whole command, code and all.", one_time_code),
    Scene(
        "folder",
        "A folder and a file beside it",
        "Both have agreed on the code before. Of the 40 pictures, the four whose names end in 1 stay at home.",
        folder,
    ),
    Scene("text", "A text", "The text is on bob's stdout, all the rest on stderr.", text),
    Scene("pipe", "Pipes", "Neither side has the archive on disk.", pipe),
    Scene(
        "killed",
        "The receiver is killed, and both run the same command again",
        "`kill -9` in the middle. alice is told what to do, and does it. (`--limit-rate` gives us time to kill.)",
        killed,
    ),
    Scene(
        "sender-killed",
        "The sender is killed, and runs its command again",
        "`kill -9` in the middle. bob types nothing: his command still runs, and meets the new one. (A program that is "
        "killed cannot take its last line away.)",
        sender_killed,
    ),
    Scene(
        "lost",
        "The path is lost, and found again",
        "bob's cable is pulled out in the middle, and put back once both have noticed. Nobody types anything.",
        lost_path,
    ),
    Scene(
        "moved",
        "Another address in mid-transfer",
        "alice's router gets another address from her provider, and forgets all its mappings. Nobody types anything.",
        rebound,
    ),
    Scene(
        "narrow",
        "A narrow terminal, and one that can do nothing",
        "alice's has 40 columns. On bob's no line can be written over (`TERM=dumb`), and only ASCII can be said "
        "(`LANG=C`): how far it is, is said after a second, and then every ten. No screen has colours anywhere.",
        narrow,
    ),
)
