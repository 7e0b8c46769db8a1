"""The decisions of a session's life: who is let in, what is written back, which cookie goes out."""

from __future__ import annotations

from typing import Any

import pytest

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import TooLate, UnstorableValue
from coatcheck.lifecycle import NOTHING, Plan, admit, begin, plan, settle, ticket_of
from coatcheck.record import Record
from coatcheck.session import Session
from coatcheck.settings import CookieSettings, Settings
from coatcheck.ticket import Ticket
from tests.core.tools import CODEC, COOKIE, HOUR, MINUTE, NOW, SECOND, a_ticket, but, fresh, headers, stored

SETTINGS = Settings()
PERIODIC = Settings(renew_every=600, renew_grace=60)
LATE = TooLate("renewal", "the response has begun", "Do it before")


def request(ticket: Ticket | None, record: Record | None = None) -> Session:
    """A session as it is when the handler begins."""
    session = Session(CODEC, ticket)
    if ticket is not None:
        admit(session, ticket, record)
    return session


def update(todo: Plan) -> Changes:
    assert todo.update is not None
    assert (todo.delete, todo.create) == (None, None)
    return todo.update


def create(todo: Plan) -> NewRecord:
    assert todo.create is not None
    assert todo.update is None
    return todo.create


# --- who is let in ---------------------------------------------------------------------------------------------------


def test_who_shows_the_right_ticket_is_let_in() -> None:
    ticket = a_ticket()
    shown, refusal = ticket_of(headers(COOKIE.settings.name, ticket.cookie_value.encode()), COOKIE)
    assert shown is not None
    assert refusal == ""
    session = Session(CODEC, shown)
    assert admit(session, shown, stored(ticket, {"user": '"Garimoo"'})) == ""
    assert session["user"] == "Garimoo"
    assert session.session_id == ticket.session_id


REFUSED: dict[str, tuple[dict[str, Any] | None, str]] = {
    "no record": (None, "unknown or expired"),
    "another secret": ({"secret_hash": a_ticket().secret_hash}, "wrong secret"),
    "a damaged hash": ({"secret_hash": "é"}, "wrong secret"),
    "no hash": ({"secret_hash": ""}, "wrong secret"),
    "idle for too long": ({"touched_ms": NOW - SETTINGS.idle_ms}, "expired"),
    "past its absolute end": ({"deadline_ms": NOW}, "expired"),
}


@pytest.mark.parametrize(("but", "why"), REFUSED.values(), ids=REFUSED)
def test_a_ticket_that_opens_nothing_is_never_adopted(but: dict[str, Any] | None, why: str) -> None:
    """Fixation: what is stored next gets a new id and a new secret, whatever the browser showed."""
    ticket = a_ticket()
    session = Session(CODEC, ticket)
    assert admit(session, ticket, None if but is None else stored(ticket, {"a": "1"}, **but)) == why
    assert dict(session) == {}
    assert (session.is_new, session.session_id, session.owner) == (True, None, None)
    session["user"] = "somebody"
    new = create(plan(session, SETTINGS))
    assert new.session_id != ticket.session_id
    assert new.secret_hash != ticket.secret_hash
    assert settle(session, plan(session, SETTINGS), Applied(1, NOW), SETTINGS) == "write"


def test_the_previous_secret_opens_in_its_grace_and_not_after() -> None:
    ticket = a_ticket()
    after = ticket.renewed()
    record = stored(after, previous_hash=ticket.secret_hash, previous_until_ms=NOW + 1)
    assert admit(Session(CODEC, ticket), ticket, record) == ""
    assert admit(Session(CODEC, ticket), ticket, record.at(NOW + 1)) == "wrong secret"
    assert admit(Session(CODEC, after), after, record.at(NOW + 1)) == ""


# --- requests that store nothing -------------------------------------------------------------------------------------


def test_an_anonymous_request_that_stores_nothing_costs_nothing() -> None:
    """CVE-2015-5143, CVE-2015-5963, CVE-2015-5964: no crowd of strangers can fill the store."""
    looks: list[Any] = [
        lambda session: None,
        lambda session: session.get("user"),
        list,
        lambda session: session.clear(),
        lambda session: session.destroy(),
        lambda session: session.renew(),
        lambda session: session.require_unchanged(),
        lambda session: session.pop("user", None),
        lambda session: (session.update(a=1), session.pop("a")),
        lambda session: session.map("cart").clear(),
    ]
    for ticket in (None, a_ticket()):
        for look in looks:
            session = request(ticket)
            look(session)
            todo = plan(session, SETTINGS)
            assert (todo.delete, todo.create, todo.update) == (None, None, None)
            assert settle(session, todo, None, SETTINGS) is None


def test_a_request_that_only_reads_costs_nothing_more() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, {"cart": "[1]"}, touched_ms=NOW - MINUTE + 1))
    assert plan(session, SETTINGS) is NOTHING, "it has not even looked"
    assert session["cart"] == [1]
    todo = plan(session, SETTINGS)
    assert todo is NOTHING
    assert settle(session, todo, None, SETTINGS) is None


def test_a_request_that_only_reads_touches_once_in_a_while() -> None:
    ticket = a_ticket()
    for looks in (False, True):
        session = request(ticket, stored(ticket, {"cart": "[1]"}, touched_ms=NOW - MINUTE))
        if looks:
            session.get("cart")
        todo = plan(session, SETTINGS)
        changes = update(todo)
        assert changes == Changes(proof=ticket.secret_hash, idle_ms=SETTINGS.idle_ms)
        assert changes.operation == ""
        assert not todo.essential
        assert settle(session, todo, Applied(7, NOW + 1), SETTINGS) is None
        assert plan(session, SETTINGS) is NOTHING, "it has been touched"


def test_how_often_is_a_setting() -> None:
    ticket = a_ticket()
    every_time = SETTINGS.but(touch_every=0)
    assert plan(request(ticket, stored(ticket)), every_time).update is not None
    rarely = SETTINGS.but(touch_every=3600)
    assert plan(request(ticket, stored(ticket, touched_ms=NOW - HOUR + 1)), rarely) is NOTHING
    assert plan(request(ticket, stored(ticket, touched_ms=NOW - HOUR)), rarely).update is not None


# --- requests that change something ----------------------------------------------------------------------------------


def test_the_first_thing_stored_makes_a_session() -> None:
    session = fresh()
    session["user"] = "Garimoo"
    session.increment("hits")
    todo = plan(session, SETTINGS)
    new = create(todo)
    assert todo.delete is None
    assert new.fields == {"user": '"Garimoo"', "hits": "1"}
    assert (new.idle_ms, new.absolute_ms, new.owner) == (SETTINGS.idle_ms, SETTINGS.absolute_ms, None)
    assert todo.ticket is not None
    assert (todo.ticket.session_id, todo.ticket.secret_hash) == (new.session_id, new.secret_hash)
    assert len(new.operation) == 8

    assert settle(session, todo, Applied(1, NOW), SETTINGS) == "write"
    assert not session.is_new
    assert session.session_id == new.session_id
    assert dict(session) == {"user": "Garimoo", "hits": 1}
    assert plan(session, SETTINGS) is NOTHING


def test_a_login_without_any_field_makes_a_session_too() -> None:
    session = fresh()
    session.renew(owner="user-7")
    assert create(plan(session, SETTINGS)).owner == "user-7"


def test_a_change_is_written_with_the_proof_and_the_version_that_it_was_based_on() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, {"cart": "[1]", "old": "1", "hits": "4"}))
    session["cart"].append(2)
    session["new"] = "x"
    session.increment("hits", 2)
    del session["old"]
    todo = plan(session, SETTINGS)
    changes = update(todo)
    assert todo.essential
    assert (changes.proof, changes.read_version, changes.retry) == (ticket.secret_hash, 7, False)
    assert (changes.sets, changes.deletes) == ({"new": '"x"', "cart": "[1,2]"}, ("old",))
    assert (changes.increments, changes.retain) == ({"hits": 2}, None)
    assert (changes.renewal, changes.owner, changes.absolute_ms, changes.unchanged) == (None, None, None, False)
    assert len(changes.operation) == 8
    assert changes.operation != update(plan(session, SETTINGS)).operation

    applied = Applied(9, NOW + SECOND, {"hits": 100})
    assert settle(session, todo, applied, SETTINGS) is None
    assert dict(session) == {"cart": [1, 2], "hits": 100, "new": "x"}, "a counter is exact once it is committed"
    assert plan(session, SETTINGS) is NOTHING
    session["cart"].append(3)
    after = update(plan(session, SETTINGS))
    assert (after.sets, after.read_version) == ({"cart": "[1,2,3]"}, 9)


def test_a_handler_may_ask_that_nobody_else_has_changed_the_session() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, {"a": "1"}))
    session.require_unchanged()
    assert plan(session, SETTINGS) is NOTHING
    session["a"] = 2
    todo = plan(session, SETTINGS)
    assert update(todo).unchanged
    settle(session, todo, Applied(8, NOW), SETTINGS)
    session["a"] = 3
    assert not update(plan(session, SETTINGS)).unchanged, "it was asked for that commit"


def test_a_value_that_cannot_be_stored_stops_the_commit_before_anything_is_written() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, {"cart": "[]"}))
    session["cart"].append(object())
    with pytest.raises(UnstorableValue, match="'cart'"):
        plan(session, SETTINGS)


def test_a_session_without_an_absolute_end_names_its_owner_whenever_it_is_touched() -> None:
    """An index of owners cannot tell otherwise how long it lives."""
    ticket = a_ticket()
    for deadline, owner in ((None, "user-7"), (NOW + 24 * HOUR, None)):
        record = stored(ticket, owner="user-7", deadline_ms=deadline, touched_ms=NOW - HOUR)
        assert update(plan(request(ticket, record), SETTINGS)).owner == owner
        assert update(plan(request(ticket, record), PERIODIC)).owner == owner
        session = request(ticket, record)
        session["a"] = 1
        assert update(plan(session, SETTINGS)).owner == owner


# --- a new ticket at login -------------------------------------------------------------------------------------------


def test_a_login_ends_the_old_ticket_at_once_and_the_session_keeps_its_id() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, {"planted": "1", "cart": "[]"}))
    session.renew(owner="user-7", keep=["cart"])
    session["user"] = "Garimoo"
    todo = plan(session, SETTINGS)
    changes = update(todo)
    assert changes.renewal is not None
    assert (changes.renewal.grace_ms, changes.renewal.replaces) == (0, None)
    assert (changes.owner, changes.absolute_ms) == ("user-7", SETTINGS.absolute_ms), "the absolute timeout starts anew"
    assert (changes.retain, changes.sets) == (("cart",), {"user": '"Garimoo"'})
    assert changes.proof == ticket.secret_hash
    assert todo.ticket is not None
    assert todo.ticket.session_id == ticket.session_id
    assert todo.ticket.secret_hash == changes.renewal.secret_hash != ticket.secret_hash
    assert todo.essential

    assert settle(session, todo, Applied(8, NOW, renewed=True), SETTINGS) == "write"
    assert session.ticket is todo.ticket
    assert (session.owner, session.session_id) == ("user-7", ticket.session_id)
    assert dict(session) == {"cart": [], "user": "Garimoo"}
    session["later"] = 1
    after = update(plan(session, SETTINGS))
    assert (after.proof, after.renewal, after.owner, after.absolute_ms) == (todo.ticket.secret_hash, None, None, None)


def test_a_renewal_alone_is_a_commit_that_must_succeed() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, {"a": "1"}))
    session.renew()
    todo = plan(session, SETTINGS)
    changes = update(todo)
    assert todo.essential
    assert changes.renewal is not None
    assert (changes.renewal.grace_ms, changes.owner, changes.absolute_ms, changes.retain) == (0, None, None, None)


# --- a new ticket every now and then ---------------------------------------------------------------------------------


def test_a_ticket_that_has_grown_old_is_replaced_with_a_grace() -> None:
    ticket = a_ticket()
    record = stored(ticket, renewed_ms=NOW - 600 * SECOND)
    session = request(ticket, record)
    todo = plan(session, PERIODIC)
    changes = update(todo)
    assert changes.renewal is not None
    assert (changes.renewal.grace_ms, changes.renewal.replaces) == (60 * SECOND, ticket.secret_hash)
    assert (changes.operation, changes.sets, changes.owner) == ("", {}, None)
    assert not todo.essential
    assert todo.ticket is not None
    assert todo.ticket.secret_hash == changes.renewal.secret_hash
    assert settle(session, todo, Applied(7, NOW, renewed=True), PERIODIC) == "write"
    assert session.ticket is todo.ticket
    assert plan(session, PERIODIC) is NOTHING

    assert plan(request(ticket, but(record, renewed_ms=NOW - 600 * SECOND + 1)), PERIODIC) is NOTHING
    assert plan(request(ticket, record), SETTINGS) is NOTHING, "only where it is asked for"


def test_of_two_requests_that_renew_at_once_the_second_keeps_its_ticket_and_writes_no_cookie() -> None:
    """The first one's answer carries the new ticket; a second cookie could overtake it."""
    ticket = a_ticket()
    for settings in (PERIODIC, PERIODIC.but(cookie=CookieSettings(max_age=3600), touch_every=0)):
        session = request(ticket, stored(ticket, renewed_ms=NOW - HOUR, touched_ms=NOW - HOUR))
        todo = plan(session, settings)
        assert settle(session, todo, Applied(7, NOW, renewed=False), settings) is None
        assert session.ticket is ticket


def test_whoever_shows_the_previous_ticket_gets_no_new_one_for_it() -> None:
    """It may have been stolen before it was replaced: it lasts for its grace, and buys nothing."""
    ticket = a_ticket()
    present = ticket.renewed()
    record = stored(
        present, renewed_ms=NOW - 30 * SECOND, previous_hash=ticket.secret_hash, previous_until_ms=NOW + 30 * SECOND
    )
    assert plan(request(ticket, record), PERIODIC) is NOTHING
    assert plan(request(present, record), PERIODIC) is NOTHING
    old = but(record, renewed_ms=NOW - HOUR, previous_until_ms=NOW + 1)
    assert plan(request(ticket, old), PERIODIC) is NOTHING
    assert update(plan(request(present, old), PERIODIC)).renewal is not None


def test_a_commit_with_the_previous_ticket_does_not_send_it_again() -> None:
    """It would overtake the new one on its way to the browser."""
    ticket = a_ticket()
    session = request(ticket, stored(ticket, touched_ms=NOW - HOUR))
    session["a"] = 1
    rolling = Settings(cookie=CookieSettings(max_age=1000))
    todo = plan(session, rolling)
    assert settle(session, todo, Applied(8, NOW, by_previous=True), rolling) is None
    session["a"] = 2
    again = plan(session, rolling)
    assert settle(session, again, Applied(9, NOW + HOUR), rolling) == "write"


def test_what_is_changed_while_the_store_is_at_work_comes_on_top() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, fields={"hits": "1", "gone": "1"}))
    session.increment("hits")
    session["a"] = 1
    first = plan(session, Settings())
    begin(session, first)
    assert update(first).increments == {"hits": 1}
    session.increment("hits")
    session["b"] = 2
    del session["gone"]
    assert (session["hits"], dict(session)) == (3, {"hits": 3, "a": 1, "b": 2})
    settle(session, first, Applied(8, NOW, {"hits": 12}), Settings())
    assert session["hits"] == 13, "ten came from elsewhere"
    second = update(plan(session, Settings()))
    assert (second.sets, second.deletes, second.increments) == ({"b": "2"}, ("gone",), {"hits": 1})


def test_what_the_store_refused_is_still_to_be_done() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, fields={"hits": "1", "old": "1"}))
    session.increment("hits", 2)
    session["a"] = 1
    session.renew()
    todo = plan(session, Settings())
    begin(session, todo)
    session["a"] = 2
    session.increment("hits")
    del session["old"]
    todo.refused()
    again = update(plan(session, Settings()))
    assert (again.sets, again.deletes, again.increments) == ({"a": "2"}, ("old",), {"hits": 3})
    assert again.renewal is not None


def test_what_was_deleted_counts_from_zero_also_after_a_refusal() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, fields={"hits": "7"}))
    del session["hits"]
    todo = plan(session, Settings())
    begin(session, todo)
    assert session.increment("hits", 2) == 2
    todo.refused()
    assert session["hits"] == 2
    again = update(plan(session, Settings()))
    assert (again.sets, again.deletes, again.increments) == ({"hits": "2"}, (), {})


@pytest.mark.parametrize("stored_already", [True, False])
def test_destroying_while_the_store_is_at_work_is_final(stored_already: bool) -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket)) if stored_already else Session(CODEC)
    session["a"] = 1
    todo = plan(session, Settings())
    begin(session, todo)
    session.destroy()
    assert settle(session, todo, Applied(8, NOW), Settings()) is None
    assert session.is_new
    last = plan(session, Settings())
    assert todo.ticket is not None
    assert last.delete == todo.ticket.session_id
    assert settle(session, last, None, Settings()) == "erase"


def test_where_no_cookie_can_go_out_any_more_nothing_is_renewed() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, renewed_ms=NOW - HOUR, touched_ms=NOW - HOUR))
    session.close(None, LATE)
    assert update(plan(session, PERIODIC)).renewal is None


def test_a_request_that_changes_something_renews_as_well() -> None:
    """Or an application that counts every visit would never renew."""
    ticket = a_ticket()
    session = request(ticket, stored(ticket, renewed_ms=NOW - HOUR))
    session["a"] = 1
    todo = plan(session, PERIODIC)
    changes = update(todo)
    assert todo.essential
    assert changes.sets == {"a": "1"}
    assert changes.renewal is not None
    assert (changes.renewal.grace_ms, changes.renewal.replaces) == (60 * SECOND, ticket.secret_hash)
    assert settle(session, todo, Applied(8, NOW, renewed=True), PERIODIC) == "write"
    assert session.ticket is todo.ticket

    session = request(ticket, stored(ticket, renewed_ms=NOW - HOUR))
    session.renew()
    renewal = update(plan(session, PERIODIC)).renewal
    assert renewal is not None
    assert (renewal.grace_ms, renewal.replaces) == (0, None), "a renewal that was asked for comes first"


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_logout_deletes_the_record_and_takes_the_ticket_back() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket, {"user": '"Garimoo"'}))
    session.destroy()
    todo = plan(session, SETTINGS)
    assert (todo.delete, todo.create, todo.update) == (ticket.session_id, None, None)
    assert settle(session, todo, None, SETTINGS) == "erase"
    todo = plan(session, SETTINGS)
    assert (todo.delete, settle(session, todo, None, SETTINGS)) == (None, None), "once is enough"


def test_what_is_stored_after_a_logout_is_a_new_session_with_a_new_id() -> None:
    """CVE-2025-12390: an id is never used again."""
    ticket = a_ticket()
    session = request(ticket, stored(ticket, {"user": '"Garimoo"'}, owner="user-7"))
    session.destroy()
    session["flash"] = "Goodbye"
    todo = plan(session, SETTINGS)
    new = create(todo)
    assert todo.delete == ticket.session_id
    assert new.session_id != ticket.session_id
    assert (new.fields, new.owner) == ({"flash": '"Goodbye"'}, None)
    assert settle(session, todo, Applied(1, NOW), SETTINGS) == "write"
    assert session.session_id == new.session_id


def test_a_logout_that_the_store_did_not_take_is_still_to_be_done() -> None:
    ticket = a_ticket()
    session = request(ticket, stored(ticket))
    session.destroy()
    assert plan(session, SETTINGS).delete == plan(session, SETTINGS).delete == ticket.session_id


# --- a cookie with an age of its own ---------------------------------------------------------------------------------


def test_a_cookie_that_ages_is_sent_again_as_often_as_a_touch_is_due() -> None:
    ages = SETTINGS.but(cookie=CookieSettings(max_age=3600))
    ticket = a_ticket()
    for ago, action in ((MINUTE, "write"), (MINUTE - 1, None)):
        session = request(ticket, stored(ticket, touched_ms=NOW - ago))
        session["a"] = 1
        todo = plan(session, ages)
        assert todo.ticket is ticket
        assert settle(session, todo, Applied(8, NOW), ages) == action
    session = request(ticket, stored(ticket, touched_ms=NOW - MINUTE))
    session["a"] = 1
    assert settle(session, plan(session, SETTINGS), Applied(8, NOW), SETTINGS) is None, "without an age it needs none"
