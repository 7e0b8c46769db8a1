"""The fixtures of the stores."""

from tests.servers.fixtures import (
    cluster,
    mariadb,
    open_database,
    open_sessions,
    open_store,
    own_postgresql,
    own_valkey,
    postgresql,
    prefix,
    sentinels,
    valkey,
    valkey_url,
)

__all__ = [
    "cluster",
    "mariadb",
    "open_database",
    "open_sessions",
    "open_store",
    "own_postgresql",
    "own_valkey",
    "postgresql",
    "prefix",
    "sentinels",
    "valkey",
    "valkey_url",
]
