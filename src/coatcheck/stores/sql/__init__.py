"""Sessions in PostgreSQL, MySQL, MariaDB or SQLite: a row per session, a row per field."""

from coatcheck.stores.sql.schema import metadata, statements, tables
from coatcheck.stores.sql.store import SQLStore
from coatcheck.stores.sql.sync_store import SyncSQLStore

__all__ = ["SQLStore", "SyncSQLStore", "metadata", "statements", "tables"]
