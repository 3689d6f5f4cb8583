"""Two who remember each other: keys that are exchanged once, under a code, and take its place from then on."""
