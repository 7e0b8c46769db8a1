"""The shop on Flask."""

from __future__ import annotations

import os

from flask import Flask, request, session

from coatcheck import Settings
from coatcheck.flask import Sessions
from tests.web.shops.pages import COOKIE, PATIENCE, STORE, page, wait_at

application = Flask(__name__)
application.config.update(SESSION_COOKIE_NAME=COOKIE, SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Lax")
sessions = Sessions(application, store=STORE, settings=Settings(absolute_timeout=None, store_timeout=PATIENCE))


@application.get("/ready")
def ready() -> tuple[str, int]:
    return "", 200 if sessions.ready(timeout=0) else 503


@application.route("/<path:path>", methods=["GET", "POST"])
def shop(path: str) -> str:
    text = page(session, path, request.query_string.decode())
    wait_at(request.headers.get("x-gate"))
    return text


if "SHOP_WARM" in os.environ:  # a connection that is open before the server forks its workers
    application.test_client(use_cookies=False).get("/page", headers={"cookie": f"{COOKIE}={'A' * 48}"})
