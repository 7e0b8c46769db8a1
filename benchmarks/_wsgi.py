"""The synchronous applications that `sql` compares: the shop of `_applications` on Django and on Flask, with their sessions
in PostgreSQL, and without.

Each library runs with its defaults, but for one that would make Django dearer than it need be: its connections stay open.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from benchmarks.asgi import WRITE_EVERY

WSGIApp: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

DJANGO = "Django's database sessions"
FLASK = "Flask-Session with SQLAlchemy"
BARE_DJANGO = "bare Django"
BARE_FLASK = "bare Flask"


def django(url: str) -> tuple[WSGIApp, WSGIApp]:
    """A bare application, and one with sessions. They share settings, of which Django has but one set in a process."""
    import django as package
    from django import http
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.management import call_command
    from django.urls import path

    response: Any = http.HttpResponse
    parts = urlsplit(url)
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # an event loop runs, but nobody waits for it here

    def login(request: Any) -> Any:
        request.session["user"] = request.GET["user"]
        return response("welcome", content_type="text/plain")

    def work(request: Any) -> Any:
        user = request.session["user"]
        if request.method == "POST":
            request.session["hits"] = request.session.get("hits", 0) + 1
        return response(user, content_type="text/plain")

    def hits(request: Any) -> Any:
        return response(str(request.session.get("hits", 0)), content_type="text/plain")

    def bare(request: Any) -> Any:
        return response(request.method, content_type="text/plain")

    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=(path("login", login), path("work", work), path("hits", hits), path("bare", bare)),
        SECRET_KEY="k" * 50,
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        LOGGING_CONFIG=None,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": parts.path[1:],
                "USER": parts.username,
                "HOST": parts.hostname,
                "PORT": parts.port,
                "CONN_MAX_AGE": None,
            }
        },
    )
    package.setup()
    call_command("migrate", "sessions", verbosity=0)
    with_sessions: Any = WSGIHandler()
    settings.MIDDLEWARE = []
    without: Any = WSGIHandler()
    return without, with_sessions


def flask(url: str) -> tuple[WSGIApp, WSGIApp]:
    """A bare application, and one with sessions."""
    from flask import Flask, request, session
    from flask_session import Session
    from flask_sqlalchemy import SQLAlchemy

    def app(*, sessions: bool) -> WSGIApp:
        made = Flask("shop")
        if sessions:
            made.config["SQLALCHEMY_DATABASE_URI"] = url.replace("postgresql://", "postgresql+psycopg://")
            made.config["SESSION_TYPE"] = "sqlalchemy"
            made.config["SESSION_SQLALCHEMY"] = SQLAlchemy(made)
            with made.app_context():
                Session(made)

        @made.post("/login")
        def login() -> str:
            session["user"] = request.args["user"]
            return "welcome"

        @made.route("/work", methods=["GET", "POST"])
        def work() -> str:
            user: str = session["user"]
            if request.method == "POST":
                session["hits"] = session.get("hits", 0) + 1
            return user

        @made.get("/hits")
        def hits() -> str:
            return str(session.get("hits", 0))

        @made.route("/bare", methods=["GET", "POST"])
        def bare() -> str:
            return request.method

        wsgi: WSGIApp = made.wsgi_app
        return wsgi

    return app(sessions=False), app(sessions=True)


class Visitors:
    """Browsers of one application, each with its own cookie, as cheap as they can be made. See `asgi.Users`."""

    def __init__(self, app: WSGIApp, number: int) -> None:
        self._app = app
        self.names = [f"user-{at}" for at in range(number)]
        self._cookies = [""] * number
        self._next = 0
        self.writes = 0

    def request(self, user: int, method: str, path: str, query: str = "") -> str:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "shop.example",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "shop.example",
            "HTTP_ACCEPT": "*/*",
            "HTTP_USER_AGENT": "benchmark",
            "CONTENT_LENGTH": "0",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        if self._cookies[user]:
            environ["HTTP_COOKIE"] = self._cookies[user]

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            assert status.startswith("200"), status
            for name, value in headers:
                if name.lower() == "set-cookie":
                    self._cookies[user] = value.partition(";")[0]

        answer = self._app(environ, start_response)
        body = b"".join(answer).decode()
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        return body

    def log_in(self) -> None:
        for user, name in enumerate(self.names):
            self.request(user, "POST", "/login", f"user={name}")

    async def work(self, number: int) -> None:
        """One request of the benchmark, by the user whose turn it is."""
        user = self._next
        self._next = (user + 1) % len(self.names)
        write = number % WRITE_EVERY == 0
        self.writes += write
        answer = self.request(user, "POST" if write else "GET", "/work")
        assert answer == self.names[user], f"{self.names[user]!r} was taken for {answer!r}"

    async def work_without_session(self, number: int) -> None:
        method = "POST" if number % WRITE_EVERY == 0 else "GET"
        answer = self.request(0, method, "/bare")
        assert answer == method

    def check_hits(self) -> None:
        """Every write of every user must have counted."""
        found = sum(int(self.request(user, "GET", "/hits")) for user in range(len(self.names)))
        assert found == self.writes, f"{self.writes} writes, but the sessions counted {found}"
