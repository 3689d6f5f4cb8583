"""Both screens of real programs, recorded: python -m docs.screens writes docs/screens.md."""
