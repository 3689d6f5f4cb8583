"""Offer, answer, files in order, verified end: the transfer machines (docs/protocol.md section 7)."""
