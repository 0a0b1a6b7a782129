"""Hostile bytes for everything that reads bytes which we did not write (docs/testing.md, Fuzzing).

``python -m tests.fuzz`` runs the targets; ``test_targets`` tries each of them with its seeds.
"""
