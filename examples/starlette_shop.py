"""A small shop: a cart, login, logout, and the list of a user's devices.

    python examples/starlette_shop.py --port 8001 --store redis://localhost:6379

See `examples/README.md`. Everything that concerns sessions is in the handlers; the rest is a page.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from coatcheck import AsyncSession
from coatcheck.starlette import SessionMiddleware

GOODS = {"coat": ("Wool coat", 189), "hat": ("Felt hat", 49), "scarf": ("Long scarf", 29), "gloves": ("Gloves", 35)}


def session_of(request: Request) -> AsyncSession:
    """`request.session` by its own type, so that editors and type checkers know what it can do."""
    session: Any = request.session
    assert isinstance(session, AsyncSession)
    return session


async def home(request: Request) -> Response:
    session = session_of(request)
    cart = {item: count for item, count in session.map("cart").items() if item in GOODS}
    return page(request, goods(cart) + cart_box(cart) + await account(session))


async def add(request: Request) -> Response:
    """An entry of a map is a field of its own: two windows that add at once both count."""
    item = request.path_params["item"]
    if item in GOODS:
        session_of(request).map("cart").increment(item)
    return back()


async def remove(request: Request) -> Response:
    session_of(request).map("cart").pop(request.path_params["item"], None)
    return back()


async def log_in(request: Request) -> Response:
    """A new ticket for the logged-in user. The cart comes along; anything else that was there before does not."""
    name = (await form(request)).get("name", "").strip()[:40]
    if name:
        session = session_of(request)
        session.renew(owner=name.casefold(), keep="cart")
        session["name"] = name
        session["device"] = device_of(request.headers.get("user-agent", ""))
    return back()


async def log_out(request: Request) -> Response:
    session_of(request).destroy()
    return back()


async def end_others(request: Request) -> Response:
    """Log out all other devices of this user, as after a change of password."""
    session = session_of(request)
    if session.owner is not None:
        await session.manager.end_sessions_of(session.owner, but=session.session_id)
    return back()


async def account(session: AsyncSession) -> str:
    """Who is logged in, and where else."""
    if session.owner is None:
        return """<section><h2>Account</h2><form method="post" action="/login">
            <input name="name" placeholder="Your name" required maxlength="40" autocomplete="username">
            <button>Log in</button></form><p class="quiet">Any name will do; there is no password here.</p></section>"""
    rows = []
    for record in await session.manager.sessions_of(session.owner):
        text = record.fields.get("device")
        device = "unknown" if text is None else session.manager.codec.decode(record.session_id, "device", text)
        seen = datetime.fromtimestamp(record.touched_ms / 1000, UTC).strftime("%d %b, %H:%M UTC")
        here = " <b>this one</b>" if record.session_id == session.session_id else ""
        rows.append(
            f"<tr><td>{escape(str(device))}{here}</td><td>{seen}</td><td><code>{record.session_id}</code></td></tr>"
        )
    return f"""<section><h2>Hello, {escape(session["name"])}</h2>
        <table><tr><th>Device</th><th>Last seen</th><th>Session</th></tr>{"".join(rows)}</table>
        <form method="post" action="/logout"><button>Log out</button></form>
        <form method="post" action="/end-others"><button class="plain">Log out all other devices</button></form></section>"""


def goods(cart: dict[str, int]) -> str:
    cards = "".join(
        f"""<form class="card" method="post" action="/add/{item}"><h3>{name}</h3><p>€ {price}</p>
            <button>{"Add another" if item in cart else "Add to cart"}</button></form>"""
        for item, (name, price) in GOODS.items()
    )
    return f'<div class="goods">{cards}</div>'


def cart_box(cart: dict[str, int]) -> str:
    if not cart:
        return '<section><h2>Cart</h2><p class="quiet">Nothing in it yet.</p></section>'
    rows = "".join(
        f"""<tr><td>{GOODS[item][0]}</td><td>{count} &times;</td><td>€ {GOODS[item][1] * count}</td>
            <td><form method="post" action="/remove/{item}"><button class="plain">remove</button></form></td></tr>"""
        for item, count in cart.items()
    )
    total = sum(GOODS[item][1] * count for item, count in cart.items())
    rows += f'<tr class="total"><td>Total</td><td></td><td>€ {total}</td><td></td></tr>'
    return f"<section><h2>Cart</h2><table>{rows}</table></section>"


def page(request: Request, content: str) -> HTMLResponse:
    session = session_of(request)
    ticket = f"session <code>{session.session_id}</code>" if session.session_id else "no session yet: nothing is stored"
    return HTMLResponse(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>The coat shop</title>
        <meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>
        <header><h1>The coat shop</h1><span>served from port {request.url.port or 443} · {ticket}</span></header>
        <main>{content}</main></html>"""
    )


def back() -> RedirectResponse:
    return RedirectResponse("/", status_code=303)


async def form(request: Request) -> dict[str, str]:
    body = (await request.body()).decode("utf-8", "replace")
    return {name: values[0] for name, values in parse_qs(body).items()}


def device_of(user_agent: str) -> str:
    """Something a person recognises."""
    browsers = ("Firefox", "Edg", "Chrome", "Safari", "curl")
    systems = ("Android", "iPhone", "iPad", "Windows", "Mac OS X", "Linux")
    browser = next((name for name in browsers if name in user_agent), "Browser")
    system = next((name for name in systems if name in user_agent), "")
    return f"{browser} on {system}" if system else browser


STYLE = """
:root {
  color-scheme: light dark;
  --ink: #22303a; --soft: #64727d; --line: #d9e0e4; --paper: #fff; --ground: #f4f6f5; --green: #2f7d6b;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ecef; --soft: #9aa7b0; --line: #34404a; --paper: #1d252c; --ground: #14191e; --green: #3f9a85; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header { padding: 28px 24px; background: #2f7d6b; color: #fff; text-align: center; }
header h1 { margin: 0 0 4px; }
header span { font-size: 14px; }
main { max-width: 760px; margin: 24px auto; padding: 0 16px; display: grid; gap: 18px; }
section, .card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; }
.goods { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.card { display: block; text-align: center; }
h2, h3 { margin: 0 0 8px; }
p { margin: 4px 0 12px; }
.quiet, th { color: var(--soft); font-size: 14px; }
code { font-size: 13px; }
table { width: 100%; border-collapse: collapse; margin-bottom: 12px; }
td, th { text-align: left; padding: 7px 4px; }
tr + tr td { border-top: 1px solid var(--line); }
.total td { font-weight: 600; }
form:not(.card) { display: inline; }
button { font: inherit; border: 0; border-radius: 8px; padding: 7px 14px; cursor: pointer; }
button { background: var(--green); color: #fff; }
button.plain { background: none; color: var(--green); padding: 7px 4px; }
input { font: inherit; padding: 6px 10px; border: 1px solid var(--line); border-radius: 8px; }
input { background: var(--ground); color: inherit; }
"""


def create_app(store: str = "memory://") -> Starlette:
    """The shop.

    Args:
        store: where sessions live, by URL.
    """
    return Starlette(
        routes=[
            Route("/", home),
            Route("/add/{item}", add, methods=["POST"]),
            Route("/remove/{item}", remove, methods=["POST"]),
            Route("/login", log_in, methods=["POST"]),
            Route("/logout", log_out, methods=["POST"]),
            Route("/end-others", end_others, methods=["POST"]),
        ],
        # The cookie is Secure: browsers accept that on http://localhost, except Safari, which needs HTTPS.
        middleware=[Middleware(SessionMiddleware, store=store, idle_timeout=3600)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="default 8000")
    parser.add_argument("--store", default="memory://", help="where sessions live, by URL; default memory://")
    options = parser.parse_args()
    uvicorn.run(create_app(options.store), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
