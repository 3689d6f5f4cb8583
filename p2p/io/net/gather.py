"""Gathering writes to a stream socket."""

from __future__ import annotations

import socket
from collections import deque
from itertools import islice

MAX_IOVECS = 64  # buffers a write; the kernel's limit is 1024


def send_queued(sock: socket.socket, output: deque[memoryview]) -> int:
    """Hands over, and takes off the queue, what the socket takes now. Returns how many bytes. Raises OSError."""
    handed_over = 0
    try:
        while output:
            sent = sock.sendmsg(list(islice(output, MAX_IOVECS)))
            handed_over += sent
            while sent:
                if sent < len(output[0]):
                    output[0] = output[0][sent:]
                    break
                sent -= len(output.popleft())
    except (BlockingIOError, InterruptedError):
        pass
    return handed_over
