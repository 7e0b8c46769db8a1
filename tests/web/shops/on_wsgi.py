"""The shop as a plain WSGI application."""

from __future__ import annotations

from typing import Any

from coatcheck.wsgi import SessionMiddleware
from tests.web.shops.pages import SETTINGS, STORE, page, wait_at


def shop(environ: Any, start_response: Any) -> list[bytes]:
    text = page(environ["coatcheck.session"], environ["PATH_INFO"], environ["QUERY_STRING"])
    wait_at(environ.get("HTTP_X_GATE"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]


application = SessionMiddleware(shop, store=STORE, settings=SETTINGS)
