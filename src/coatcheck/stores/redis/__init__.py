"""Sessions in Redis or Valkey: one hash per session, one hash field per session field."""

from coatcheck.stores.redis.store import RedisStore
from coatcheck.stores.redis.sync_store import SyncRedisStore

__all__ = ["RedisStore", "SyncRedisStore"]
