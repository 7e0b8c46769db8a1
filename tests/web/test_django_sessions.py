"""What Django's documentation says of a session holds, whether it is awaited or not."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import pytest

from tests.web import django_site  # noqa: F401 - its settings come before anything else of Django

from django.conf import settings  # isort: skip
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import override_settings
from django.utils import timezone

from coatcheck.django import SessionStore, session_manager, session_settings
from coatcheck.errors import Conflict, UnstorableValue
from coatcheck.stores.memory import MemoryStore
from tests.servers.valkey import Valkey

Do: TypeAlias = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["memory", "valkey"])
def store(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every kind of store in turn."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("valkey_url")
    with override_settings(COATCHECK={"store": url, "store_timeout": 5}):
        yield
        session_manager().close()


@pytest.fixture(params=["sync", "async"])
def do(request: pytest.FixtureRequest, store: None) -> Do:
    """`await do(session, "save")` is `session.save()`, or `await session.asave()`. `set` is given what to set."""

    waits = request.param == "async"

    async def call(session: SessionStore, what: str, *args: Any, **options: Any) -> Any:
        if what == "set":
            for key, value in args[0].items():
                if waits:
                    await session.aset(key, value)
                else:
                    session[key] = value
            return None
        if waits:
            return await getattr(session, f"a{what}")(*args, **options)
        return getattr(session, what)(*args, **options)

    return call


async def stored(do: Do, **items: Any) -> SessionStore:
    session = SessionStore()
    await do(session, "set", items)
    await do(session, "save")
    return session


async def seen(do: Do, key: str | None) -> dict[str, Any]:
    """What another request finds under this key."""
    return dict(await do(SessionStore(key), "items"))


# --- a mapping ----------------------------------------------------------------------------------------------------------


async def test_a_new_session_has_nothing_and_was_not_looked_at(do: Do) -> None:
    session = SessionStore()
    assert (session.modified, session.accessed, session.session_key, session.is_empty()) == (False, False, None, True)
    assert await do(session, "get", "cat") is None
    assert (session.modified, session.accessed, session.is_empty()) == (False, True, True)
    await do(session, "set", {"cat": "dog"})
    assert (session.modified, session.is_empty()) == (True, False)
    assert session.session_key is None, "it has no key before it is saved"


async def test_it_reads_like_a_dict(do: Do) -> None:
    session = await stored(do, cat="dog", number=3)
    session = SessionStore(session.session_key)
    assert await do(session, "get", "cat", "fish") == "dog"
    assert await do(session, "get", "bird", "fish") == "fish"
    assert await do(session, "has_key", "cat")
    assert "cat" in session
    assert "bird" not in session
    assert set(await do(session, "keys")) == {"cat", "number"}
    assert set(await do(session, "values")) == {"dog", 3}
    assert set(await do(session, "items")) == {("cat", "dog"), ("number", 3)}
    assert await do(session, "setdefault", "cat", "fish") == "dog"
    assert (session.accessed, session.modified) == (True, False)
    assert await do(session, "setdefault", "bird", "fish") == "fish"
    assert session.modified


async def test_what_changes_it_is_modified(do: Do) -> None:
    key = (await stored(do, cat="dog")).session_key
    changes: list[tuple[str, tuple[Any, ...]]] = [("update", ({"a": 1},)), ("pop", ("cat",)), ("set_test_cookie", ())]
    for what, arguments in changes:
        session = SessionStore(key)
        await do(session, what, *arguments)
        assert session.modified, what
    session = SessionStore(key)
    assert await do(session, "pop", "nothing", "default") == "default"
    assert not session.modified
    with pytest.raises(KeyError):
        await do(session, "pop", "nothing")
    del session["cat"]
    assert session.modified
    with pytest.raises(KeyError):
        del session["cat"]


async def test_clear_empties_it_and_keeps_the_key(do: Do) -> None:
    session = await stored(do, cat="dog")
    again = SessionStore(session.session_key)
    again.clear()
    assert (again.modified, again.accessed, list(await do(again, "items"))) == (True, True, [])
    await do(again, "save")
    assert again.session_key == session.session_key
    assert await seen(do, session.session_key) == {}


async def test_the_test_cookie(do: Do) -> None:
    session = SessionStore()
    assert not await do(session, "test_cookie_worked")
    await do(session, "set_test_cookie")
    assert await do(session, "test_cookie_worked")
    await do(session, "save")
    session = SessionStore(session.session_key)
    await do(session, "delete_test_cookie")
    assert session.modified
    assert not await do(session, "test_cookie_worked")


async def test_what_is_changed_in_place_is_saved_too(do: Do) -> None:
    key = (await stored(do, cart={"tea": 1})).session_key
    session = SessionStore(key)
    (await do(session, "get", "cart"))["tea"] = 2
    assert session.modified
    await do(session, "save")
    assert await seen(do, key) == {"cart": {"tea": 2}}


async def test_what_cannot_be_stored_is_refused_at_once(do: Do) -> None:
    with pytest.raises(UnstorableValue, match="'view'"):
        await do(SessionStore(), "set", {"view": object()})


# --- in the store ---------------------------------------------------------------------------------------------------------


async def test_saving_and_loading(do: Do) -> None:
    session = await stored(do, cat="dog")
    assert session.session_key is not None
    assert await do(session, "exists", session.session_key)
    assert await seen(do, session.session_key) == {"cat": "dog"}
    assert await do(SessionStore(session.session_key), "load") == {"cat": "dog"}


async def test_creating_stores_an_empty_session_with_a_key(do: Do) -> None:
    session = SessionStore()
    await do(session, "create")
    assert session.modified
    assert await do(session, "exists", session.session_key)
    assert (session.session_key or "").startswith(session.session_id or "nothing")
    first = session.session_key
    await do(session, "set", {"cat": "dog"})
    await do(session, "save")
    await do(session, "create")
    assert session.session_key != first
    assert await seen(do, session.session_key) == await seen(do, first) == {"cat": "dog"}


async def test_an_empty_session_can_be_saved(do: Do) -> None:
    session = SessionStore()
    await do(session, "save")
    assert await do(session, "exists", session.session_key)


@pytest.mark.parametrize("key", ["", "1", "A" * 48, "x" * 5000, "../" * 16, "é" * 48, None])
async def test_a_key_that_opens_nothing_is_never_adopted(do: Do, key: str | None) -> None:
    assert not await do(SessionStore(), "exists", key)
    assert await do(SessionStore(key), "load") == {}
    session = SessionStore(key)
    await do(session, "set", {"cat": "dog"})
    assert session.session_key is None
    await do(session, "save")
    assert session.session_key not in (key, None)
    assert not await do(session, "exists", key)


async def test_the_right_id_with_a_wrong_secret_opens_and_ends_nothing(do: Do) -> None:
    session = await stored(do, cat="dog")
    forged = (session.session_key or "")[:16] + "A" * 32
    assert await seen(do, forged) == {}
    assert not await do(session, "exists", forged)
    await do(SessionStore(), "delete", forged)
    await do(SessionStore(forged), "flush")
    assert await seen(do, session.session_key) == {"cat": "dog"}


async def test_saving_what_ended_meanwhile_is_an_update_error(do: Do) -> None:
    session = await stored(do, cat="dog")
    other = SessionStore(session.session_key)
    await do(other, "get", "cat")
    await do(session, "delete", session.session_key)
    assert not await do(session, "exists", session.session_key)
    for late in (other, session):
        await do(late, "set", {"cat": "fish"})
        with pytest.raises(UpdateError):
            await do(late, "save")
        with pytest.raises(UpdateError):
            await do(late, "save")
    assert not await do(session, "exists", session.session_key)
    with pytest.raises(UpdateError):
        await do(SessionStore(session.session_key), "save")


async def test_saving_unchanged_what_ended_meanwhile_is_an_update_error_too(do: Do) -> None:
    session = await stored(do, cat="dog")
    other = SessionStore(session.session_key)
    await do(other, "get", "cat")
    await do(session, "flush")
    with pytest.raises(UpdateError):
        await do(other, "save")


async def test_creating_what_exists_is_a_create_error(do: Do) -> None:
    session = await stored(do, cat="dog")
    with pytest.raises(CreateError):
        await do(SessionStore(session.session_key), "save", must_create=True)
    fresh = SessionStore()
    await do(fresh, "save", must_create=True)
    assert fresh.session_key


async def test_deleting_the_present_session(do: Do) -> None:
    session = await stored(do, cat="dog")
    await do(session, "delete")
    assert not await do(session, "exists", session.session_key)
    await do(SessionStore(), "delete")  # there is none


async def test_flush_ends_the_session_and_begins_another(do: Do) -> None:
    session = await stored(do, cat="dog")
    before = session.session_key
    await do(session, "flush")
    assert (session.session_key, session.modified, session.accessed) == (None, True, True)
    assert session.is_empty()
    assert not await do(session, "exists", before)
    await do(session, "set", {"cat": "fish"})
    await do(session, "save")
    assert (session.session_key or "")[:16] != (before or "")[:16]
    assert await seen(do, session.session_key) == {"cat": "fish"}


@pytest.mark.parametrize("loaded", [True, False])
async def test_cycling_the_key_keeps_the_data_and_ends_the_old_key(do: Do, loaded: bool) -> None:
    session = await stored(do, cat="dog", number=3)
    before = session.session_key
    if not loaded:
        session = SessionStore(before)
    await do(session, "cycle_key")
    assert (session.modified, session.accessed) == (True, True)
    assert session.session_key not in (before, None)
    assert not await do(session, "exists", before)
    assert await seen(do, before) == {}
    assert await seen(do, session.session_key) == {"cat": "dog", "number": 3}
    key = session.session_key
    await do(session, "set", {"cat": "fish"})
    await do(session, "save")
    assert session.session_key == key
    assert await seen(do, key) == {"cat": "fish", "number": 3}


async def test_cycling_the_key_of_a_new_session(do: Do) -> None:
    session = SessionStore()
    await do(session, "set", {"cat": "dog"})
    await do(session, "cycle_key")
    key = session.session_key
    assert key is not None
    await do(session, "save")
    assert session.session_key == key
    assert await seen(do, key) == {"cat": "dog"}


async def test_cycling_the_key_of_a_session_that_ended_is_an_interruption(do: Do) -> None:
    session = await stored(do, cat="dog")
    other = SessionStore(session.session_key)
    await do(other, "get", "cat")
    await do(session, "flush")
    with pytest.raises(SessionInterrupted):
        await do(other, "cycle_key")
    assert await seen(do, other.session_key) == {}


async def test_two_requests_that_change_different_keys_both_count(do: Do) -> None:
    key = (await stored(do, cat="dog", bird="owl")).session_key
    here, there = SessionStore(key), SessionStore(key)
    await do(here, "set", {"cat": "fish"})
    await do(there, "pop", "bird")
    await do(there, "set", {"number": 3})
    await do(there, "save")
    await do(here, "save")
    assert await seen(do, key) == {"cat": "fish", "number": 3}


async def test_counters_and_maps_are_exact(do: Do) -> None:
    key = (await stored(do, cat="dog")).session_key
    here, there = SessionStore(key), SessionStore(key)
    for session in (here, there):
        assert await do(session, "increment", "hits", 2) == 2
        cart = await do(session, "map", "cart")
        cart.increment("tea")
        assert session.modified
    await do(here, "save")
    await do(there, "save")
    again = SessionStore(key)
    assert await do(again, "get", "hits") == 4
    assert dict(await do(again, "map", "cart")) == {"tea": 2}


async def test_require_unchanged_is_refused_by_a_conflict(do: Do) -> None:
    key = (await stored(do, balance=10)).session_key
    here, there = SessionStore(key), SessionStore(key)
    await do(here, "get", "balance")
    await do(there, "set", {"balance": 0})
    await do(there, "save")
    here.require_unchanged()
    await do(here, "set", {"order": "paid"})
    with pytest.raises(Conflict):
        await do(here, "save")


async def test_the_user_owns_the_session(do: Do) -> None:
    """So that all sessions of a user can be listed and ended, and another application knows whose it is."""
    session = await stored(do, _auth_user_id="17")
    manager = session_manager()
    assert [record.session_id for record in manager.sessions_of("17")] == [session.session_id]
    assert manager.end_sessions_of("17") == 1
    assert await seen(do, session.session_key) == {}


# --- when it expires --------------------------------------------------------------------------------------------------------


async def idle_ms(session: SessionStore) -> int:
    """For how long the store keeps it."""
    record = session_manager().store.read(str(session.session_id))
    assert record is not None
    return record.idle_ms


async def test_it_expires_by_the_setting(do: Do) -> None:
    session = await stored(do, cat="dog")
    assert await do(session, "get_expiry_age") == settings.SESSION_COOKIE_AGE == 14 * 86_400
    assert await idle_ms(session) == 14 * 86_400_000
    with override_settings(SESSION_COOKIE_AGE=60):
        assert await idle_ms(await stored(do, cat="dog")) == 60_000


async def test_it_expires_after_so_many_seconds(do: Do) -> None:
    session = SessionStore()
    await do(session, "set_expiry", 10)
    assert await do(session, "get_expiry_age") == 10
    modification = timezone.now()
    assert await do(session, "get_expiry_date", modification=modification) == modification + timedelta(seconds=10)
    assert not await do(session, "get_expire_at_browser_close")
    await do(session, "save")
    assert await idle_ms(session) == 10_000
    again = SessionStore(session.session_key)
    assert await do(again, "get_expiry_age") == 10
    await do(again, "set_expiry", None)
    assert await do(again, "get_expiry_age") == settings.SESSION_COOKIE_AGE
    await do(again, "save")
    assert await idle_ms(again) == 14 * 86_400_000


async def test_for_ever_is_as_long_as_a_store_can_say(do: Do) -> None:
    session = await stored(do, cat="dog")
    await do(session, "set_expiry", 1000 * 366 * 86_400)
    await do(session, "save")
    assert await idle_ms(session) == 100 * 366 * 86_400_000
    assert await seen(do, session.session_key) == {"cat": "dog", "_session_expiry": 1000 * 366 * 86_400}


async def test_it_expires_at_a_moment(do: Do) -> None:
    modification = timezone.now()
    for value in (timedelta(seconds=60), modification + timedelta(seconds=60)):
        session = SessionStore()
        await do(session, "set_expiry", value)
        date = await do(session, "get_expiry_date", modification=modification)
        assert abs(date - modification - timedelta(seconds=60)) < timedelta(seconds=20)
        assert 40 <= await do(session, "get_expiry_age", modification=modification) <= 80
        await do(session, "save")
        assert 30_000 <= await idle_ms(session) <= 60_000
        assert isinstance(await do(SessionStore(session.session_key), "get_expiry_date"), datetime)
    assert await do(SessionStore(), "get_expiry_age", modification=modification, expiry=None) == 14 * 86_400


async def test_it_expires_when_the_browser_closes(do: Do) -> None:
    session = SessionStore()
    assert not await do(session, "get_expire_at_browser_close")
    with override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True):
        assert await do(session, "get_expire_at_browser_close")
        await do(session, "set_expiry", 10)
        assert not await do(session, "get_expire_at_browser_close")
    await do(session, "set_expiry", 0)
    assert await do(session, "get_expire_at_browser_close")
    await do(session, "save")
    assert await idle_ms(session) == 14 * 86_400_000


async def test_what_has_expired_is_gone(do: Do) -> None:
    session = await stored(do, cat="dog")
    await do(session, "set_expiry", -10)
    await do(session, "save")
    time.sleep(0.02)
    assert await seen(do, session.session_key) == {}
    assert not await do(session, "exists", session.session_key)


async def test_saving_begins_the_time_anew_and_reading_does_not(do: Do) -> None:
    session = await stored(do, cat="dog")
    record = session_manager().store.read(str(session.session_id))
    assert record is not None
    time.sleep(0.02)
    reader = SessionStore(session.session_key)
    await do(reader, "get", "cat")
    read = session_manager().store.read(str(session.session_id))
    assert read is not None
    assert read.touched_ms == record.touched_ms
    await do(reader, "save")
    saved = session_manager().store.read(str(session.session_id))
    assert saved is not None
    assert saved.touched_ms > record.touched_ms
    assert saved.version == record.version, "nothing has changed"


async def test_an_absolute_timeout_can_be_set(do: Do) -> None:
    options = {**settings.COATCHECK, "absolute_timeout": 3600}
    with override_settings(COATCHECK=options):
        session = await stored(do, cat="dog")
        record = session_manager().store.read(str(session.session_id))
        assert record is not None
        assert record.deadline_ms == record.created_ms + 3_600_000
        assert record.idle_ms == 3_600_000
        session_manager().close()


async def test_what_has_expired_can_be_cleared(do: Do) -> None:
    kept = await stored(do, cat="dog")
    for clear in (lambda: do(SessionStore(), "clear_expired"), lambda: _call("clearsessions")):
        session = await stored(do, cat="fish")
        await do(session, "set_expiry", -10)
        await do(session, "save")
        time.sleep(0.02)
        await clear()
        store = session_manager().store
        if isinstance(store, MemoryStore):
            assert len(store) == 1
    assert await seen(do, kept.session_key) == {"cat": "dog"}


async def _call(command: str) -> None:
    call_command(command)


# --- the rest of it ---------------------------------------------------------------------------------------------------------


def test_encoding_as_django_does() -> None:
    session = SessionStore()
    assert session.decode(session.encode({"cat": "dog"})) == {"cat": "dog"}
    assert session.decode("nonsense") == {}


def test_the_record_is_like_any_other(valkey: Valkey, valkey_url: str, prefix: str) -> None:
    """A hash with a field for each key, which other languages can read."""
    with override_settings(COATCHECK={"store": valkey_url, "store_timeout": 5}):
        session = SessionStore()
        session.update({"user": "garimoo", "numbers": [1, 2]})
        session.save()
        with valkey.client() as client:
            record = client.hgetall(f"{prefix}session:{session.session_id}")
        assert record["user"] == '"garimoo"'
        assert record["numbers"] == "[1,2]"
        assert (session.session_key or "")[16:] not in str(record), "the secret is nowhere in the store"
        session_manager().close()


def test_settings_for_others() -> None:
    with override_settings(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Strict", SESSION_COOKIE_AGE=600):
        shared = session_settings()
    assert (shared.idle_ms, shared.absolute_ms, shared.touch_ms) == (600_000, None, 30_000)
    assert (shared.cookie.name, shared.cookie.secure, shared.cookie.same_site) == ("sessionid", True, "strict")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (None, "Set COATCHECK"),
        ({}, r"COATCHECK\['store'\]"),
        ({"store": "nowhere://"}, "no store for the scheme"),
        ({"store": "memory://", "timeout": 5}, r"COATCHECK\['timeout'\].*no such option"),
        ({"store": "memory://", "store_timeout": -1}, "store_timeout=-1: out of range"),
    ],
)
def test_wrong_options_are_refused(options: Any, complaint: str) -> None:
    with override_settings(COATCHECK=options), pytest.raises(ImproperlyConfigured, match=complaint):
        SessionStore()
