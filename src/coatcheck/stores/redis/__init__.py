"""Sessions in Redis or Valkey: one hash per session, one hash field per session field."""

from coatcheck.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
