"""A Django site as its visitors see it: cookies, logins, the admin, messages, and what `manage.py check` says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.cookies import Morsel
from typing import Any

import pytest

from tests.web import django_site

from django.conf import settings  # isort: skip
from django.contrib.auth.models import User
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient, Client, override_settings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coatcheck.django import SessionStore, session_manager, session_settings
from coatcheck.errors import StoreUnavailable
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from tests.servers.browser import Browser

OWN = "coatcheck.django.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"


@pytest.fixture(scope="module", autouse=True)
def database() -> Iterator[None]:
    django_site.set_up_database()
    yield
    from django.db import connections

    connections.close_all()


class Failing(MemoryStore):
    """Goes down when it is told to."""

    down = False

    def _ask(self) -> None:
        if self.down:
            raise StoreUnavailable("test://", "down", retry_after=7)

    def read(self, session_id: str, *, timeout: float | None = None) -> Any:
        self._ask()
        return super().read(session_id)

    def create(self, new: Any, *, timeout: float | None = None) -> Any:
        self._ask()
        return super().create(new)

    def update(self, session_id: str, changes: Any, *, timeout: float | None = None) -> Any:
        self._ask()
        return super().update(session_id, changes)

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        self._ask()
        return super().delete(session_id)


@pytest.fixture
def store() -> Iterator[Failing]:
    store = Failing()
    with override_settings(COATCHECK={"store": store}):
        yield store


def cookie(client: Client) -> Morsel[str] | None:
    return client.cookies.get("sessionid")


def key(client: Client) -> str:
    morsel = cookie(client)
    assert morsel is not None
    return morsel.value


def test_a_visitor_who_stores_nothing_gets_no_cookie(store: Failing) -> None:
    client = Client()
    response = client.get("/page")
    assert (response.json(), response.headers["Vary"]) == ({}, "Cookie")
    assert cookie(client) is None
    assert "Vary" not in client.get("/untouched").headers
    assert len(store) == 0


def test_django_writes_the_cookie_by_its_own_settings(store: Failing) -> None:
    client = Client()
    response = client.get("/put?cat=dog")
    morsel = response.cookies["sessionid"]
    assert len(morsel.value) == 48
    assert (morsel["max-age"], morsel["path"], morsel["samesite"]) == (14 * 86_400, "/", "Lax")
    assert morsel["httponly"]
    assert response.headers["Cache-Control"] == "no-store"
    assert client.get("/page").json() == {"cat": "dog"}
    assert "Set-Cookie" not in client.get("/page").headers, "reading is no activity"
    with override_settings(
        SESSION_COOKIE_NAME="id", SESSION_COOKIE_SECURE=True, SESSION_COOKIE_PATH="/put", SESSION_COOKIE_AGE=60
    ):
        morsel = Client().get("/put?cat=dog").cookies["id"]
        assert (morsel["secure"], morsel["path"], morsel["max-age"]) == (True, "/put", 60)


def test_no_cache_on_the_way_keeps_the_cookie(store: Failing) -> None:
    """Not even one that goes by a field of its own."""
    response = Client().get("/cached")
    assert "no-store" in response.headers["Cache-Control"]
    assert response.headers["Vary"] == "Cookie"
    assert not {"CDN-Cache-Control", "Surrogate-Control"} & response.headers.keys()


def test_expiry_is_in_the_cookie(store: Failing) -> None:
    client = Client()
    assert client.get("/expire?in=300").cookies["sessionid"]["max-age"] == 300
    assert client.get("/put?cat=dog").cookies["sessionid"]["max-age"] == 300
    assert client.get("/expire?in=0").cookies["sessionid"]["max-age"] == ""
    with override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True):
        assert Client().get("/put?cat=dog").cookies["sessionid"]["max-age"] == ""


def test_save_every_request_renews_the_life_at_each(store: Failing) -> None:
    client = Client()
    client.get("/put?cat=dog")
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        assert "sessionid" in client.get("/untouched").cookies
        before = store.read(key(client)[:16]).touched_ms
        while store.read(key(client)[:16]).touched_ms == before:
            client.get("/untouched")
        assert "sessionid" not in Client().get("/untouched").cookies, "there is nothing to save"
        assert len(store) == 1


def test_a_server_error_saves_nothing(store: Failing) -> None:
    client = Client()
    client.get("/put?cat=dog")
    assert client.get("/put?cat=fish&status=500").status_code == 500
    assert client.get("/page").json() == {"cat": "dog"}


def test_an_interrupted_session_is_answered_with_400(store: Failing) -> None:
    client = Client()
    client.get("/put?cat=dog")
    response = client.get("/interrupted")
    assert response.status_code == 400
    assert "Set-Cookie" not in response.headers
    assert client.get("/page").json() == {}
    assert len(store) == 0


@pytest.mark.parametrize("invented", ["x", "A" * 48, "A" * 5000, "../../etc/passwd"])
def test_an_invented_cookie_is_taken_back(store: Failing, invented: str) -> None:
    client = Client()
    client.cookies["sessionid"] = invented
    response = client.get("/page")
    assert response.json() == {}
    assert response.cookies["sessionid"]["max-age"] == 0
    client.cookies["sessionid"] = invented
    assert client.get("/put?cat=dog").cookies["sessionid"].value != invented


def test_login_cycles_the_key_and_logout_is_final(store: Failing) -> None:
    client = Client()
    client.get("/put?cat=dog")
    anonymous = key(client)
    page = client.get("/admin/")
    assert page.status_code == 302
    page = client.post("/admin/login/?next=/admin/", {"username": "garimoo", "password": "secret"})
    assert page.status_code == 302
    logged_in = key(client)
    assert logged_in != anonymous
    assert "Site administration" in client.get("/admin/").text
    assert client.get("/page").json()["cat"] == "dog", "as Django's documentation says of login()"

    thief = Client()
    thief.cookies["sessionid"] = anonymous
    assert thief.get("/page").json() == {}
    assert [record.session_id for record in store.sessions_of("1")] == [logged_in[:16]]

    assert client.post("/admin/logout/").status_code == 200
    assert len(store) == 0
    revenant = Client()
    revenant.cookies["sessionid"] = logged_in
    assert revenant.get("/page").json() == {}
    assert revenant.get("/admin/").status_code == 302


def test_the_test_clients_own_session(store: Failing) -> None:
    client = Client()
    session = client.session
    session["cat"] = "dog"
    session.save()
    assert client.get("/page").json() == {"cat": "dog"}
    client.force_login(User.objects.get())
    assert client.get("/admin/").status_code == 200
    client.logout()
    assert client.get("/admin/").status_code == 302


def test_messages_are_shown_once(store: Failing) -> None:
    client = Client()
    client.get("/say?text=hello")
    client.get("/say?text=again")
    assert client.get("/hear").json() == ["hello", "again"]
    assert client.get("/hear").json() == []


async def test_an_asynchronous_view_sees_the_same_session(store: Failing) -> None:
    with override_settings(COATCHECK={"store": "memory://"}):
        client = AsyncClient()
        assert (await client.get("/count")).content == b"1"
        assert (await client.get("/count")).content == b"2"
        assert (await client.get("/page")).json() == {"count": 2}


async def test_under_asgi_no_thread_goes_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_a_thread(*_: Any, **__: Any) -> Any:
        raise AssertionError("the synchronous store was asked")

    middleware = override_settings(MIDDLEWARE=[OWN], COATCHECK={"store": "memory://"})
    with middleware:
        for verb in ("create", "update", "delete"):  # what asynchronous code asks for has a timeout of its own
            monkeypatch.setattr(session_manager().shared.store, verb, in_a_thread)
        client = AsyncClient()
        assert [(await client.get("/count")).content for _ in range(3)] == [b"1", b"2", b"3"]
        with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
            assert "sessionid" in (await client.get("/async-untouched")).cookies
        assert (await client.get("/async-interrupted")).status_code == 400
        assert (await client.get("/count")).content == b"1"


class Foreign:
    """Another author's store, which nobody has an asynchronous one for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_MEMORY, name)


async def test_a_view_may_take_the_session_off_its_request(store: Failing) -> None:
    with override_settings(COATCHECK={"store": "memory://"}, MIDDLEWARE=[OWN]):
        assert Client().get("/without").status_code == 200
        assert (await AsyncClient().get("/without")).status_code == 200


async def test_a_store_for_synchronous_views_alone_says_so() -> None:
    alone = override_settings(COATCHECK={"store": Foreign()})
    with alone, pytest.raises(ValueError, match=r"COATCHECK\['async_store'\]"):
        await SessionStore("A" * 48).aget("cat")
    with override_settings(COATCHECK={"store": Foreign(), "async_store": AsyncMemoryStore(_MEMORY)}):
        session = SessionStore()
        await session.aset("cat", "dog")
        await session.asave()
        assert SessionStore(session.session_key)["cat"] == "dog"


async def test_a_store_of_ones_own_is_not_closed_with_an_event_loop() -> None:
    """`async_to_sync` has an event loop of its own each time; whoever opened the store closes it."""

    class Watched(AsyncMemoryStore):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    async def save() -> None:
        session = SessionStore()
        await session.aset("cat", "dog")
        await session.asave()

    own = Watched(MemoryStore())
    with override_settings(COATCHECK={"store": Foreign(), "async_store": own}):
        await asyncio.to_thread(asyncio.run, save())
        assert own.closed == 0


def test_threads_that_come_first_at_once_share_one_store() -> None:
    together = threading.Barrier(8)

    def first_request(_: int) -> Any:
        together.wait()
        return session_manager()

    with override_settings(COATCHECK={"store": "memory://"}), ThreadPoolExecutor(8) as threads:
        managers = set(threads.map(first_request, range(8)))
    assert len(managers) == 1


_MEMORY = MemoryStore()


# --- a store that is down -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/page", "/put?cat=fish", "/admin/", "/say?text=hello"])
def test_a_store_that_is_down_is_503(store: Failing, path: str) -> None:
    client = Client(raise_request_exception=False)
    client.get("/put?cat=dog")
    before = key(client)
    store.down = True
    response = client.get(path)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
    assert response.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in response.headers
    assert "test://" not in response.text
    assert client.get("/untouched").status_code == 200, "who does not look needs no store"
    store.down = False
    assert key(client) == before
    assert client.get("/page").json() == {"cat": "dog"}


def test_with_djangos_own_middleware_a_store_that_is_down_is_500_and_takes_no_cookie(store: Failing) -> None:
    middleware = [DJANGOS if each == OWN else each for each in settings.MIDDLEWARE]
    with override_settings(MIDDLEWARE=middleware):
        client = Client(raise_request_exception=False)
        client.get("/put?cat=dog")
        store.down = True
        for path in ("/page", "/put?cat=fish"):
            response = client.get(path)
            assert response.status_code == 500
            assert "Set-Cookie" not in response.headers
        store.down = False
        assert client.get("/page").json() == {"cat": "dog"}


@pytest.mark.parametrize("own", [True, False])
def test_a_logout_that_cannot_be_stored_touches_no_cookie(store: Failing, own: bool) -> None:
    middleware = [DJANGOS if each == OWN and not own else each for each in settings.MIDDLEWARE]
    with override_settings(MIDDLEWARE=middleware):
        client = Client(raise_request_exception=False)
        client.get("/put?cat=dog")
        response = client.get("/logout-during-an-outage")
        assert response.status_code == (503 if own else 500)
        assert "Set-Cookie" not in response.headers
        store.down = False
        assert client.get("/page").json() == {"cat": "dog"}


def test_a_logout_that_is_repeated_after_an_outage_takes_the_cookie_back(store: Failing) -> None:
    """The view caught the first failure, and tried again: Django asks `is_empty()` whether the cookie is to go."""
    client = Client()
    client.get("/put?cat=dog")
    session = SessionStore(key(client))
    assert session["cat"] == "dog"
    store.down = True
    with pytest.raises(StoreUnavailable):
        session.flush()
    assert not session.is_empty()
    store.down = False
    session.flush()
    assert session.is_empty()
    assert len(store) == 0


def test_a_new_session_that_cannot_be_stored_is_not_promised(store: Failing) -> None:
    store.down = True
    client = Client(raise_request_exception=False)
    assert client.get("/put?cat=dog").status_code == 503
    assert cookie(client) is None


# --- beside another application ---------------------------------------------------------------------------------------------


async def test_an_asgi_application_shares_the_session(store: Failing) -> None:
    async def page(request: Request) -> Response:
        session: Any = request.session
        session.increment("seen")
        return JSONResponse({"owner": session.owner, **session})

    with override_settings(SESSION_COOKIE_SECURE=True):
        beside = Starlette(
            routes=[Route("/page", page)],
            middleware=[Middleware(SessionMiddleware, store=AsyncMemoryStore(store), settings=session_settings())],
        )
    session = SessionStore()
    session["_auth_user_id"] = "1"  # as Django's login() does
    await session.asave()
    async with Browser(beside, cookie="sessionid", ticket=session.session_key) as browser:
        assert (await browser.get("/page")).json() == {"owner": "1", "_auth_user_id": "1", "seen": 1}
    session = SessionStore(session.session_key)
    assert session["seen"] == 1
    ticket = session.session_key
    session.flush()  # as logout() does
    async with Browser(beside, cookie="sessionid", ticket=ticket) as browser:
        assert (await browser.get("/page")).json() == {"owner": None, "seen": 1}


# --- manage.py check --------------------------------------------------------------------------------------------------------


def said() -> list[tuple[str, str]]:
    return [(str(each.id), each.msg) for each in checks.run_checks() if str(each.id).startswith("coatcheck.")]


def test_right_settings_are_not_complained_about() -> None:
    assert checks.run_checks() == []
    with override_settings(SESSION_COOKIE_AGE=timedelta(days=1).total_seconds()):  # a float
        assert checks.run_checks() == []
        assert session_settings().idle_ms == 86_400_000


@pytest.mark.parametrize(
    ("changed", "found", "text"),
    [
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.db"}, "coatcheck.W001", "not coatcheck's"),
        ({"COATCHECK": None}, "coatcheck.E002", "Set COATCHECK"),
        ({"COATCHECK": {"store": "memory://", "sotre": 1}}, "coatcheck.E002", "'sotre'"),
        ({"COATCHECK": {"store": "nowhere://"}}, "coatcheck.E002", "no store for the scheme"),
        ({"SESSION_COOKIE_NAME": "__Host-id"}, "coatcheck.E003", "without Secure"),
        ({"SESSION_COOKIE_SAMESITE": "None"}, "coatcheck.E003", "without Secure"),
        ({"SESSION_COOKIE_AGE": -1}, "coatcheck.E003", "SESSION_COOKIE_AGE"),
        ({"SESSION_COOKIE_AGE": True}, "coatcheck.E003", "SESSION_COOKIE_AGE"),
        ({"SESSION_SERIALIZER": "some.Pickle"}, "coatcheck.W004", "no effect"),
        ({"MIDDLEWARE": [DJANGOS]}, "coatcheck.I005", "500"),
    ],
)
def test_wrong_settings_are(changed: dict[str, Any], found: str, text: str) -> None:
    with override_settings(**changed):
        complaints = said()
    assert [number for number, _ in complaints] == [found]
    assert text in complaints[0][1]


def test_without_its_setting_the_engine_says_what_to_do() -> None:
    with override_settings(COATCHECK=None), pytest.raises(ImproperlyConfigured, match="Set COATCHECK"):
        SessionStore()
    assert session_manager().store is not None
