"""The verbs on PostgreSQL: a commit is one call of a function, in one round trip; see `postgresql.sql`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Dialect

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import Conflict, CorruptRecord, NotACounter, OutcomeUnknown, SessionExists, SessionGone
from coatcheck.record import Record
from coatcheck.stores.sql.asking import Ask, Row, Statement, Steps, count, plainly
from coatcheck.stores.sql.columns import check_changes, check_new, spoken, written
from coatcheck.stores.sql.schema import HOUR_MS
from coatcheck.stores.sql.verbs import HEAD, Verbs, record_of

_CREATE = {
    "id": "text", "operation": "text", "secret": "text", "idle": "bigint", "absolute": "bigint", "owner": "text",
    "names": "text[]", "texts": "text[]",
}  # fmt: skip
_UPDATE = {
    "id": "text", "operation": "text", "proof": "text", "read_version": "bigint", "retry": "boolean",
    "unchanged": "boolean", "idle": "bigint", "absolute": "bigint", "owner": "text", "new_secret": "text",
    "grace": "bigint", "replaces": "text", "retain": "text[]", "names": "text[]", "texts": "text[]",
    "deletes": "text[]", "counters": "text[]", "addends": "bigint[]",
}  # fmt: skip


class PostgreSQLVerbs(Verbs):
    """See `Verbs`."""

    upsert = "ON CONFLICT (session_id, name) DO UPDATE SET value = excluded.value"
    # Not `to_regclass`: within a transaction that does not see what others have created since its first look.
    tables = "SELECT count(*) FROM pg_class WHERE relname = CAST(:name AS name) AND pg_table_is_visible(oid)"

    begin = plainly("BEGIN")
    in_transactions = False

    def _lock_tables(self) -> Steps[None]:
        yield self.begin
        yield plainly("SELECT pg_advisory_xact_lock(hashtext('coatcheck schema'))")

    def __init__(self, dialect: Dialect, prefix: str, store: str) -> None:
        super().__init__(dialect, prefix, store)
        head = ", ".join(f"s.{name}" for name in HEAD[:7]) + ", clock.now_ms, "
        head += ", ".join(f"s.{name}" for name in HEAD[7:])
        # One row, with the fields as two arrays: the columns of the session come once, and not with each field.
        whole = (
            f"SELECT {head}, f.names, f.texts FROM (SELECT {self.now} AS now_ms OFFSET 0) clock, {self.sessions} s, "
            f"LATERAL (SELECT array_agg(name) AS names, array_agg(value) AS texts FROM {self.fields} "
            "WHERE session_id = s.id) f WHERE s.expires_ms > clock.now_ms AND "
        )
        self._read = self._statement(f"{whole} s.id = :id")
        self._owned = self._statement(f"{whole} s.owner = :owner ORDER BY s.touched_ms DESC")
        self._create_call = self._statement(
            f"SELECT outcome, new_version, touched FROM {prefix}create({_typed(_CREATE)})"
        )
        self._update_call = self._statement(
            "SELECT outcome, new_version, touched, renewed, by_previous, sums, field "
            f"FROM {prefix}update({_typed(_UPDATE)})"
        )
        self._sweep = self._statement(
            f"DELETE FROM {self.sessions} WHERE id IN (SELECT id FROM {self.sessions} "
            f"WHERE sweep_hour <= {self.now} / {HOUR_MS} LIMIT CAST(:most AS bigint) FOR UPDATE SKIP LOCKED)"
        )

    def create(self, new: NewRecord) -> Steps[Applied]:
        check_new(new)
        values = {
            "id": new.session_id,
            "operation": new.operation,
            "secret": new.secret_hash,
            "idle": new.idle_ms,
            "absolute": new.absolute_ms,
            "owner": None if new.owner is None else written(new.owner),
            "names": [written(name) for name in new.fields],
            "texts": list(new.fields.values()),
        }
        [(outcome, version, touched)] = yield _call(self._create_call, values)
        if outcome == "exists":
            raise SessionExists(new.session_id)
        return Applied(version, touched)

    def update(self, session_id: str, changes: Changes) -> Steps[Applied]:
        check_changes(session_id, changes)
        values = self._values(session_id, changes)
        [(outcome, version, touched, renewed, by_previous, sums, field)] = yield _call(self._update_call, values)
        if outcome == "ok":
            counters: Mapping[str, int] = {}
            if sums:
                counters = {
                    name: value for name, value in zip(changes.increments, sums, strict=True) if value is not None
                }
            return Applied(version, touched, counters, renewed, by_previous)
        if outcome == "gone":
            raise SessionGone(session_id)
        if outcome == "conflict":
            raise Conflict(session_id)
        if outcome == "overflow":
            raise NotACounter(spoken(field), "the result would not fit into 64 bits")
        if outcome == "no-integer":
            raise NotACounter(spoken(field))
        if outcome == "unknown":
            raise OutcomeUnknown(self.store, session_id, "too many commits came since")
        raise CorruptRecord(session_id, "its version or its operations cannot be")

    def _values(self, session_id: str, changes: Changes) -> dict[str, Any]:
        renewal = changes.renewal
        retain = changes.retain
        return {
            "id": session_id,
            "operation": changes.operation,
            "proof": changes.proof,
            "read_version": changes.read_version,
            "retry": changes.retry,
            "unchanged": changes.unchanged,
            "idle": changes.idle_ms,
            "absolute": changes.absolute_ms,
            "owner": None if changes.owner is None else written(changes.owner),
            "new_secret": None if renewal is None else renewal.secret_hash,
            "grace": 0 if renewal is None else renewal.grace_ms,
            "replaces": None if renewal is None else renewal.replaces,
            "retain": None if retain is None else [written(name) for name in retain],
            "names": [written(name) for name in changes.sets],
            "texts": list(changes.sets.values()),
            "deletes": [written(name) for name in changes.deletes],
            "counters": [written(name) for name in changes.increments],
            "addends": list(changes.increments.values()),
        }

    def sweep(self, most: int) -> Steps[int]:
        found: int = yield count(self._sweep, {"most": most})
        return found

    def _records(self, found: Iterable[Row]) -> Iterator[Record]:
        for row in found:
            record = record_of(row)
            if row[13] is not None:
                record.fields = {spoken(name): text for name, text in zip(row[13], row[14], strict=True)}
            yield record


def _call(function: Statement, values: Mapping[str, Any]) -> Ask:
    return Ask(function.sql, function.parameters(values), commits=True)


def _typed(parameters: Mapping[str, str]) -> str:
    """The parameters of a call with their types, which a driver could only guess, and guesses differently each time."""
    return ", ".join(f"CAST(:{name} AS {kind})" for name, kind in parameters.items())
