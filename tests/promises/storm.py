"""How long the storms are: `COATCHECK_STORM=100000` for a night, less for a quick look."""

import os

_GIVEN = os.environ.get("COATCHECK_STORM")
_IN_CI = os.environ.get("HYPOTHESIS_PROFILE") == "ci"

STORM = int(_GIVEN or 10_000)
"""Operations in a storm."""

CANCELLATIONS = int(_GIVEN or (50_000 if _IN_CI else STORM))
"""Operations in the storm of cancellations (R1) on our own connection: more of them in CI, as for random histories."""
