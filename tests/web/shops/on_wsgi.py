"""The shop as a plain WSGI application."""

from __future__ import annotations

from typing import Any

from coatcheck.wsgi import SessionMiddleware
from tests.web.shops.pages import SETTINGS, STORE, page, wait_at


def shop(environ: Any, start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/ready":
        start_response(
            "200 OK" if environ["coatcheck.session"].manager.ready(timeout=0) else "503 Service Unavailable", []
        )
        return []
    text = page(environ["coatcheck.session"], environ["PATH_INFO"], environ["QUERY_STRING"])
    wait_at(environ.get("HTTP_X_GATE"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]


application = SessionMiddleware(shop, store=STORE, settings=SETTINGS)
