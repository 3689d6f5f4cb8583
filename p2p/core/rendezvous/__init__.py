"""Rendezvous: how two peers meet at a server that anyone can host (docs/protocol.md, section 1)."""
