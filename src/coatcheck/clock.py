"""The clock of deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

monotonic: Final[Callable[[], float]] = time.monotonic
"""`time.monotonic`. Compiled code looks for no name that is `Final`, but for that of an import each time."""
