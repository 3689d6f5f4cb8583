"""What all tests share: the lab's fixtures, no leftovers of the person's own settings, and no clock."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["netlab.pytest_plugin"]

# A deadline is a timed assert: on a busy machine it fails where nothing is wrong.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
