"""Tests of the example; run them with ``python -m twisted.trial tests``."""
