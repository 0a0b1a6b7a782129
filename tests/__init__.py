"""Tests of ldmsjob; run with ``trial tests``.

Property tests take their number of examples from a hypothesis profile, chosen by the environment
variable ``HYPOTHESIS_PROFILE``: ``quick`` (the default), ``ci`` or ``long``.
"""

import os

from hypothesis import HealthCheck, settings

for _name, _examples in (("quick", 50), ("ci", 500), ("long", 20_000)):
    settings.register_profile(
        _name,
        max_examples=_examples,
        deadline=None,
        derandomize=_name != "long",
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
