"""The fixtures of the web stories."""

from tests.servers.fixtures import (
    mariadb,
    open_database,
    open_sessions,
    open_store,
    own_valkey,
    postgresql,
    prefix,
    valkey,
    valkey_url,
)

__all__ = [
    "mariadb",
    "open_database",
    "open_sessions",
    "open_store",
    "own_valkey",
    "postgresql",
    "prefix",
    "valkey",
    "valkey_url",
]
