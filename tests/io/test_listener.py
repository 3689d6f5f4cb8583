"""No descriptor left for a connection: the listener rests instead of keeping a processor busy, and says so once."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
from collections.abc import Iterator

from p2p.io.net.listener import REST, Listener

PATIENCE = 20.0


@contextlib.contextmanager
def out_of_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_rests_and_goes_on() -> None:
    now = 100.0
    told: list[str] = []
    taken: list[socket.socket] = []
    with selectors.DefaultSelector() as selector, socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        listener = Listener(
            server, selector, lambda made, _: taken.append(made), batch=4, clock=lambda: now, tell=told.append
        )

        def turn(timeout: float) -> int:
            ready = selector.select(timeout)
            for key, mask in ready:
                key.data(mask)
            return len(ready)

        with socket.create_connection(address), socket.create_connection(address):
            with out_of_descriptors():
                for _ in range(3):
                    assert turn(PATIENCE) == 1
                    assert turn(0.0) == 0, "it spins"
                    assert listener.poll_timeout() == now + REST
                    listener.handle_timeout(now + REST - 0.001)
                    assert turn(0.0) == 0
                    now += REST
                    listener.handle_timeout(now)
                assert turn(PATIENCE) == 1
            assert taken == []
            listener.handle_timeout(now + REST)
            assert turn(PATIENCE) == 1
            assert len(taken) == 2
            assert listener.poll_timeout() is None
            assert len(told) == 1
            assert "Too many open files" in told[0]
        listener.close()
        assert not selector.get_map()
        for made in taken:
            made.close()


def test_it_is_closed_while_it_rests() -> None:
    with selectors.DefaultSelector() as selector, socket.create_server(("127.0.0.1", 0)) as server:
        listener = Listener(server, selector, lambda *_: None, batch=1, clock=lambda: 0.0, tell=lambda _: None)
        with socket.create_connection(server.getsockname()), out_of_descriptors():
            [(key, mask)] = selector.select(PATIENCE)
            key.data(mask)
            listener.close()
        assert not selector.get_map()
