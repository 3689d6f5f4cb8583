"""The rendezvous server's loop, sockets and log."""
