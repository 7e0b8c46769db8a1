"""The clock of deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

monotonic: Final[Callable[[], float]] = time.monotonic
"""`time.monotonic`. Compiled code finds a `Final` in its place, and would look for an import by its name each time."""
