"""STUN: what others see of our address (RFC 8489), and how the NAT before us behaves (RFC 5780)."""
