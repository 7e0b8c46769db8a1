"""Plain WSGI: a session that is read when it is looked at, and stored before the first byte, however the response is made."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from coatcheck import Settings, SyncSession
from coatcheck.changes import Applied
from coatcheck.errors import ConfigurationError, SessionGone, StoreUnavailable, TooLate
from coatcheck.events import Event
from coatcheck.record import Record
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.wsgi import SessionMiddleware

Body = Iterable[bytes]
App = Callable[[Any, Any], Body]


class Counting(MemoryStore):
    """Knows what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.down = False

    def _ask(self, verb: str) -> None:
        self.asked.append(verb)
        if self.down:
            raise StoreUnavailable("test://", "down", retry_after=7)

    def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        self._ask("read")
        return super().read(session_id)

    def create(self, new: Any, *, timeout: float | None = None) -> Applied:
        self._ask("create")
        return super().create(new)

    def update(self, session_id: str, changes: Any, *, timeout: float | None = None) -> Applied:
        self._ask("update")
        return super().update(session_id, changes)

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        self._ask("delete")
        return super().delete(session_id)


class Response:
    """What a browser got."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = int(status[:3])
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body


class Browser:
    """Keeps its cookie, and calls the application as a server does that is strict about PEP 3333."""

    def __init__(self, app: Any, cookie: str = "", *, strict: bool = True) -> None:
        self._app = validator(app) if strict else app
        self.cookie = cookie
        self.sent: list[bytes] = []  # what `write()` was given

    def get(self, path: str = "/", method: str = "GET") -> Response:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "shop.example",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
        }
        if self.cookie:
            environ["HTTP_COOKIE"] = self.cookie
        self.sent = []
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if exc_info is not None and self.sent:
                raise exc_info[1]
            assert not started or exc_info is not None
            started[:] = [(status, headers)]
            return self.sent.append

        body: Any = self._app(environ, start_response)
        try:
            for piece in body:
                assert started, "the body came before the headers"
                if piece:
                    self.sent.append(piece)
        finally:
            if hasattr(body, "close"):
                body.close()
        status, headers = started[0]
        response = Response(status, headers, b"".join(self.sent))
        if "set-cookie" in response.headers:
            pair, _, attributes = response.headers["set-cookie"].partition(";")
            self.cookie = "" if "Max-Age=0" in attributes else pair
        return response


PLAIN = [("Content-Type", "text/plain")]


def counter(environ: Any, start_response: Any) -> Body:
    hits = environ["coatcheck.session"].increment("hits")
    start_response("200 OK", PLAIN)
    return [str(hits).encode()]


def shown(environ: Any, start_response: Any) -> Body:
    start_response("200 OK", PLAIN)
    return [str(dict(environ["coatcheck.session"])).encode()]


def test_a_visitor_is_counted() -> None:
    visitor = Browser(SessionMiddleware(counter, store="memory://"))
    first = visitor.get()
    assert (first.status, first.body) == (200, b"1")
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["vary"] == "Cookie"
    assert first.headers["set-cookie"].startswith("__Host-session=")
    second = visitor.get()
    assert (second.body, "set-cookie" in second.headers) == (b"2", False)


def test_who_never_looks_costs_no_store_call() -> None:
    store = Counting()

    def pages(environ: Any, start_response: Any) -> Body:
        return (counter if environ["PATH_INFO"] == "/count" else unlooked)(environ, start_response)

    def unlooked(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", PLAIN)
        return [b"the same for everybody"]

    visitor = Browser(SessionMiddleware(pages, store=store))
    visitor.get("/count")
    store.asked.clear()
    assert visitor.cookie
    response = visitor.get("/")
    assert "vary" not in response.headers
    assert store.asked == []
    visitor.get("/count")
    assert store.asked == ["read", "update"]


def test_who_stores_nothing_costs_no_store_call_and_gets_no_cookie() -> None:
    store = Counting()
    stranger = Browser(SessionMiddleware(shown, store=store))
    response = stranger.get()
    assert (response.body, response.headers["vary"], store.asked) == (b"{}", "Cookie", [])
    assert not stranger.cookie


@pytest.mark.parametrize("cookie", ["", "x", "A" * 48, "A" * 5000, "é" * 48, "../../etc/passwd"])
def test_an_invented_ticket_is_never_adopted(cookie: str) -> None:
    app = SessionMiddleware(counter, store="memory://")
    attacker = Browser(app, f"__Host-session={cookie}")
    attacker.get()
    assert attacker.cookie != f"__Host-session={cookie}"
    assert Browser(app, f"__Host-session={cookie}").get().body == b"1"


def test_two_cookies_of_the_name_are_somebodys_trick() -> None:
    events: list[Event] = []
    app = SessionMiddleware(counter, store="memory://", observers=[events.append])
    visitor = Browser(app)
    visitor.get()
    assert Browser(app, f"{visitor.cookie}; __Host-session=x").get().body == b"1"
    assert [(event.name, event.detail) for event in events if event.name == "ticket_refused"] == [
        ("ticket_refused", "duplicate cookie")
    ]


# --- however the response is made ---------------------------------------------------------------------------------------


def late(environ: Any, start_response: Any) -> Iterator[bytes]:
    """A generator: nothing at all happens before the server asks for the first piece."""
    environ["coatcheck.session"]["seen"] = True
    start_response("200 OK", PLAIN)
    yield b""
    environ["coatcheck.session"]["really"] = True
    yield b"a"
    yield b"b"


def pushed(environ: Any, start_response: Any) -> Body:
    """The old way: the body is pushed."""
    environ["coatcheck.session"]["seen"] = environ["coatcheck.session"]["really"] = True
    write = start_response("200 OK", PLAIN)
    write(b"a")
    write(b"b")
    return []


def nothing(environ: Any, start_response: Any) -> Body:
    """A response without a body, as for HEAD."""
    start_response("200 OK", PLAIN)
    environ["coatcheck.session"]["seen"] = environ["coatcheck.session"]["really"] = True
    return iter(())


def from_file(environ: Any, start_response: Any) -> Body:
    environ["coatcheck.session"]["seen"] = environ["coatcheck.session"]["really"] = True
    start_response("200 OK", PLAIN)
    wrapped: Body = environ["wsgi.file_wrapper"](io.BytesIO(b"ab"))
    return wrapped


def second_thoughts(environ: Any, start_response: Any) -> Body:
    """An error handler that replaces a response which has not left yet."""
    start_response("200 OK", [*PLAIN, ("X-First", "yes")])
    try:
        raise ValueError
    except ValueError:
        import sys

        environ["coatcheck.session"]["seen"] = environ["coatcheck.session"]["really"] = True
        start_response("200 OK", PLAIN, sys.exc_info())
    return iter([b"a", b"b"])


@pytest.mark.parametrize("app", [late, pushed, nothing, from_file, second_thoughts])
def test_the_session_is_stored_before_the_first_byte(app: App) -> None:
    store = Counting()
    visitor = Browser(SessionMiddleware(app, store=store))
    response = visitor.get()
    assert response.status == 200
    assert response.body == (b"" if app is nothing else b"ab")
    assert "x-first" not in response.headers
    assert response.headers["cache-control"] == "no-store"
    assert store.asked == ["create"]
    seen = Browser(SessionMiddleware(shown, store=store), visitor.cookie).get()
    assert seen.body == b"{'seen': True, 'really': True}"


def test_a_file_goes_to_the_server_as_it_is() -> None:
    """A server sends its own wrapper of a file without reading it, and a list of one piece with its length."""
    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    for app in (from_file, counter):
        body = SessionMiddleware(app, store="memory://")(environ, lambda *_: lambda data: None)
        assert type(body) in (FileWrapper, list)


def test_a_second_start_without_exc_info_is_an_error() -> None:
    def twice(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", PLAIN)
        start_response("200 OK", PLAIN)
        return []

    with pytest.raises(AssertionError, match="without exc_info"):
        Browser(SessionMiddleware(twice, store="memory://"), strict=False).get()


def test_an_error_after_the_first_byte_reaches_the_server() -> None:
    def too_late(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"begun"
        try:
            raise ValueError("after the first byte")
        except ValueError:
            import sys

            start_response("500 Oh", PLAIN, sys.exc_info())

    with pytest.raises(ValueError, match="after the first byte"):
        Browser(SessionMiddleware(too_late, store="memory://")).get()


def test_a_body_without_a_start_is_an_error() -> None:
    with pytest.raises(AssertionError, match="before start_response"):
        Browser(SessionMiddleware(lambda environ, start: [b"x"], store="memory://"), strict=False).get()


@pytest.mark.parametrize("ends", ["read to its end", "given up", "refused", "failed"])
def test_the_body_is_closed_whatever_happens(ends: str) -> None:
    closed = []

    class Closing:
        def __init__(self) -> None:
            self.pieces = iter([b"a", b"b"])

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if ends == "failed":
                raise RuntimeError
            return next(self.pieces)

        def close(self) -> None:
            closed.append(True)

    store = Counting()

    def app(environ: Any, start_response: Any) -> Body:
        environ["coatcheck.session"]["a"] = 1
        start_response("200 OK", PLAIN)
        return Closing()

    store.down = ends == "refused"
    body: Any = SessionMiddleware(app, store=store)({}, lambda *_: lambda data: None)
    if ends == "failed":
        with pytest.raises(RuntimeError):
            next(iter(body))
    elif ends == "given up":
        next(iter(body))
    else:
        list(body)
    body.close()
    assert closed == [True]


def test_an_exception_that_leaves_the_application_stores_nothing() -> None:
    def boom(environ: Any, start_response: Any) -> Body:
        environ["coatcheck.session"]["broken"] = True
        start_response("200 OK", PLAIN)
        raise RuntimeError

    store = Counting()
    with pytest.raises(RuntimeError):
        Browser(SessionMiddleware(boom, store=store)).get()
    assert store.asked == []


# --- what is answered in place of the application ------------------------------------------------------------------------


@pytest.mark.parametrize("app", [counter, late, pushed, nothing, from_file, second_thoughts, shown])
def test_a_store_that_is_down_is_answered_for(app: App) -> None:
    store = Counting()
    visitor = Browser(SessionMiddleware(counter, store=store))
    visitor.get()
    cookie = visitor.cookie
    store.down = True
    response = (there := Browser(SessionMiddleware(app, store=store), cookie)).get()
    assert (response.status, response.headers["retry-after"]) == (503, "7")
    assert response.headers["cache-control"] == "no-store"
    assert "set-cookie" not in response.headers
    assert b"try again" in response.body
    assert b"test://" not in response.body
    assert there.cookie == cookie


def test_a_logout_that_cannot_be_stored_touches_no_cookie() -> None:
    store = Counting()

    def leave(environ: Any, start_response: Any) -> Body:
        session: SyncSession = environ["coatcheck.session"]
        session.get("hits")
        store.down = True
        session.destroy()
        start_response("200 OK", PLAIN)
        return [b"good-bye"]

    visitor = Browser(SessionMiddleware(counter, store=store))
    visitor.get()
    response = Browser(SessionMiddleware(leave, store=store), visitor.cookie).get()
    assert (response.status, response.headers.get("set-cookie")) == (503, None)
    store.down = False
    assert visitor.get().body == b"2"


def test_a_session_that_ended_meanwhile_is_answered_for() -> None:
    store = Counting()

    def app(environ: Any, start_response: Any) -> Body:
        session: SyncSession = environ["coatcheck.session"]
        session["late"] = 1
        if session.session_id is not None:
            store.delete(session.session_id)
        return counter(environ, start_response)

    visitor = Browser(SessionMiddleware(app, store=store))
    visitor.get()
    response = visitor.get()
    assert response.status == 409
    assert b"nothing was saved" in response.body
    assert "set-cookie" not in response.headers
    assert len(store) == 0


def test_an_application_that_pushes_on_after_a_refusal_is_stopped() -> None:
    store = Counting()
    store.down = True
    pushes = []

    def stubborn(environ: Any, start_response: Any) -> Body:
        environ["coatcheck.session"]["a"] = 1
        write = start_response("200 OK", PLAIN)
        for number in range(3):
            try:
                pushes.append(number)
                write(b"x")
            except Exception:
                continue
        return [b"and more"]

    response = Browser(SessionMiddleware(stubborn, store=store)).get()
    assert (response.status, pushes) == (503, [0, 1, 2])
    assert b"x" not in response.body.replace(b"next", b"")
    assert b"and more" not in response.body


def test_a_handler_may_deal_with_it_itself() -> None:
    store = Counting()
    store.down = True

    def careful(environ: Any, start_response: Any) -> Body:
        session: SyncSession = environ["coatcheck.session"]
        session["a"] = 1
        try:
            session.commit()
        except StoreUnavailable:
            session.clear()
        start_response("200 OK", PLAIN)
        return [b"without a session, then"]

    response = Browser(SessionMiddleware(careful, store=store)).get()
    assert (response.status, response.body) == (200, b"without a session, then")


# --- streams ------------------------------------------------------------------------------------------------------------


def test_a_change_after_the_start_says_what_to_do() -> None:
    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        environ["coatcheck.session"].get("a")
        start_response("200 OK", PLAIN)
        yield b"begun"
        environ["coatcheck.session"]["late"] = 1

    with pytest.raises(TooLate, match=r"call `session\.reload\(\)`.*and `session\.commit\(\)`"):
        Browser(SessionMiddleware(stream, store="memory://")).get()


def test_a_change_in_place_after_the_start_is_not_lost_in_silence() -> None:
    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        cart = environ["coatcheck.session"].setdefault("cart", [])
        start_response("200 OK", PLAIN)
        yield b"begun"
        cart.append("tea")

    with pytest.raises(TooLate):
        Browser(SessionMiddleware(stream, store="memory://")).get()


def test_nor_is_one_after_a_piece_was_pushed() -> None:
    def pushing(environ: Any, start_response: Any) -> Body:
        cart = environ["coatcheck.session"].setdefault("cart", [])
        start_response("200 OK", PLAIN)(b"begun")
        cart.append("tea")
        return []

    with pytest.raises(TooLate):
        Browser(SessionMiddleware(pushing, store="memory://")).get()


def test_a_first_look_after_the_start_is_refused_unless_caches_keep_users_apart() -> None:
    def stream(headers: list[tuple[str, str]]) -> App:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [*PLAIN, *headers])
            yield b"begun "
            yield str(dict(environ["coatcheck.session"])).encode()

        return app

    with pytest.raises(TooLate, match="Vary: Cookie"):
        Browser(SessionMiddleware(stream([]), store="memory://")).get()
    assert Browser(SessionMiddleware(stream([("Vary", "Cookie")]), store="memory://")).get().body == b"begun {}"


def test_a_stream_that_lives_on_goes_to_the_store_itself() -> None:
    store = Counting()

    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        session: SyncSession = environ["coatcheck.session"]
        session.get("hits")
        start_response("200 OK", PLAIN)
        for _ in range(2):
            session.reload()
            session.increment("hits")
            session.commit()
            yield str(session["hits"]).encode()
        session.reload()
        session["last"] = "stored at the end"

    visitor = Browser(SessionMiddleware(counter, store=store))
    visitor.get()
    assert Browser(SessionMiddleware(stream, store=store), visitor.cookie).get().body == b"23"
    seen = Browser(SessionMiddleware(shown, store=store), visitor.cookie).get().body
    assert seen == b"{'hits': 3, 'last': 'stored at the end'}"


def test_a_stream_may_begin_with_that() -> None:
    store = Counting()

    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        environ["coatcheck.session"].reload()
        start_response("200 OK", PLAIN)
        yield str(environ["coatcheck.session"]["hits"]).encode()

    visitor = Browser(SessionMiddleware(counter, store=store))
    visitor.get()
    assert Browser(SessionMiddleware(stream, store=store), visitor.cookie).get().body == b"1"


def test_a_stream_notices_a_logout() -> None:
    store = Counting()

    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        session: SyncSession = environ["coatcheck.session"]
        assert session.session_id is None
        session.get("hits")
        start_response("200 OK", PLAIN)
        yield b"begun"
        store.delete(str(session.session_id))
        with pytest.raises(SessionGone):
            session.reload()

    visitor = Browser(SessionMiddleware(counter, store=store))
    visitor.get()
    assert Browser(SessionMiddleware(stream, store=store), visitor.cookie).get().body == b"begun"
    assert len(store) == 0, "what ended is not brought back by the stream's end"


# --- at start -----------------------------------------------------------------------------------------------------------


def test_wrong_parts_are_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match="an asynchronous store in a synchronous application"):
        SessionMiddleware(counter, store=AsyncMemoryStore())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no store for the scheme"):
        SessionMiddleware(counter, store="nowhere://")
    with pytest.raises(ConfigurationError, match="neither a URL nor a store"):
        SessionMiddleware(counter, store=object())  # type: ignore[arg-type]


def test_a_store_given_as_a_url_is_closed() -> None:
    app = SessionMiddleware(counter, store="memory://", settings=Settings(idle_timeout=60))
    app.close()
