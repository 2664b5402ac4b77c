"""The command line: a skin over the library. Commands are imported when they run, so `--help` stays light."""

from edgeae.cli.group import main

__all__ = ["main"]
