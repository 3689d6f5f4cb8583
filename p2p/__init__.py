"""Send files straight from one person's machine to another's."""

__version__ = "0.1.0"
