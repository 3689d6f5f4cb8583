"""Holds a UDP port open at the router until SIGINT: PORT LIFETIME TOWARDS [REFLEXIVE]. Events as JSON, one a line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import selectors
import socket
import sys
import time

from p2p.io.net.port_mapper import PortMapper, find_router


def say(name: str, **fields: object) -> None:
    print(json.dumps({"event": name, **fields}, default=lambda protocol: protocol.value), flush=True)


def main(port: str, lifetime: str, towards: str, reflexive: str | None = None) -> None:
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        inside.bind(("0.0.0.0", int(port)))
        selector.register(inside, selectors.EVENT_READ, lambda _: say("in", data=inside.recv(64).decode()))
        mapper = PortMapper(selector, int(port), find_router(towards), lifetime=int(lifetime))
        try:
            mapper.start()
            if reflexive is not None:
                mapper.set_reflexive(reflexive)
            while True:
                while (event := mapper.poll_event()) is not None:
                    say(type(event).__name__, **dataclasses.asdict(event))
                at = mapper.poll_timeout()
                for key, mask in selector.select(None if at is None else max(0.0, at - time.monotonic())):
                    key.data(mask)
                mapper.handle_timeout(time.monotonic())
        finally:
            start = time.monotonic()
            mapper.close()
            say("closed", seconds=time.monotonic() - start)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
