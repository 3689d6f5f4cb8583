"""What people and programs read of a run: screen, --json events, words."""
