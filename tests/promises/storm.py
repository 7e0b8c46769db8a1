"""How long the storms are: `COATCHECK_STORM=100000` for a night, less for a quick look."""

import os

_GIVEN = os.environ.get("COATCHECK_STORM")
_IN_CI = os.environ.get("HYPOTHESIS_PROFILE") == "ci"

STORM = int(_GIVEN or 10_000)
"""Operations in a storm."""

CANCELLATIONS = 10_000 if _IN_CI and not _GIVEN else STORM // 4
"""Cancellations in a storm of them, of each kind of store (R2: 10,000): as many in CI, as for random histories."""

LONG_STORM = 50_000 if _IN_CI and not _GIVEN else STORM
"""Operations at least in the storm on our own connection (R1)."""
