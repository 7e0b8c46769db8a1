"""Flask: an application written for Flask's own sessions runs unchanged, and every setting of Flask's counts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any, cast

import pytest
from flask import Flask, Response, flash, get_flashed_messages, redirect, session, stream_with_context
from flask.testing import FlaskClient
from markupsafe import Markup
from werkzeug.test import TestResponse

from coatcheck import Settings
from coatcheck.errors import ConfigurationError, InsecureCookieWarning, SessionGone, StoreUnavailable, TooLate
from coatcheck.flask import FlaskSession, FlaskSessionInterface, Sessions
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from tests.web.test_wsgi import Counting

current = cast(FlaskSession, session)


def make(store: Any = None, **config: Any) -> Flask:
    """An application with the pages that Flask's own documentation has, and a few more."""
    app = Flask("shop")
    app.config.update({"SESSION_COOKIE_SECURE": True, "SECRET_KEY": "not needed", **config})
    Sessions(app, store=MemoryStore() if store is None else store)

    @app.get("/page")
    def page() -> dict[str, Any]:
        return dict(session)

    @app.get("/untouched")
    def untouched() -> str:
        return "the same for everybody"

    @app.post("/login/<name>")
    def login(name: str) -> str:
        session.clear()  # as Flask's tutorial does
        session["user"] = name
        return "welcome"

    @app.post("/logout")
    def logout() -> str:
        session.clear()
        return "good-bye"

    @app.post("/put/<name>/<value>")
    def put(name: str, value: str) -> str:
        session[name] = value
        return "stored"

    @app.post("/pop/<name>")
    def pop(name: str) -> str:
        session.pop(name, None)
        return "gone"

    @app.post("/remember/<name>")
    def remember(name: str) -> str:
        session.permanent = True
        session["user"] = name
        return "remembered"

    @app.post("/boom")
    def boom() -> str:
        session["broken"] = True
        raise RuntimeError

    return app


def browser(app: Flask) -> FlaskClient:
    client = app.test_client()
    client.environ_base["wsgi.url_scheme"] = "https"
    return client


def ticket(client: FlaskClient, name: str = "session") -> str | None:
    found = client.get_cookie(name)
    return None if found is None else found.value


def set_cookie(response: TestResponse) -> Any:
    """The cookie in a response, with its attributes; `None` if there is none."""
    jar: SimpleCookie = SimpleCookie(response.headers.get("Set-Cookie", ""))
    return next(iter(jar.values()), None)


def test_login_and_logout_as_in_flasks_tutorial() -> None:
    store = MemoryStore()
    client = browser(make(store))
    client.post("/put/planted/1")
    anonymous = ticket(client)
    assert anonymous
    client.post("/login/garimoo")
    logged_in = ticket(client)
    assert logged_in not in (anonymous, None), "clear() before a login ends the ticket of the time before"
    assert client.get("/page").json == {"user": "garimoo"}
    for old in (anonymous,):
        thief = browser(make(store))
        thief.set_cookie("session", old)
        assert thief.get("/page").json == {}
    response = client.post("/logout")
    assert set_cookie(response)["max-age"] == "0"
    assert len(store) == 0
    revenant = browser(make(store))
    revenant.set_cookie("session", logged_in or "")
    assert revenant.get("/page").json == {}


def test_headers_for_caches() -> None:
    client = browser(make())
    response = client.post("/put/a/1")
    assert (response.headers["Cache-Control"], response.headers["Vary"]) == ("no-store", "Cookie")
    assert client.get("/page").headers["Vary"] == "Cookie"
    assert "Vary" not in client.get("/untouched").headers


def test_a_redirect_to_any_letters_may_carry_the_cookie() -> None:
    """Flask brings a `Location` into a form for the wire only after the session has been stored."""
    app = make()

    @app.post("/move")
    def move() -> Any:
        session["moved"] = True
        return redirect("/用户/münchen")

    client = browser(app)
    response = client.post("/move")
    assert (response.status_code, response.headers["Location"]) == (302, "/%E7%94%A8%E6%88%B7/m%C3%BCnchen")
    assert client.get("/page").json == {"moved": True}


def test_who_never_looks_costs_no_store_call() -> None:
    store = Counting()
    client = browser(make(store))
    client.post("/put/a/1")
    store.asked.clear()
    client.get("/untouched")
    assert store.asked == []
    client.get("/page")
    assert store.asked == ["read"]
    client.post("/put/b/2")
    assert store.asked == ["read", "read", "update"]


def test_attributes_of_a_session() -> None:
    app = make()
    client = browser(app)

    @app.get("/attributes")
    def attributes() -> list[bool]:
        return [session.new, session.modified, session.accessed, session.permanent]

    @app.get("/change")
    def change() -> list[bool]:
        before = session.modified
        session.setdefault("list", []).append("in place")
        return [before, session.modified]

    assert client.get("/attributes").json == [True, False, True, False]
    client.post("/remember/garimoo")
    assert client.get("/attributes").json == [False, False, True, True]
    client.get("/change")
    assert client.get("/change").json == [False, True]
    assert client.get("/page").json == {
        "user": "garimoo",
        "_permanent": True,
        "list": ["in place", "in place"],
    }


def test_modified_by_hand_prolongs_the_life() -> None:
    store = Counting()
    app = make(store)
    client = browser(app)

    @app.post("/touch")
    def touch() -> str:
        session.modified = True
        return "touched"

    client.post("/touch")
    assert store.asked == [], "there is nothing to keep"
    client.post("/put/a/1")
    store.asked.clear()
    client.post("/touch")
    assert store.asked == ["read", "update"]


def test_flashed_messages() -> None:
    app = make()

    @app.post("/say")
    def say() -> str:
        flash("plain <b>")
        flash(Markup("<b>bold</b>"), "markup")
        return "said"

    @app.get("/hear")
    def hear() -> list[Any]:
        flashed: Any = get_flashed_messages(with_categories=True)
        return [[kind, isinstance(text, Markup), text] for kind, text in flashed]

    client = browser(app)
    client.post("/say")
    assert client.get("/hear").json == [["message", False, "plain <b>"], ["markup", True, "<b>bold</b>"]]
    assert client.get("/hear").json == []


def test_counters_maps_renewal_and_end() -> None:
    app = make()

    @app.post("/do/<what>")
    def do(what: str) -> dict[str, Any]:
        match what:
            case "count":
                current.increment("hits", 2)
                current.map("cart").increment("tea")
            case "login":
                current.renew(owner="garimoo", keep="cart")
            case "logout":
                current.destroy()
        return dict(current)

    client = browser(app)
    client.post("/do/count")
    assert client.post("/do/count").json == {"hits": 4, "cart[tea]": 2}
    before = ticket(client)
    assert client.post("/do/login").json == {"cart[tea]": 2}
    assert ticket(client) != before
    assert client.post("/do/logout").json == {}
    assert ticket(client) is None


def test_the_test_clients_session_transaction() -> None:
    client = browser(make())
    with client.session_transaction(base_url="https://localhost") as opened:
        opened["a"] = 1
    with client:
        assert client.get("/page").json == {"a": 1}
        assert session["a"] == 1


def test_what_is_not_worth_keeping_is_not_kept() -> None:
    """Applications make every session permanent before each request. No crowd of visitors fills the store with that."""
    store = Counting()
    app = make(store)

    @app.before_request
    def always() -> None:
        session.permanent = True

    client = browser(app)
    for _ in range(3):
        client.get("/untouched")
    assert (len(store), ticket(client)) == (0, None)
    client.post("/put/a/1")
    store.asked.clear()
    client.get("/untouched")
    assert store.asked == ["read"], "to say so again is no change"


# --- Flask's settings -----------------------------------------------------------------------------------------------------


def test_settings_of_the_cookie() -> None:
    app = make(
        SESSION_COOKIE_NAME="id",
        SESSION_COOKIE_DOMAIN="example.org",
        SESSION_COOKIE_PATH="/put",
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_PARTITIONED=True,
        SESSION_COOKIE_HTTPONLY=False,
    )
    header = browser(app).post("/put/a/1").headers["Set-Cookie"]
    assert header.startswith("id=")
    for attribute in ("Domain=example.org", "Path=/put", "SameSite=Strict", "Partitioned", "Secure"):
        assert attribute in header
    assert "HttpOnly" not in header
    assert "Expires" not in header, "until the browser closes"
    default = browser(make()).post("/put/a/1").headers["Set-Cookie"]
    assert default.startswith("session=")
    assert "HttpOnly; Path=/" in default
    assert "SameSite" not in default
    assert "Path=/shop" in browser(make(APPLICATION_ROOT="/shop")).post("/put/a/1").headers["Set-Cookie"]


def test_a_permanent_session_lasts_as_long_as_flask_is_told() -> None:
    store = MemoryStore()
    app = make(store, PERMANENT_SESSION_LIFETIME=timedelta(days=3))
    client = browser(app)
    morsel = set_cookie(client.post("/remember/garimoo"))
    assert morsel["expires"]
    record = store.read(morsel.value[:16])
    assert record is not None
    assert (record.idle_ms, record.deadline_ms) == (3 * 86_400_000, None)
    app.permanent_session_lifetime = timedelta(hours=1)
    client.post("/put/a/1")
    record = store.read(morsel.value[:16])
    assert record is not None
    assert record.idle_ms == 3_600_000


@pytest.mark.parametrize("refresh", [True, False])
def test_the_cookie_of_a_permanent_session_is_sent_again(refresh: bool) -> None:
    client = browser(make(SESSION_REFRESH_EACH_REQUEST=refresh))
    client.post("/remember/garimoo")
    assert (set_cookie(client.get("/page")) is not None) == refresh
    assert set_cookie(client.post("/put/a/1")) is not None, "a change always renews it"
    assert set_cookie(client.get("/untouched")) is None, "the session was not used"
    fleeting = browser(make(SESSION_REFRESH_EACH_REQUEST=refresh))
    fleeting.post("/put/a/1")
    assert set_cookie(fleeting.get("/page")) is None


def test_get_cookie_methods_may_be_overridden() -> None:
    class Interface(FlaskSessionInterface):
        def get_cookie_name(self, app: Flask) -> str:
            return "mine"

        def should_set_cookie(self, app: Flask, session: Any) -> bool:
            return False

    class Mine(Sessions):
        interface_class = Interface

    app = make()
    Mine(app, store="memory://")
    client = browser(app)
    client.post("/remember/garimoo")
    assert client.get("/page").json == {"user": "garimoo", "_permanent": True}
    assert ticket(client, "mine")
    assert set_cookie(client.get("/page")) is None


def test_more_settings_than_flask_has() -> None:
    store = MemoryStore()
    app = Flask("shop")
    app.config.update(
        SESSION_COOKIE_SECURE=True, PERMANENT_SESSION_LIFETIME=timedelta(minutes=30), COATCHECK_STORE=store
    )
    sessions = Sessions(settings=Settings(absolute_timeout=timedelta(hours=8), renew_every=60))
    sessions.init_app(app)

    @app.get("/")
    def page() -> str:
        session["a"] = 1
        return str(current.manager.settings.renew_ms)

    client = browser(app)
    assert client.get("/").text == "60000"
    record = store.read((ticket(client) or "")[:16])
    assert record is not None
    assert record.deadline_ms == record.created_ms + 8 * 3_600_000
    assert app.extensions["coatcheck"] is sessions


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"SESSION_COOKIE_NAME": "__Host-session", "SESSION_COOKIE_SECURE": False}, "without Secure"),
        ({"SESSION_COOKIE_NAME": "__Host-session", "SESSION_COOKIE_PATH": "/shop"}, "__Host-"),
        ({"SESSION_COOKIE_SAMESITE": "None", "SESSION_COOKIE_SECURE": False}, "same_site"),
        ({"SESSION_COOKIE_SAMESITE": "perhaps"}, "same_site"),
        ({"PERMANENT_SESSION_LIFETIME": timedelta(0)}, "idle_timeout"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_start(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make(**config)


def test_flasks_lifetime_is_named_where_it_is_longer_than_a_session_may_live() -> None:
    """By default it is 31 days, whatever `settings` says of the idle timeout."""
    settings = Settings(idle_timeout=3600, absolute_timeout=timedelta(hours=12))
    app = Flask("shop")
    app.config["SESSION_COOKIE_SECURE"] = True
    with pytest.raises(ConfigurationError, match=r"PERMANENT_SESSION_LIFETIME=.*days=31.*change it in app\.config"):
        Sessions(app, store="memory://", settings=settings)


def test_settings_that_can_no_longer_work_are_refused_at_each_request() -> None:
    app = make(PROPAGATE_EXCEPTIONS=True)
    client = browser(app)
    client.post("/put/a/1")
    app.config["PERMANENT_SESSION_LIFETIME"] = timedelta(0)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="PERMANENT_SESSION_LIFETIME"):
            client.get("/page")


def test_a_store_has_to_be_named_and_to_be_synchronous() -> None:
    with pytest.raises(ConfigurationError, match="COATCHECK_STORE"):
        Sessions(Flask("shop"))
    with pytest.raises(ConfigurationError, match="an asynchronous store"):
        make(AsyncMemoryStore())


def test_an_insecure_cookie_is_warned_of() -> None:
    with pytest.warns(InsecureCookieWarning):
        app = make(SESSION_COOKIE_SECURE=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = app.test_client()
        client.post("/put/a/1")
        assert client.get("/page").json == {"a": "1"}


# --- what is answered in place of the application -------------------------------------------------------------------------


def test_a_store_that_is_down_is_answered_for() -> None:
    store = Counting()
    client = browser(make(store))
    client.post("/put/a/1")
    before = ticket(client)
    store.down = True
    for answer in (
        client.get("/page"),
        client.post("/put/a/2"),
        client.post("/logout"),
        browser(make(store)).post("/put/a/1"),
    ):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in answer.headers
        assert "test://" not in answer.text
    assert client.get("/untouched").status_code == 200
    store.down = False
    assert ticket(client) == before
    assert client.get("/page").json == {"a": "1"}


@pytest.mark.parametrize("way", ["clear", "destroy"])
def test_a_logout_that_cannot_be_stored_touches_no_cookie(way: str) -> None:
    store = Counting()
    app = make(store)

    @app.post("/leave")
    def leave() -> str:
        assert current.copy() == {"a": "1"}
        store.down = True
        getattr(session, way)()
        return "good-bye"

    client = browser(app)
    client.post("/put/a/1")
    answer = client.post("/leave")
    assert (answer.status_code, answer.headers.get("Set-Cookie")) == (503, None)
    store.down = False
    assert client.get("/page").json == {"a": "1"}


def test_a_session_that_ended_meanwhile_is_answered_for() -> None:
    store = Counting()
    app = make(store)

    @app.post("/late")
    def late() -> str:
        session["late"] = True
        store.delete(str(current.session_id))
        return "too late"

    client = browser(app)
    client.post("/put/a/1")
    answer = client.post("/late")
    assert answer.status_code == 409
    assert "nothing was saved" in answer.text
    assert "Set-Cookie" not in answer.headers
    assert len(store) == 0


def test_an_application_may_have_a_page_of_its_own_for_it() -> None:
    store = Counting()
    app = Flask("shop")
    app.config["SESSION_COOKIE_SECURE"] = True

    @app.errorhandler(StoreUnavailable)
    def sorry(error: StoreUnavailable) -> tuple[str, int]:
        return "come back later", 503

    Sessions(app, store=store)

    @app.get("/")
    def page() -> dict[str, Any]:
        return dict(session)

    client = browser(app)
    client.set_cookie("session", "A" * 48)
    store.down = True
    assert client.get("/").text == "come back later"


def test_an_exception_that_nobody_handles_stores_nothing() -> None:
    client = browser(make())
    client.post("/put/a/1")
    assert client.post("/boom").status_code == 500
    assert client.get("/page").json == {"a": "1"}


def test_such_an_exception_is_forgotten_with_its_request() -> None:
    """As in a test that keeps one application context open, in which all its requests then share `g`."""
    app = make(TESTING=True)
    client = browser(app)
    with app.app_context():
        with pytest.raises(RuntimeError):
            client.post("/boom")
        client.post("/put/a/1")
        assert client.get("/page").json == {"a": "1"}


def test_an_exception_that_is_handled_gives_an_answer_like_any_other() -> None:
    app = make()

    @app.errorhandler(RuntimeError)
    def handled(error: RuntimeError) -> tuple[str, int]:
        return "handled", 500

    client = browser(app)
    client.post("/boom")
    assert client.get("/page").json == {"broken": True}


# --- streams ------------------------------------------------------------------------------------------------------------


def streaming(stream: Callable[[], Iterator[str]]) -> FlaskClient:
    app = make()

    @app.get("/stream")
    def streamed() -> Response:
        return Response(stream_with_context(stream()))

    client = browser(app)
    client.post("/put/a/1")
    return client


def test_a_stream_may_look_at_the_session() -> None:
    def stream() -> Iterator[str]:
        yield "a is "
        yield session["a"]

    response = streaming(stream).get("/stream")
    assert (response.text, response.headers["Vary"]) == ("a is 1", "Cookie")


def test_a_change_in_a_stream_says_what_to_do() -> None:
    def stream() -> Iterator[str]:
        yield "begun"
        session["late"] = 1

    with pytest.raises(TooLate, match=r"session\.reload\(\)"):
        _ = streaming(stream).get("/stream").text


def test_a_change_in_place_in_a_stream_is_not_lost_in_silence() -> None:
    app = make()

    @app.get("/late")
    def late() -> Response:
        cart = session.setdefault("cart", [])

        def pieces() -> Iterator[str]:
            yield "begun"
            cart.append("tea")

        return Response(stream_with_context(pieces()))

    response = browser(app).get("/late", buffered=False)
    assert response.text == "begun"
    with pytest.raises(TooLate, match="reload"):
        response.close()


def test_a_stream_that_lives_on_goes_to_the_store_itself() -> None:
    def stream() -> Iterator[str]:
        yield current["a"]
        current.reload()
        current["a"] = "2"
        current.commit()
        yield current["a"]
        current.manager.store.delete(str(current.session_id))
        with pytest.raises(SessionGone):
            current.reload()

    client = streaming(stream)
    assert client.get("/stream").text == "12"


# --- flask coatcheck … ------------------------------------------------------------------------------------------------------


def test_commands() -> None:
    app = make(SESSION_COOKIE_SAMESITE="Lax")

    @app.post("/enter")
    def enter() -> str:
        current.renew(owner="garimoo")
        return "in"

    laptop, phone = browser(app), browser(app)
    laptop.post("/enter")
    phone.post("/enter")
    here = (ticket(laptop) or "")[:16]
    runner = app.test_cli_runner()
    shown = runner.invoke(args=["coatcheck", "settings"]).output
    assert "absolute timeout  never" in shown
    assert "Secure, HttpOnly, SameSite=Lax" in shown
    listed = runner.invoke(args=["coatcheck", "list", "garimoo"]).output
    assert here in listed
    assert len(listed.splitlines()) == 2
    assert runner.invoke(args=["coatcheck", "end", "garimoo", "--but", here]).output == "ended 1\n"
    assert runner.invoke(args=["coatcheck", "end", "garimoo"]).output == "ended 1\n"
    assert runner.invoke(args=["coatcheck", "list", "garimoo"]).output == ""


def test_stores_given_as_urls_are_closed(valkey_url: str) -> None:
    app = Flask("shop")
    app.config["SESSION_COOKIE_SECURE"] = True
    sessions = Sessions(app, store=valkey_url)

    @app.get("/")
    def page() -> str:
        session["a"] = 1
        return "stored"

    assert browser(app).get("/").status_code == 200
    sessions.close()
    assert browser(app).get("/").status_code == 503
