"""The documents, and what makes some of them."""
