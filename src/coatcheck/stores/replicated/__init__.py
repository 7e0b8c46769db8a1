"""All-to-all: every web server holds every session. Needs the extra `replicated`."""

from coatcheck.stores.replicated.store import ReplicatedStore
from coatcheck.stores.replicated.sync_store import SyncReplicatedStore

__all__ = ["ReplicatedStore", "SyncReplicatedStore"]
