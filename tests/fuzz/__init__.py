"""Fuzzing what reads a graph: `python -m tests.fuzz --hours 8`; tests/test_guard.py runs a few seconds of it."""
