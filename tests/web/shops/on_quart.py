"""The shop on Quart."""

from __future__ import annotations

from quart import Quart, request, session

from coatcheck import Settings
from coatcheck.quart import Sessions
from tests.web.shops.pages import COOKIE, PATIENCE, STORE, await_at, page


async def shop(path: str) -> str:
    text = page(session, path, request.query_string.decode())
    await await_at(request.headers.get("x-gate"))
    return text


def make() -> Quart:
    app = Quart(__name__)
    app.config.update(SESSION_COOKIE_NAME=COOKIE, SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Lax")
    app.route("/<path:path>", methods=["GET", "POST"])(shop)
    sessions = Sessions(app, store=STORE, settings=Settings(absolute_timeout=None, store_timeout=PATIENCE))

    @app.get("/ready")
    async def ready() -> tuple[str, int]:
        return "", 200 if await sessions.ready(timeout=0) else 503

    return app
