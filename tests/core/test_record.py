"""A record: what it is at another time, and how it compares. Its operations are held against a model by the contract."""

from __future__ import annotations

from coatcheck.record import Record
from tests.core.tools import NOW, a_ticket, but, stored


def all_different() -> Record:
    return Record(
        session_id="id", secret_hash="hash", version=1, created_ms=2, renewed_ms=3, touched_ms=4, idle_ms=5, read_at_ms=6,
        deadline_ms=7, previous_hash="previous", previous_until_ms=8, owner="owner", operations="earlier0",
        fields={"name": "text"},
    )  # fmt: skip


def test_at_another_time_all_else_is_the_same() -> None:
    record = all_different()
    later = record.at(NOW)
    assert later.as_dict() == record.as_dict() | {"read_at_ms": NOW}
    assert later.fields is record.fields
    assert later is not record


def test_nothing_of_it_is_forgotten_in_a_dictionary() -> None:
    values = list(all_different().as_dict().values())
    assert values == ["id", "hash", 1, 2, 3, 4, 5, 6, 7, "previous", 8, "owner", "earlier0", {"name": "text"}]


def test_it_equals_what_has_the_same_content_and_nothing_else() -> None:
    ticket = a_ticket()
    record = stored(ticket, {"a": "1"})
    assert record == stored(ticket, {"a": "1"})
    assert record != but(record, version=8)
    assert record != record.as_dict()
