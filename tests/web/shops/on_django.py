"""The shop on Django: for WSGI with synchronous views, for ASGI with asynchronous ones."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path

from coatcheck.django import aready, ready
from tests.web.shops.pages import COOKIE, PATIENCE, STORE, await_at, page, wait_at


def shop(request: HttpRequest) -> HttpResponse:
    text = page(request.session, request.path, request.META["QUERY_STRING"])
    wait_at(request.headers.get("x-gate"))
    return HttpResponse(text)


async def ashop(request: HttpRequest) -> HttpResponse:
    session: Any = request.session
    if request.path not in _WITHOUT:
        await session.aget("user")  # from here on all of it is there, and nothing has to wait
    if request.path == "/login":
        await session.acycle_key()
        await session.aset("user", request.GET["user"])
        text = "welcome"
    elif request.path == "/logout":
        await session.aflush()
        text = "good-bye"
    else:
        text = page(session, request.path, request.META["QUERY_STRING"])
    await await_at(request.headers.get("x-gate"))
    return HttpResponse(text)


_WITHOUT = ("/untouched",)


def probe(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=200 if ready(timeout=0) else 503)


async def aprobe(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=200 if await aready(timeout=0) else 503)


def set_up(view: Any, probe: Any) -> None:
    global urlpatterns
    urlpatterns = [path("ready", probe), re_path("", view)]
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="only for tests",
        MIDDLEWARE=["coatcheck.django.SessionMiddleware"],
        SESSION_ENGINE="coatcheck.django",
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_SECURE=True,
        COATCHECK={"store": STORE, "store_timeout": PATIENCE},
    )
    django.setup()


urlpatterns: list[Any] = []


def make_wsgi() -> Any:
    set_up(shop, probe)
    return get_wsgi_application()


def make_asgi() -> Any:
    set_up(ashop, aprobe)
    return get_asgi_application()
