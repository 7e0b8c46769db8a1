"""The synchronous applications that `sql` compares: the shop of `_applications` on Django and on Flask, with their sessions
in PostgreSQL, and without.

Each library runs with its defaults, but for one that would make Django dearer than it need be: its connections stay open.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

DJANGO = "Django's database sessions"
FLASK = "Flask-Session with SQLAlchemy"
BARE_DJANGO = "bare Django"
BARE_FLASK = "bare Flask"


def django(url: str) -> tuple[WSGIApplication, WSGIApplication]:
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


def flask(url: str) -> tuple[WSGIApplication, WSGIApplication]:
    """A bare application, and one with sessions."""
    from flask import Flask, request, session
    from flask_session import Session
    from flask_sqlalchemy import SQLAlchemy

    def app(*, sessions: bool) -> WSGIApplication:
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

        wsgi: WSGIApplication = made.wsgi_app
        return wsgi

    return app(sessions=False), app(sessions=True)
