"""The protocol core: pure state machines. No socket, clock, entropy or file is touched in here.

Time is an argument (float seconds of one monotonic clock), entropy is an argument
(`random_bytes(n) -> bytes`), and every machine has only four kinds of method:
input (`handle_*`), command (`start`, `close`, ...), output (`poll_*`) and deadline (`poll_timeout`).
"""
