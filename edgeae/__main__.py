"""`python -m edgeae` is the command line."""

from edgeae.cli import main

main(prog_name="edgeae")
