"""The sending end of a transfer: what is there is found, counted and read."""
