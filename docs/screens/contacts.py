"""The scenes of two who remember each other."""

from __future__ import annotations

from docs.screens.scenes import Scene
from docs.screens.stage import CODE, Stage
from docs.screens.terminal import Terminal, exit_codes


def _remember(alice: Terminal, bob: Terminal) -> None:
    """Both, under a code that they have agreed on."""
    alice.types(f"p2p send alice bob holiday.mov --remember --code {CODE}")
    alice.sees("Waiting for bob")
    bob.types(f"p2p recv bob alice --yes --remember --code {CODE}")
    exit_codes(bob, alice)


def remembered(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    stage.file("more.mov", 2_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    _remember(alice, bob)
    alice.types("p2p send alice bob more.mov")
    alice.sees("Waiting for bob")
    bob.types("p2p recv bob alice --yes")
    exit_codes(bob, alice)


def changed_key(stage: Stage) -> None:
    stage.file("holiday.mov", 1_000_000)
    alice, bob = stage.person("alice"), stage.person("bob")
    _remember(alice, bob)
    bob.types("p2p contacts forget alice")
    bob.ends()
    _remember(alice, bob)
    alice.types("p2p contacts forget bob")
    alice.ends()
    _remember(alice, bob)


CONTACTS = (
    Scene(
        "remembered",
        "Remembered, and no code from then on",
        "Both have agreed on the first code before.",
        remembered,
    ),
    Scene(
        "changed-key",
        "A friend with another key",
        "bob forgets alice, as a new machine of his would, and wants to be remembered again. The code was right, so "
        "the file crosses; the new key is not taken until alice has forgotten the old one.",
        changed_key,
    ),
)
