"""What sessions hold besides cart and name. Pure."""

from __future__ import annotations

import base64
import random


def content(size: int, seed: str) -> str:
    """Text of `size` characters, each of which JSON writes as one byte. The same seed gives the same text.

    It does not compress: PostgreSQL would otherwise keep 10 kB of one letter in 200 bytes, and no figure of memory or
    network could be held against another store's.
    """
    return base64.urlsafe_b64encode(random.Random(seed).randbytes(size * 3 // 4 + 3)).decode()[:size]
