"""How long the storms are: `COATCHECK_STORM=100000` for a night, less for a quick look."""

import os

STORM = int(os.environ.get("COATCHECK_STORM", "10000"))
"""Operations in a storm."""
