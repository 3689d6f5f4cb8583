"""The receiving end of a transfer: what arrives is checked, stored, named and remembered."""
