"""The store that docs/stores.md shows, held against the contract as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from coatcheck.stores.interface import AsyncStore
from coatcheck.testing import AsyncStoreContract

PAGE = Path(__file__).parents[2] / "docs" / "stores.md"


def _documented_store() -> Any:
    [snippet] = re.findall(r"^```python\n(import time\n.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(snippet, PAGE, "exec"), names)
    return names["DictStore"]


class TestTheDocumentedStore(AsyncStoreContract):
    def open_store(self) -> AsyncStore:
        store: AsyncStore = _documented_store()()
        return store
