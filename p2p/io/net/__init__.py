"""Sockets, addresses and interfaces of this machine, and the router's port mapper."""
