"""What the shop's pages do, whatever the framework: to a session, by a path and a query."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from coatcheck import CookieSettings, Settings
from tests.web.shops.gates import Gates

Query: TypeAlias = list[tuple[str, str]]

STORE = os.environ.get("SHOP_STORE", "memory://")
PATIENCE = float(os.environ.get("SHOP_PATIENCE", "5"))
SETTINGS = Settings(store_timeout=PATIENCE)
COOKIE = CookieSettings().name or ""


def page(session: Any, path: str, query: str) -> str:
    """Do what is asked at this path, and give the text that is answered."""
    wanted = parse_qsl(query, keep_blank_values=True)
    name, _, rest = path.strip("/").partition("/")
    match name:
        case "untouched":
            return "the same for everybody"
        case "page":
            return json.dumps({name: session[name] for name in session.keys()})  # noqa: SIM118 - Django's is no mapping
        case "put":
            session.update(dict(wanted))
            return "stored"
        case "count":
            session.increment("count")
            return "counted"
        case "add":
            session.map("cart").increment(rest)
            return "in the cart"
        case "careful":
            session.require_unchanged()
            session.update(dict(wanted))
            return "stored"
        case "login":
            log_in(session, dict(wanted)["user"], [value for name, value in wanted if name == "keep"])
            return "welcome"
        case "logout":
            log_out(session)
            return "good-bye"
        case "boom":
            session["broken"] = True
            raise RuntimeError("this page is broken")
        case _:
            raise AssertionError(path)


def log_in(session: Any, user: str, keep: list[str]) -> None:
    if hasattr(session, "cycle_key"):  # as Django's own login does
        session.cycle_key()
    else:
        session.renew(owner=user, keep=keep)
    session["user"] = user


def log_out(session: Any) -> None:
    if hasattr(session, "flush"):  # as Django's own logout does
        session.flush()
    else:
        session.destroy()


def wait_at(gate: str | None) -> None:
    """Be as slow as the test wants."""
    if gate:
        gates.arrive(gate)
        while not gates.is_open(gate):
            time.sleep(0.005)


async def await_at(gate: str | None) -> None:
    """See `wait_at`."""
    if gate:
        gates.arrive(gate)
        while not gates.is_open(gate):
            await asyncio.sleep(0.005)


gates = Gates(os.environ.get("SHOP_GATES", ""))
