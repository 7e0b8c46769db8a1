"""For authors of stores: one suite that holds any store against the contract of `coatcheck.stores.interface`.

Subclass `AsyncStoreContract` or `SyncStoreContract` in a test file of yours and say how to open the store. pytest then runs
every story of the contract against it, and random histories of sessions against a plain model (`StoreMachine`).

    >>> from coatcheck.stores.memory import AsyncMemoryStore
    >>> from coatcheck.testing import AsyncStoreContract
    >>> class TestMyStore(AsyncStoreContract):
    ...     def open_store(self):
    ...         return AsyncMemoryStore()
    >>> TestMyStore().test_logout_is_final()  # as pytest runs it, and all the others

It needs the extra `coatcheck[testing]` (pytest and hypothesis), and no plugin: each story runs on an event loop of its own.
A store whose clock can be moved is tested without waiting; see `StoreContract.advance`. How many random histories there
are, and how long, is up to hypothesis's settings profile.

`a_record` and `a_commit` make valid arguments for further tests of your own:

    >>> from coatcheck.testing import a_commit, a_record
    >>> new = a_record(fields={"hits": "2"})
    >>> a_commit(new, increments={"hits": 1}).proof == new.secret_hash
    True
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
