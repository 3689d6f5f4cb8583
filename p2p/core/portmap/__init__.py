"""Asks the router to let strangers in to one UDP port: PCP, NAT-PMP and UPnP IGD, raced (docs/connecting.md)."""
