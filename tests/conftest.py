"""What all tests share: the lab's fixtures, and no leftovers of the person's own settings."""

from __future__ import annotations

pytest_plugins = ["netlab.pytest_plugin"]
