"""Plays a scene, and makes its section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docs.screens.page import compose
from docs.screens.scenes import Scene
from docs.screens.stage import stage
from docs.screens.terminal import ScreenError, Silence


@dataclass(frozen=True, slots=True)
class Recorded:
    scene: Scene
    section: str
    silences: Sequence[Silence]


def record(scene: Scene) -> Recorded:
    """Raises ScreenError with the other screens as well, MissingRequirements, LabError."""
    with stage() as made:
        try:
            scene.act(made)
        except ScreenError as error:
            others = "\n\n".join(f"{person.who}:\n{person.text}" for person in made.people)
            raise ScreenError(f"scene {scene.name}: {error}\n\nAll screens:\n{others}") from None
        screens = [(person.title, person.text, person.columns) for person in made.people]
        silences = [silence for person in made.people for silence in person.silences]
        section = compose(scene.title, scene.about, screens, made.shots)
    return Recorded(scene, section, silences)
