"""Knowing one's own NAT from samples: docs/connecting.md."""
