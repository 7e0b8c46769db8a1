"""How long the tests take their time: `HYPOTHESIS_PROFILE=ci` searches more."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW_MACHINE = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)

settings.register_profile(
    "default", max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile(
    "ci", max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=_SLOW_MACHINE, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
