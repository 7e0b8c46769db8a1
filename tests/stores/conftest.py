"""The fixtures of the stores."""

from tests.servers.fixtures import open_sessions, open_store, own_valkey, prefix, valkey, valkey_url

__all__ = ["open_sessions", "open_store", "own_valkey", "prefix", "valkey", "valkey_url"]
