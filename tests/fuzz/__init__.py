"""Fuzzing what reads graphs and bundles: `python -m tests.fuzz --hours 8`; the tests run a few seconds of it."""
