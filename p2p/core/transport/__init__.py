"""Reliable, paced, encrypted records over UDP datagrams (docs/transport.md)."""
