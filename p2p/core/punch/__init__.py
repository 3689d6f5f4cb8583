"""UDP hole punching: descriptions, connectivity checks, nomination."""
