"""The session as a handler meets it: a mapping that knows what was done to it."""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import pytest

from coatcheck.changes import Applied
from coatcheck.codec import JSONCodec
from coatcheck.errors import BadFieldName, NotACounter, NotLoaded, TooLate, UnreadableField, UnstorableValue
from coatcheck.session import Session
from tests.core.tools import CODEC, HOUR, NOW, a_ticket, but, fresh, loaded


class CountingCodec(JSONCodec):
    """Says what it was asked to decode."""

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def decode(self, session_id: str, field: str, text: str) -> Any:
        self.decoded.append(field)
        return super().decode(session_id, field, text)


# --- the mapping -----------------------------------------------------------------------------------------------------


def test_a_session_is_a_mapping() -> None:
    session = loaded({"user": '"Garimoo"', "hits": "2"})
    assert isinstance(session, MutableMapping)
    assert session["user"] == "Garimoo"
    assert session.get("missing") is None
    assert session.get("missing", 7) == 7
    assert ("user" in session, "missing" in session) == (True, False)
    assert list(session) == ["user", "hits"]
    assert len(session) == 2
    assert dict(session) == {"user": "Garimoo", "hits": 2}
    assert session == {"user": "Garimoo", "hits": 2}
    assert session.setdefault("hits", 9) == 2
    assert session.setdefault("new", []) == []
    assert session.pop("hits") == 2
    assert session.pop("hits", None) is None
    session.update({"user": "somebody"}, extra=1)
    assert session == {"user": "somebody", "new": [], "extra": 1}
    assert session.popitem()[0] == "user"
    del session["new"]
    session.clear()
    assert session == {}
    assert not session


def test_a_session_with_fields_is_true() -> None:
    assert loaded({"user": '"Garimoo"'})
    assert not loaded()


@pytest.mark.parametrize("name", ["missing", 7, None, ("a", "b"), "@version", ""])
def test_what_is_not_there_is_a_key_error(name: Any) -> None:
    session = loaded({"user": '"Garimoo"'})
    assert name not in session
    assert session.get(name) is None
    with pytest.raises(KeyError):
        session[name]
    with pytest.raises(KeyError):
        del session[name]
    assert not session.delta()


@pytest.mark.parametrize("name", ["", "@", "@version", 7, None, b"user", "half \ud83e"])
def test_what_cannot_name_a_field_is_refused_by_name(name: Any) -> None:
    session = loaded()
    with pytest.raises(BadFieldName, match="cannot name a session field"):
        session[name] = 1
    with pytest.raises(BadFieldName, match="cannot name a session field"):
        session.increment(name)
    assert not session.delta()


@pytest.mark.parametrize("name", [" ", "a b", "é", "名前", "🧥", "\x00", "\n", "a@b", "cart[", "]", "../..", "*", "{}"])
def test_any_other_string_names_a_field(name: str) -> None:
    session = loaded()
    session[name] = 1
    assert session.delta().sets == {name: "1"}


def test_a_value_that_cannot_be_stored_is_refused_at_once_and_changes_nothing() -> None:
    session = loaded({"user": '"Garimoo"'})
    with pytest.raises(UnstorableValue, match="'user' cannot hold this object"):
        session["user"] = object()
    assert session["user"] == "Garimoo"
    assert not session.delta()


def test_reserved_fields_of_a_foreign_hand_are_not_shown() -> None:
    session = loaded({"@planted": "1", "user": '"Garimoo"'})
    assert list(session) == ["user"]
    assert "@planted" not in session
    assert session.get("@planted") is None


# --- what was changed ------------------------------------------------------------------------------------------------


def test_what_was_only_read_is_not_written() -> None:
    session = loaded({"user": '"Garimoo"', "cart": '[{"sku":1}]', "seen": '{"@set":[1,2]}'})
    for name in session:
        session[name]
    assert session["cart"][0]["sku"] == 1
    assert not session.delta()


def test_fields_are_decoded_when_they_are_first_looked_at_and_once() -> None:
    codec, ticket = CountingCodec(), a_ticket()
    session = Session(codec, ticket)
    session.admit(loaded({"user": '"Garimoo"', "cart": "[]"})._record)
    session["new"] = 1
    assert codec.decoded == []
    assert (session["user"], session.get("user"), "user" in session) == ("Garimoo", "Garimoo", True)
    assert codec.decoded == ["user"]


def test_each_change_is_a_change_of_one_field() -> None:
    session = loaded({"a": "1", "b": "2", "c": "3", "d": "4"})
    session["a"] = "changed"
    session["new"] = [1]
    del session["b"]
    session.increment("c", 5)
    delta = session.delta()
    assert delta.sets == {"a": '"changed"', "new": "[1]"}
    assert (delta.deletes, delta.increments, delta.retain) == (("b",), {"c": 5}, None)


def test_a_value_changed_in_place_is_noticed_without_any_ritual() -> None:
    session = loaded({"cart": '{"items":[{"sku":1}]}', "tags": '{"@set":["a"]}', "other": "[]"})
    session["cart"]["items"][0]["n"] = 2
    session["tags"].add("b")
    assert session.delta().sets == {"cart": '{"items":[{"sku":1,"n":2}]}', "tags": '{"@set":["a","b"]}'}
    session["cart"]["items"][0].pop("n")
    assert set(session.delta().sets) == {"tags"}, "changed back is not changed"


def test_a_value_changed_in_place_after_it_was_set_is_stored_as_it_is_at_the_end() -> None:
    session = fresh()
    cart = session["cart"] = []
    cart.append(1)
    session["cart"].append(2)
    session.setdefault("log", []).append("x")
    assert session.delta().sets == {"cart": "[1,2]", "log": '["x"]'}


def test_a_value_changed_in_place_so_that_it_cannot_be_stored_names_its_field() -> None:
    session = loaded({"cart": "[]"})
    session["cart"].append(object())
    with pytest.raises(UnstorableValue, match="'cart' cannot hold this object"):
        session.delta()


@pytest.mark.parametrize(
    "text",
    [
        " [ 1 , 2 ]",
        '{"b": 1,  "a":2}',
        '["\\u00e9"]',
        "[1e2]",
        '{"@set": [2, 1]}',
        '{"@tuple" : [ [] ]}',
        '{"a":1,"a":2}',
        '{"x":{"@bytes":"aGk="}}\n',
    ],
)
def test_how_another_language_spells_its_json_is_no_change(text: str) -> None:
    session = loaded({"cart": text})
    assert session["cart"]
    assert not session.delta().sets
    assert not session.delta()


def test_setting_a_field_to_what_it_is_still_counts() -> None:
    """Another request may change it meanwhile, and the later one wins."""
    session = loaded({"lang": '"de"'})
    session["lang"] = "de"
    assert session.delta().sets == {"lang": '"de"'}


def test_a_field_set_and_deleted_again_is_nothing() -> None:
    session = loaded()
    session["x"] = 1
    del session["x"]
    assert not session.delta()
    assert "x" not in session


def test_a_field_deleted_and_set_again_is_set() -> None:
    session = loaded({"x": "[1]"})
    session["x"].append(2)
    del session["x"]
    assert "x" not in session
    assert (session.delta().deletes, session.delta().sets) == (("x",), {})
    session["x"] = []
    delta = session.delta()
    assert (delta.sets, delta.deletes) == ({"x": "[]"}, ())


def test_clearing_clears_what_this_request_never_saw() -> None:
    session = loaded({"a": "1", "cart[x]": "[]"})
    session["cart[x]"].append(1)
    session["b"] = 2
    session.increment("n")
    session.clear()
    assert dict(session) == {}
    delta = session.delta()
    assert (delta.retain, delta.sets, delta.deletes, delta.increments) == ((), {}, (), {})
    session["c"] = 3
    session.increment("a")
    delta = session.delta()
    assert (delta.retain, delta.sets, delta.increments) == ((), {"c": "3"}, {"a": 1})
    assert dict(session) == {"c": 3, "a": 1}


def test_clearing_an_empty_new_session_is_nothing() -> None:
    session = fresh()
    session.clear()
    assert not session.delta()


# --- counters --------------------------------------------------------------------------------------------------------


def test_a_counter_counts_from_what_is_stored_or_from_0() -> None:
    session = loaded({"hits": "41"})
    assert session.increment("hits") == 42
    assert session.increment("hits", -2) == 40
    assert session["hits"] == 40
    assert session.increment("new", 3) == 3
    assert session.delta().increments == {"hits": -1, "new": 3}
    assert not session.delta().sets


def test_a_counter_that_this_request_set_is_set() -> None:
    session = loaded({"hits": "41"})
    session["hits"] = 1
    assert session.increment("hits") == 2
    del session["hits"]
    assert session.increment("hits") == 1
    delta = session.delta()
    assert (delta.sets, delta.increments, delta.deletes) == ({"hits": "1"}, {}, ())


def test_setting_or_deleting_a_counter_overrules_what_was_added() -> None:
    session = loaded({"a": "1", "b": "1"})
    session.increment("a")
    session.increment("b")
    session["a"] = 7
    del session["b"]
    delta = session.delta()
    assert (delta.sets, delta.deletes, delta.increments) == ({"a": "7"}, ("b",), {})


def test_in_a_new_session_a_counter_is_a_field_like_any_other() -> None:
    session = fresh()
    session.increment("hits")
    session.increment("hits")
    assert session.delta().sets == {"hits": "2"}


@pytest.mark.parametrize("text", ['"2"', "2.0", "true", "null", "[]", '{"@decimal":"2"}'])
def test_what_is_no_integer_is_not_counted(text: str) -> None:
    session = loaded({"hits": text})
    with pytest.raises(NotACounter, match="'hits'"):
        session.increment("hits")
    assert not session.delta()
    session["hits"] = 1
    assert session.increment("hits") == 2


@pytest.mark.parametrize("by", [1.0, True, "1", None])
def test_one_adds_integers(by: Any) -> None:
    with pytest.raises(TypeError, match="'hits'"):
        loaded().increment("hits", by)


@pytest.mark.parametrize(
    ("start", "steps"),
    [
        (2**63 - 1, [1]),
        (-(2**63), [-1]),
        (2**70, [1]),
        (0, [2**63]),
        (0, [2**63 - 1, 1]),
        (-(2**63), [2**63 - 1, 2**63 - 1]),  # the sum would fit, but no store adds so much at once
    ],
)
def test_a_counter_stays_within_64_bits(start: int, steps: list[int]) -> None:
    session = loaded({"n": str(start)})
    for step in steps[:-1]:
        session.increment("n", step)
    before = session["n"]
    with pytest.raises(NotACounter, match="'n'"):
        session.increment("n", steps[-1])
    assert session["n"] == before


# --- maps ------------------------------------------------------------------------------------------------------------


def test_the_entries_of_a_map_are_fields_of_their_own() -> None:
    session = loaded({"cart[sku-42]": "1", "cart[a[b]]": "2", "cart2[x]": "9", "cart": "[]", "cart[": "8"})
    cart = session.map("cart")
    assert isinstance(cart, MutableMapping)
    assert dict(cart) == {"sku-42": 1, "a[b]": 2}
    assert len(cart) == 2
    assert "sku-42" in cart
    cart["sku-7"] = 3
    assert cart.increment("sku-42", 5) == 6
    del cart["a[b]"]
    delta = session.delta()
    assert delta.sets == {"cart[sku-7]": "3"}
    assert (delta.increments, delta.deletes) == ({"cart[sku-42]": 5}, ("cart[a[b]]",))
    assert dict(cart) == {"sku-42": 6, "sku-7": 3}
    assert dict(session.map("cart")) == dict(cart), "it is a view"


def test_a_map_may_be_emptied_and_keys_may_be_odd() -> None:
    cart = (session := loaded()).map("cart")
    for key in ("", "]", "[", "[x]", "@id", "é", "a b"):
        cart[key] = key
    assert dict(cart) == {key: key for key in ("", "]", "[", "[x]", "@id", "é", "a b")}
    cart.clear()
    assert dict(cart) == {}
    assert not session.delta()


@pytest.mark.parametrize("key", [7, None, ("a",)])
def test_a_map_has_strings_for_keys(key: Any) -> None:
    cart = loaded({"cart[7]": "1", "cart[None]": "1"}).map("cart")
    assert key not in cart
    assert cart.get(key) is None
    with pytest.raises(KeyError):
        del cart[key]
    with pytest.raises(BadFieldName, match="cannot name a session field"):
        cart[key] = 1
    with pytest.raises(BadFieldName, match="cannot name a session field"):
        cart.increment(key)


def test_a_missing_entry_is_named_by_its_key() -> None:
    with pytest.raises(KeyError, match=r"^'sku-42'$"):
        loaded().map("cart")["sku-42"]
    with pytest.raises(KeyError, match=r"^'sku-42'$"):
        del loaded().map("cart")["sku-42"]


@pytest.mark.parametrize("name", ["", "cart[", "[", "@cart"])
def test_what_cannot_name_a_map_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="map name"):
        loaded().map(name)


# --- a field that cannot be read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "four thousand", '{"@unknown":1}', '{"@float":"x"}', "\ud800", "[" * 5000])
def test_one_unreadable_field_fails_alone_by_name_and_is_healed_by_assignment(text: str) -> None:
    session = loaded({"user": '"Garimoo"', "cart": text})
    with pytest.raises(UnreadableField) as unreadable:
        session["cart"]
    assert isinstance(unreadable.value, KeyError)
    assert unreadable.value.field == "cart"
    assert "'cart'" in str(unreadable.value)
    assert str(session.session_id) in str(unreadable.value)
    assert "thousand" not in str(unreadable.value)

    assert session.get("cart", "default") == "default"
    assert "cart" not in session
    assert (list(session), len(session), dict(session)) == (["user"], 1, {"user": "Garimoo"})
    assert not session.delta()

    session["cart"] = [1]
    assert session["cart"] == [1]
    assert session.delta().sets == {"cart": "[1]"}


def test_a_damaged_counter_counts_from_zero_again() -> None:
    session = loaded({"cart[x]": "bad"})
    assert session.map("cart").increment("x", 2) == 2
    assert session.delta().sets == {"cart[x]": "2"}
    assert session.delta().increments == {}  # the store would refuse to add to what is no number
    assert [error.field for error in session.take_unreadable()] == ["cart[x]"]


def test_a_damaged_counter_stays_within_64_bits_too() -> None:
    session = loaded({"n": "bad"})
    with pytest.raises(NotACounter, match="'n'"):
        session.increment("n", 2**63)
    assert not session.delta()


def test_an_unreadable_field_can_be_deleted_and_is_reported_once() -> None:
    session = loaded({"cart": "{", "cart[x]": "{"})
    assert session.take_unreadable() == []
    assert len(session) == 0
    with pytest.raises(UnreadableField):
        session.map("cart")["x"]
    assert sorted(error.field for error in session.take_unreadable()) == ["cart", "cart[x]"]
    assert session.take_unreadable() == []
    del session["cart"]
    assert session.delta().deletes == ("cart",)


def test_an_unreadable_field_is_cleared_with_the_rest() -> None:
    session = loaded({"cart": "{"})
    session.clear()
    assert session.delta().retain == ()
    assert list(session) == []


# --- a login ---------------------------------------------------------------------------------------------------------


def test_a_login_drops_what_was_planted_before_it() -> None:
    """CVE-2023-29020."""
    session = loaded({"is_admin": "true", "cart[x]": "1", "hits": "1", "log": "[]"})
    session["log"].append("changed in place, but stored before the login")
    assert session["is_admin"]
    del session["cart[x]"]
    session.increment("hits")
    session["lang"] = "de"
    session.renew(owner="user-7")
    assert dict(session) == {"lang": "de"}
    for name in ("is_admin", "cart[x]", "hits", "log"):
        assert name not in session
        assert session.get(name) is None, "not even what was looked at before"
    delta = session.delta()
    assert (delta.retain, delta.sets, delta.deletes, delta.increments) == ((), {"lang": '"de"'}, (), {})
    assert session.owner == "user-7"


def test_a_login_carries_over_what_it_is_told_to() -> None:
    fields = {"is_admin": "true", "cart[x]": "1", "cart": "[]", "cart2": "2", "hits": "1", "n": "1"}
    session = loaded(fields)
    session["cart"].append(1)
    session.increment("hits")
    session.increment("n")
    del session["cart[x]"]
    session.renew(owner="user-7", keep=("cart", "hits"))
    assert dict(session) == {"cart": [1], "hits": 2}
    delta = session.delta()
    assert delta.retain == ("cart", "hits")
    assert (delta.sets, delta.deletes, delta.increments) == ({"cart": "[1]"}, ("cart[x]",), {"hits": 1})


def test_keep_may_be_one_name_or_everything() -> None:
    one = loaded({"a": "1", "abc": "2", "b": "3"})
    one.renew(owner="user-7", keep="abc")
    assert dict(one) == {"abc": 2}
    everything = loaded({"a": "1"})
    everything.renew(owner="user-7", keep=True)
    assert (dict(everything), everything.delta().retain) == ({"a": 1}, None)
    nothing = loaded({"a": "1"})
    nothing.renew(owner="user-7", keep=False)
    assert dict(nothing) == {}
    generated = loaded({"a": "1", "b": "2"})
    generated.renew(owner="user-7", keep=(name for name in "a"))
    assert dict(generated) == {"a": 1}


def test_a_renewal_without_another_owner_keeps_everything() -> None:
    for renew in ({}, {"owner": "user-7"}):
        session = loaded({"a": "1"}, owner="user-7")
        session.renew(**renew)
        assert dict(session) == {"a": 1}
        assert not session.delta()


def test_clearing_before_a_login_stays_cleared() -> None:
    session = loaded({"a": "1", "b": "2"})
    session.clear()
    session.renew(owner="user-7", keep=True)
    assert session.delta().retain == ()
    session = loaded({"a": "1", "b": "2"})
    session.clear()
    session.renew(owner="user-7", keep="a")
    assert (session.delta().retain, dict(session)) == ((), {})
    session = loaded({"a": "1", "b": "2"})
    session.renew(owner="user-7", keep="a")
    session.clear()
    assert (session.delta().retain, dict(session)) == ((), {})


@pytest.mark.parametrize("owner", ["", 7, b"user-7", ("user",)])
def test_an_owner_is_a_string(owner: Any) -> None:
    session = loaded({"a": "1"})
    with pytest.raises(ValueError, match="owner="):
        session.renew(owner=owner)
    assert dict(session) == {"a": 1}


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_destroyed_session_is_empty_and_what_follows_is_another_one() -> None:
    session = loaded({"user": '"Garimoo"', "cart": "[]"}, owner="user-7")
    before = session.session_id
    session["cart"].append(1)
    session.renew()
    session.destroy()
    assert (dict(session), session.is_new, session.session_id, session.owner) == ({}, True, None, None)
    assert not session.delta()
    session["user"] = "somebody"
    assert session.ticket is not None
    assert session.ticket.session_id != before
    assert session.delta().sets == {"user": '"somebody"'}


def test_destroying_a_new_session_is_nothing() -> None:
    session = fresh()
    session["a"] = 1
    session.destroy()
    session.destroy()
    assert dict(session) == {}


# --- going on after a commit -----------------------------------------------------------------------------------------


def test_after_a_commit_changes_count_from_there() -> None:
    session = loaded({"cart": "[1]", "gone": "1"})
    session["cart"].append(2)
    new = session["new"] = [1]
    del session["gone"]
    record = session._record
    assert record is not None
    session.advance(session.delta())
    session.settle(but(record, version=8), Applied(8, NOW))
    assert not session.delta()
    new.append(2)
    session["cart"].append(3)
    assert session.delta().sets == {"cart": "[1,2,3]", "new": "[1,2]"}
    assert session.delta().deletes == ()
    assert "gone" not in session


# --- what a handler can learn ----------------------------------------------------------------------------------------


def test_a_new_session_knows_that_it_is_new() -> None:
    session = fresh()
    session["a"] = 1
    assert (session.is_new, session.session_id, session.created_at, session.expires_at, session.owner) == (
        True, None, None, None, None
    )  # fmt: skip


def test_a_stored_session_knows_its_times_by_the_stores_clock() -> None:
    session = loaded(
        owner="user-7", created_ms=NOW, touched_ms=NOW + HOUR, idle_ms=2 * HOUR, deadline_ms=NOW + 24 * HOUR
    )
    assert not session.is_new
    assert session.owner == "user-7"
    assert session.created_at == datetime.fromtimestamp(NOW / 1000, UTC)
    assert session.expires_at == datetime.fromtimestamp((NOW + 3 * HOUR) / 1000, UTC)


def test_neither_repr_nor_str_shows_a_value() -> None:
    session = loaded({"user": '"four thousand"', "cart[x]": '"four thousand"', "broken": "four thousand"})
    session["new"] = "four thousand"
    assert session["user"]
    assert session.get("broken") is None
    for shown in (repr(session), str(session), repr(session.map("cart")), f"{session}"):
        assert "thousand" not in shown
        assert str(session.session_id) in shown
    assert repr(session).endswith(": user, cart[x], broken, new>")
    assert repr(fresh()) == "<Session new: empty>"
    assert repr(Session(CODEC, a_ticket())) == "<Session not loaded>"
    ticket = session.ticket
    assert ticket is not None
    assert ticket.cookie_value[16:] not in repr(session)


LOOKS = {
    "in": lambda session: "a" in session,
    "len": len,
    "iter": list,
    "bool": bool,
    "get": lambda session: session.get("a"),
    "item": lambda session: session.get("a"),
    "set": lambda session: session.update(a=1),
    "clear": lambda session: session.clear(),
    "equal": lambda session: session == {},
    "increment": lambda session: session.increment("n"),
    "map": lambda session: len(session.map("m")),
    "is_new": lambda session: session.is_new,
    "owner": lambda session: session.owner,
    "created_at": lambda session: session.created_at,
    "expires_at": lambda session: session.expires_at,
    "renew": lambda session: session.renew(),
    "destroy": lambda session: session.destroy(),
    "require_unchanged": lambda session: session.require_unchanged(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_any_look_counts_as_one(look: Any) -> None:
    """CVE-2023-30861, CVE-2026-27205, CVE-2026-35192: what depends on the session says so to caches."""
    for session in (loaded({"a": "1"}), fresh()):
        assert not session.looked_at
        look(session)
        assert session.looked_at


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_session_that_is_not_loaded_yet_says_how_to_load_it(look: Any) -> None:
    session = Session(CODEC, a_ticket())
    assert not session.loaded
    with pytest.raises(NotLoaded, match=r"session\.load\(\)"):
        look(session)


# --- too late --------------------------------------------------------------------------------------------------------

CHANGES = {
    "set": lambda session: session.update(a=1),
    "delete": lambda session: session.pop("a"),
    "increment": lambda session: session.increment("n"),
    "map": lambda session: session.map("m").update(x=1),
    "clear": lambda session: session.clear(),
    "renew": lambda session: session.renew(),
    "login": lambda session: session.renew(owner="user-7"),
    "destroy": lambda session: session.destroy(),
}
LATE = TooLate("change of a session", "the response has begun", "Change it earlier")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_comes_too_late_says_what_to_do_and_changes_nothing(change: Any) -> None:
    session = loaded({"a": "1"})
    session.close(LATE, None)
    assert session.sealed
    with pytest.raises(TooLate, match="Change it earlier"):
        change(session)
    assert dict(session) == {"a": 1}, "it can still be read"
    assert not session.delta()
    session.unseal()
    change(session)


def test_when_no_cookie_can_go_out_any_more_nothing_that_needs_one_is_begun() -> None:
    new = fresh()
    new.close(None, LATE)
    with pytest.raises(TooLate):
        new["a"] = 1
    old = loaded({"a": "1"})
    old.close(None, LATE)
    old["a"] = 2  # needs no new cookie
    for owner in (None, "user-7"):
        with pytest.raises(TooLate):
            old.renew(owner=owner)
    old.destroy()
    with pytest.raises(TooLate):
        old["b"] = 1
