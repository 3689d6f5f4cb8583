"""Finding the friend on the network that both are on, without a server: docs/protocol.md, section 10."""
