"""Tests with real programs take minutes and stand apart from the quick ones."""

import os
from unittest import SkipTest


def require_real() -> None:
    """Skip the test unless the environment variable ``LDMSJOB_REAL`` says that such are wanted."""
    if not os.environ.get("LDMSJOB_REAL"):
        raise SkipTest("LDMSJOB_REAL is not set: no tests with real programs")
