"""The fixtures of the stores."""

from tests.servers.fixtures import (
    cluster,
    open_sessions,
    open_store,
    own_valkey,
    prefix,
    sentinels,
    valkey,
    valkey_url,
)

__all__ = ["cluster", "open_sessions", "open_store", "own_valkey", "prefix", "sentinels", "valkey", "valkey_url"]
