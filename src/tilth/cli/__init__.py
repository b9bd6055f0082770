"""The verbs. Rooms are imported inside the functions, so that `--help` answers at once."""

from tilth.cli.main import main

__all__ = ["main"]
