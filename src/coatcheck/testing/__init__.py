"""For authors of stores: one suite that holds any store against the contract of `coatcheck.stores.interface`.

Subclass `AsyncStoreContract` or `SyncStoreContract` in a test file of yours, say how to open the store, and pytest runs
every story of the contract against it, and then thousands of random histories (`StoreMachine`):

    from coatcheck.testing import AsyncStoreContract

    class TestMyStore(AsyncStoreContract):
        def open_store(self):
            return MyStore("https://store.example/")

It needs the extra `coatcheck[testing]` (pytest and hypothesis), and no plugin: the stories of asynchronous stores run on
event loops of their own. A store whose clock can be moved is tested without waiting; see `StoreContract.advance`.

`a_record` and `a_commit` make valid arguments for further tests of your own.
"""

import pytest

pytest.register_assert_rewrite("coatcheck.testing.contract", "coatcheck.testing.machine")

from coatcheck.testing.contract import (  # noqa: E402 - after the line that makes their assertions speak
    AsyncStoreContract,
    StoreContract,
    SyncStoreContract,
    a_commit,
    a_record,
)
from coatcheck.testing.machine import StoreMachine  # noqa: E402

__all__ = ["AsyncStoreContract", "StoreContract", "StoreMachine", "SyncStoreContract", "a_commit", "a_record"]
