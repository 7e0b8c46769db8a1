"""What each verb of the store asks of the database: here for those that take a transaction of several statements. Pure.

The rules are `coatcheck.record.apply` itself, on a row that is locked meanwhile. PostgreSQL does all of a commit in one
round trip; see `postgresql`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Dialect

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import CorruptRecord, ForeignReply, OutcomeUnknown, SessionExists, SessionGone
from coatcheck.record import Record, apply, created, is_text, remembers
from coatcheck.stores.sql.asking import COMMIT, ROLLBACK, Ask, Row, Statement, Steps, count, many, plainly, rows
from coatcheck.stores.sql.columns import check_changes, check_new, fits, spoken, written
from coatcheck.stores.sql.schema import HOUR_MS
from coatcheck.stores.sql.trouble import Trouble
from coatcheck.ticket import is_session_id

HEAD = (
    "id", "secret_hash", "version", "created_ms", "renewed_ms", "touched_ms", "idle_ms", "deadline_ms",
    "previous_hash", "previous_until_ms", "owner", "operations",
)  # fmt: skip
"""Columns of a session, in the order of `Record`, but for the time of reading, which comes after `idle_ms`."""

NOW = {
    "postgresql": "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)",
    # UTC, since a local hour may come twice, when the statement began; plus what it has waited for a lock since then. That is
    # told by local time, which may be set back meanwhile, or jump by quarters of an hour: in summer, or in autumn.
    "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
    " + MOD(GREATEST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)), 0), 900000000)) DIV 1000",
    "sqlite": "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
}
"""The database's clock, in milliseconds since 1970."""

_BATCH = 200
"""Names that go into one statement."""


def family(dialect: Dialect) -> str:
    """`postgresql`, `mysql` (for MariaDB too) or `sqlite`."""
    return "mysql" if dialect.name == "mariadb" else dialect.name


class Verbs:
    """The store contract in SQL.

    Args:
        dialect: the database's.
        prefix: what the tables' names begin with.
        store: the store's address without its password, for messages.
    """

    begin = plainly("START TRANSACTION")
    in_transactions = True  # whether a commit takes several statements
    lock = " FOR UPDATE"
    skip_locked = " FOR UPDATE SKIP LOCKED"
    upsert = "ON DUPLICATE KEY UPDATE value = VALUES(value)"
    tables = ""  # whether there is a table of this :name

    def __init__(self, dialect: Dialect, prefix: str, store: str) -> None:
        self.store = store
        self.dialect = dialect
        self.sessions, self.fields, self.schema = f"{prefix}sessions", f"{prefix}fields", f"{prefix}schema"
        self.now = NOW[family(dialect)]
        head = ", ".join(f"s.{name}" for name in HEAD[:7]) + f", {self.now}, "
        head += ", ".join(f"s.{name}" for name in HEAD[7:])
        whole = (
            f"SELECT {head}, f.name, f.value FROM {self.sessions} s LEFT JOIN {self.fields} f ON f.session_id = s.id "
            f"WHERE s.expires_ms > {self.now} AND "
        )
        columns = [*HEAD, "expires_ms", "sweep_hour"]
        self._read = self._statement(f"{whole} s.id = :id")
        self._owned = self._statement(f"{whole} s.owner = :owner ORDER BY s.touched_ms DESC, s.id")
        self._tables = self._statement(self.tables)
        self._version = self._statement(f"SELECT max(version) FROM {self.schema}")
        self._delete = self._statement(f"DELETE FROM {self.sessions} WHERE id = :id AND expires_ms > {self.now}")
        self._remove = self._statement(f"DELETE FROM {self.sessions} WHERE id = :id")
        self._locked = self._statement(f"SELECT {head} FROM {self.sessions} s WHERE s.id = :id{self.lock}")
        self._clock = self._statement(f"SELECT {self.now}")
        self._all = self._statement(f"SELECT name, value FROM {self.fields} WHERE session_id = :id")
        self._insert = self._statement(
            f"INSERT INTO {self.sessions} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})"
        )
        self._update = self._statement(
            f"UPDATE {self.sessions} SET {', '.join(f'{name} = :{name}' for name in columns[1:])} WHERE id = :id"
        )
        self._put = self._statement(
            f"INSERT INTO {self.fields} (session_id, name, value) VALUES (:id, :name, :value) {self.upsert}"
        )
        self._expired = self._statement(
            f"SELECT id FROM {self.sessions} WHERE sweep_hour <= {self.now} / {HOUR_MS} LIMIT :most{self.skip_locked}"
        )
        self._some: dict[tuple[str, int], Statement] = {}

    # --- the verbs ---------------------------------------------------------------------------------------------------

    def version(self) -> Steps[int | None]:
        """Of the tables; `None` if there are none."""
        [[there]] = yield rows(self._tables, name=self.schema)
        if not there:
            return None
        [[version]] = yield rows(self._version)
        return None if version is None else int(version)

    def install(self, texts: Sequence[str]) -> Steps[bool]:
        """Create the tables, unless somebody has. Whether they were created now."""
        yield from self._lock_tables()
        created = (yield from self.version()) is None
        if created:
            for each in texts:
                yield from self._creating(each)
        yield from self._unlock_tables()
        return created

    def read(self, session_id: str) -> Steps[Record | None]:
        if not is_session_id(session_id):  # MySQL would compare it by rules of language, or refuse to
            return None
        found = yield rows(self._read, id=session_id)
        for record in self._records(found):
            return self.checked(record, session_id)
        return None

    def sessions_of(self, owner: str) -> Steps[list[Record]]:
        if not (is_text(owner) and fits(owner)):
            return []
        found = yield rows(self._owned, owner=written(owner))
        return [record for record in self._records(found) if record.owner == owner and _is_sound(record)]

    def create(self, new: NewRecord) -> Steps[Applied]:
        check_new(new)
        yield self.begin
        present = yield from self._for_update(new.session_id)
        if present is not None and present.expires_ms > present.read_at_ms:
            yield ROLLBACK
            if remembers(present.operations, new.operation):
                return Applied(present.version, present.touched_ms)
            raise SessionExists(new.session_id)
        if present is not None:
            yield count(self._remove, {"id": new.session_id})
        [[now_ms]] = yield rows(self._clock)
        record = created(new, int(now_ms))
        yield count(self._insert, _columns(record))
        yield from self._putting(new.session_id, new.fields)
        yield COMMIT
        return Applied(record.version, record.touched_ms)

    def update(self, session_id: str, changes: Changes) -> Steps[Applied]:
        check_changes(session_id, changes)
        yield self.begin
        record = yield from self._for_update(session_id)
        if record is None or record.expires_ms <= record.read_at_ms:
            raise SessionGone(session_id)
        self.checked(record, session_id)
        # As many of its fields as the rules must see.
        if changes.retain is not None:
            record.fields = _pairs((yield rows(self._all, id=session_id)))
        elif changes.increments:
            record.fields = _pairs((yield from self._some_fields(session_id, changes.increments)))
        after, outcome = apply(record, changes, session_id, record.read_at_ms)
        if outcome == "unknown":
            raise OutcomeUnknown(self.store, session_id, "too many commits came since")
        if after is record:  # it was applied before
            yield ROLLBACK
            return outcome
        yield from self._dropping(session_id, {*(record.fields.keys() - after.fields.keys()), *changes.deletes})
        put = {name: text for name, text in after.fields.items() if record.fields.get(name) != text}
        yield from self._putting(session_id, put)
        yield count(self._update, _columns(after))
        yield COMMIT
        return outcome

    def delete(self, session_id: str) -> Steps[bool]:
        if not is_session_id(session_id):
            return False
        found: int = yield count(self._delete, {"id": session_id}, commits=True)
        return found > 0

    def delete_again(self, session_id: str) -> Steps[bool]:
        """The same, where it may have been done already. Then nobody can tell any more whether there was a session."""
        yield from self.delete(session_id)
        return True

    def sweep(self, most: int) -> Steps[int]:
        """Remove some sessions that ended an hour ago or earlier, but none that another sweep has in hand. How many."""
        yield self.begin
        ids = [row[0] for row in (yield rows(self._expired, most=most))]
        if ids:
            yield many(self._remove, [{"id": each} for each in ids])
        yield COMMIT
        return len(ids)

    # --- rows and records --------------------------------------------------------------------------------------------

    def checked(self, record: Record, session_id: str) -> Record:
        """The record, if it is one, and the one that was asked for."""
        if record.session_id != session_id:
            raise ForeignReply(self.store, session_id, "a record with another id")
        if not _is_sound(record):
            raise CorruptRecord(session_id, "its version or its operations cannot be")
        return record

    def _records(self, found: Iterable[Row]) -> Iterator[Record]:
        """The records in rows of a join: one row per field, those of a session one after the other."""
        for _, group in groupby(found, lambda row: row[0]):
            lines = list(group)
            record = record_of(lines[0])
            record.fields = _pairs((row[13], row[14]) for row in lines if row[13] is not None)
            yield record

    def _for_update(self, session_id: str) -> Steps[Record | None]:
        found = yield rows(self._locked, id=session_id)
        return record_of(found[0]) if found else None

    def _putting(self, session_id: str, fields: Mapping[str, str]) -> Steps[None]:
        if fields:
            each = [{"id": session_id, "name": written(name), "value": text} for name, text in fields.items()]
            yield many(self._put, each)

    def _dropping(self, session_id: str, names: Iterable[str]) -> Steps[None]:
        for values in _batches(session_id, names):
            yield count(self._about("DELETE", len(values) - 1), values)

    def _some_fields(self, session_id: str, names: Iterable[str]) -> Steps[list[Row]]:
        found: list[Row] = []
        for values in _batches(session_id, names):
            found += yield rows(self._about("SELECT name, value", len(values) - 1), **values)
        return found

    def _about(self, what: str, names: int) -> Statement:
        """A statement about so many fields of a session."""
        if (what, names) not in self._some:
            marks = ", ".join(f":n{at}" for at in range(names))
            self._some[what, names] = self._statement(
                f"{what} FROM {self.fields} WHERE session_id = :id AND name IN ({marks})"
            )
        return self._some[what, names]

    def _creating(self, text: str) -> Steps[None]:
        yield plainly(text)

    def _lock_tables(self) -> Steps[None]:
        """Keep all others from creating tables meanwhile."""
        yield self.begin

    def _unlock_tables(self) -> Steps[None]:
        yield COMMIT

    def _statement(self, sql: str) -> Statement:
        return Statement(sql, self.dialect)


class MySQLVerbs(Verbs):
    """On MySQL and MariaDB."""

    tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = :name"

    def _creating(self, text: str) -> Steps[None]:
        try:
            yield plainly(text)
        except Trouble as problem:
            if "Duplicate key name" not in str(problem):  # an index; MySQL has no IF NOT EXISTS for them
                raise

    def _lock_tables(self) -> Steps[None]:
        [[is_ours]] = yield Ask("SELECT GET_LOCK('coatcheck schema', 1)")
        if not is_ours:
            raise Trouble("again", "somebody else is creating tables")

    def _unlock_tables(self) -> Steps[None]:
        yield plainly("DO RELEASE_LOCK('coatcheck schema')")


class SQLiteVerbs(Verbs):
    """On SQLite, where one transaction writes at a time."""

    begin = plainly("BEGIN IMMEDIATE")
    lock = ""
    skip_locked = ""
    tables = "SELECT count(*) FROM sqlite_master WHERE name = :name"
    upsert = "ON CONFLICT (session_id, name) DO UPDATE SET value = excluded.value"


def record_of(row: Row) -> Record:
    """The record in the columns of `HEAD`, without its fields."""
    values = list(row[:13])
    if values[_OWNER] is not None:
        values[_OWNER] = spoken(values[_OWNER])
    return Record(*values)


_OWNER = 11  # with the time of reading before it


def _pairs(found: Iterable[Row]) -> dict[str, str]:
    return {spoken(name): text for name, text in found}


def _batches(session_id: str, names: Iterable[str]) -> Iterator[dict[str, str]]:
    """The parameters of statements about these fields of a session."""
    every = [written(name) for name in names]
    for first in range(0, len(every), _BATCH):
        yield {"id": session_id} | {f"n{at}": name for at, name in enumerate(every[first : first + _BATCH])}


def _is_sound(record: Record) -> bool:
    return record.version > 0 and len(record.operations) % 8 == 0


def _columns(record: Record) -> dict[str, Any]:
    """A session's row."""
    expires_ms = record.expires_ms
    return {
        "id": record.session_id,
        "secret_hash": record.secret_hash,
        "version": record.version,
        "created_ms": record.created_ms,
        "renewed_ms": record.renewed_ms,
        "touched_ms": record.touched_ms,
        "idle_ms": record.idle_ms,
        "deadline_ms": record.deadline_ms,
        "previous_hash": record.previous_hash,
        "previous_until_ms": record.previous_until_ms,
        "owner": None if record.owner is None else written(record.owner),
        "operations": record.operations,
        "expires_ms": expires_ms,
        "sweep_hour": -(-expires_ms // HOUR_MS),
    }
