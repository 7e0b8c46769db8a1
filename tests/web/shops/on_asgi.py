"""The shop as a plain ASGI application."""

from __future__ import annotations

from typing import Any

from coatcheck.asgi import ASGIApp, SessionMiddleware
from tests.web.shops.pages import SETTINGS, STORE, await_at, page


async def shop(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/ready":
        status = 200 if await scope["session"].manager.ready(timeout=0) else 503
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})
        return
    text = page(scope["session"], scope["path"], scope["query_string"].decode())
    await await_at(dict(scope["headers"]).get(b"x-gate", b"").decode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})


def make() -> ASGIApp:
    return SessionMiddleware(shop, store=STORE, settings=SETTINGS)
