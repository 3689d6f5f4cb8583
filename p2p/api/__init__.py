"""The transfer as a function of a program: what `p2p` offers to others (docs/python.md)."""
