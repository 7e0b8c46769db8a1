"""Django, and beside it at /live/ another ASGI application that knows the same users by the same sessions.

cd examples/django_site
SHOP_STORE=redis://localhost:6379 uvicorn shop.asgi:application
"""

from __future__ import annotations

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
site = get_asgi_application()  # which sets Django up, so it comes first

from django.conf import settings  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from coatcheck import AsyncSession  # noqa: E402
from coatcheck.django import session_settings  # noqa: E402
from coatcheck.starlette import SessionMiddleware  # noqa: E402


async def cart(request: Request) -> Response:
    """Whose session it is, and what is in the cart that Django's pages fill."""
    session = request.session
    assert isinstance(session, AsyncSession)
    return JSONResponse({"user": session.owner, "cart": dict(session.map("cart"))})


live = Starlette(
    routes=[Route("/live/cart", cart)],
    middleware=[Middleware(SessionMiddleware, store=settings.COATCHECK["store"], settings=session_settings())],
)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Whatever is below /live/ goes there, and the rest to Django."""
    beside = scope["type"] == "lifespan" or scope["path"].startswith("/live/")
    await (live if beside else site)(scope, receive, send)
