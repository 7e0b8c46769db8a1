"""The tables: a row per session and a row per field. Public, so that Alembic and administrators can use them.

    coatcheck_sessions   one row per session: the hash of its ticket's secret, its version and its times
    coatcheck_fields     one row per field of a session; removed with the session by the database itself
    coatcheck_schema     the version of these tables

On PostgreSQL there are two functions beside them, which make a commit one round trip; see `postgresql.sql`.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

from coatcheck.errors import ConfigurationError

VERSION = 1
"""Of the tables that this coatcheck reads and writes."""

LONGEST = 2000
"""Bytes of UTF-8 that a field's name, or an owner, may have: an index of PostgreSQL or InnoDB holds no more."""

HOUR_MS = 3_600_000

_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,39}", re.ASCII)

# MySQL compares texts by rules of language, and pads them with spaces; bytes are compared as they are.
_code = Text().with_variant(mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
_id = Text().with_variant(mysql.VARCHAR(16, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
_name = Text().with_variant(mysql.VARBINARY(LONGEST), "mysql", "mariadb")
_value = Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
_number = BigInteger().with_variant(Integer(), "sqlite")


def tables(prefix: str = "coatcheck_", *, unlogged: bool = False) -> MetaData:
    """The tables' metadata.

    Args:
        prefix: what the names of tables and functions begin with: lower-case letters, digits and `_`.
        unlogged: on PostgreSQL, tables without a write-ahead log: cheaper to write, and empty after a crash.

    Raises:
        ConfigurationError: the prefix cannot begin a table's name.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            "prefix", prefix, "it cannot begin a table's name", "Use lower-case letters, digits and _, at most 40"
        )
    metadata = MetaData()
    usual: dict[str, Any] = {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}
    emptied_by_a_crash: dict[str, Any] = {"prefixes": ["UNLOGGED"] if unlogged else []}
    sessions = Table(
        f"{prefix}sessions",
        metadata,
        Column("id", _id, primary_key=True),
        Column("secret_hash", _code, nullable=False),
        Column("version", _number, nullable=False),
        Column("created_ms", _number, nullable=False),
        Column("renewed_ms", _number, nullable=False),
        Column("touched_ms", _number, nullable=False),
        Column("idle_ms", _number, nullable=False),
        Column("deadline_ms", _number),
        Column("previous_hash", _code),
        Column("previous_until_ms", _number, nullable=False),
        Column("owner", _name),
        Column("operations", _code, nullable=False),
        Column("expires_ms", _number, nullable=False),
        # What the sweep looks for: the first whole hour after the end. Unlike the end itself it seldom changes, so that a
        # commit need not touch the index.
        Column("sweep_hour", Integer, nullable=False),
        # Room for the next version of a row beside it, or that one would need new entries in every index.
        postgresql_with={"fillfactor": 85},
        sqlite_strict=True,
        **usual,
        **emptied_by_a_crash,
    )
    Index(f"{prefix}sessions_sweep", sessions.c.sweep_hour)
    owned = sessions.c.owner.is_not(None)
    long = {"owner": 100}
    Index(
        f"{prefix}sessions_owner", sessions.c.owner,
        postgresql_where=owned, sqlite_where=owned, mysql_length=long, mariadb_length=long,
    )  # fmt: skip
    Table(
        f"{prefix}fields",
        metadata,
        Column("session_id", _id, ForeignKey(sessions.c.id, ondelete="CASCADE")),
        Column("name", _name),
        Column("value", _value, nullable=False),
        PrimaryKeyConstraint("session_id", "name"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
        **usual,
        **emptied_by_a_crash,
    )
    Table(f"{prefix}schema", metadata, Column("version", Integer, primary_key=True), **usual)
    return metadata


metadata = tables()
"""The tables with their usual names."""


def statements(dialect: Dialect, prefix: str = "coatcheck_", *, unlogged: bool = False) -> list[str]:
    """The SQL that creates everything in an empty database, in order. The last statement notes the version.

    Args:
        dialect: of `sqlalchemy.create_engine(…).dialect`, or `sqlalchemy.dialects.postgresql.dialect()`.
        prefix, unlogged: see `tables`.
    """
    made: list[CreateTable | CreateIndex] = []
    for table in tables(prefix, unlogged=unlogged and dialect.name == "postgresql").sorted_tables:
        # On MySQL each statement commits by itself, so an attempt that was broken off has left some of them behind.
        made.append(CreateTable(table, if_not_exists=dialect.name in ("mysql", "mariadb")))
        made += [CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
    texts = [str(each.compile(dialect=dialect)).strip() for each in made]
    if dialect.name == "postgresql":
        functions = files("coatcheck.stores.sql").joinpath("postgresql.sql").read_text("utf-8")
        texts += [part.strip() for part in functions.replace("{prefix}", prefix).split("\n-- ;\n")]
    if dialect.name == "sqlite":  # a foreign key does nothing there unless each connection asks for it
        texts.append(
            f"CREATE TRIGGER {prefix}session_removed AFTER DELETE ON {prefix}sessions "
            f"BEGIN DELETE FROM {prefix}fields WHERE session_id = old.id; END"
        )
    texts.append(f"INSERT INTO {prefix}schema (version) VALUES ({VERSION})")
    return texts
