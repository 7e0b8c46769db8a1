"""R7: no partial save. A commit is there whole or not at all, wherever it was cut off; and no key lives for ever."""

from __future__ import annotations

import asyncio
import random
from typing import Literal

import pytest

from tests.servers.browser import Browser
from tests.servers.fixtures import URLOpener
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey
from tests.servers.web import WebServer
from tests.web.shop import shop

RESERVED = {b"@ticket", b"@life", b"@operations"}


def check_whole(valkey: Valkey, prefix: str) -> int:
    """Look at everything in the store. Returns how many sessions there are."""
    sessions = 0
    for key in valkey("KEYS", f"{prefix}*"):
        assert valkey("PTTL", key) != -1, f"{key!r} lives for ever"
        if b":session:" not in key and b"session:" not in key:
            continue
        fields: dict[bytes, bytes] = valkey("HGETALL", key)
        if fields:  # it may have ended meanwhile
            sessions += 1
            assert fields.keys() >= RESERVED, fields
            assert len({fields.get(name) for name in (b"first", b"second", b"third")}) == 1, fields
    return sessions


async def story(visitor: Browser) -> None:
    """What a visitor does, come what may."""
    for path in ("/transfer", "/login?user=garimoo", "/transfer", "/transfer", "/logout", "/transfer", "/add/tea"):
        await visitor.post(path)


@pytest.mark.parametrize("cut", ["cut before", "cut after"])
async def test_a_story_cut_off_at_any_command_leaves_every_session_whole(
    open_store: URLOpener, proxy: Proxy, valkey: Valkey, prefix: str, cut: Literal["cut before", "cut after"]
) -> None:
    async with Browser(shop(open_store(f"{proxy.url}?prefix={prefix}"))) as visitor:
        await story(visitor)
    proxy.reset_counts()
    async with Browser(shop(open_store(f"{proxy.url}?prefix={prefix}"))) as visitor:
        await story(visitor)
    commands = len(proxy.commands)
    assert commands > 10
    for number in range(commands):
        # From this command on nothing gets through: as if the web server had died there, or the network.
        proxy.reset_counts()
        proxy.judge = lambda command, number=number: "pass" if command.number < number else cut  # type: ignore[misc]
        async with Browser(shop(open_store(f"{proxy.url}?prefix={prefix}"))) as visitor:
            await story(visitor)
        assert check_whole(valkey, prefix) > 0


async def test_a_login_over_an_old_session_ends_the_old_one_first(
    open_store: URLOpener, proxy: Proxy, valkey: Valkey, prefix: str
) -> None:
    """Whoever logs out and begins anew in one request must never be left with the old session alive."""
    app = shop(open_store(f"{proxy.url}?prefix={prefix}"))
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        old = visitor.ticket
        proxy.reset_counts()
        await visitor.post("/logout")
        assert proxy.commands.index("UNLINK") == 3
    assert valkey("EXISTS", f"{prefix}session:{(old or '')[:16]}") == 0


async def test_a_web_server_killed_at_random_moments_leaves_every_session_whole(valkey: Valkey, prefix: str) -> None:
    chance = random.Random(8)
    with WebServer("tests.web.shop:from_environment", {"SHOP_STORE": f"{valkey.url}?prefix={prefix}"}) as server:
        over = False
        answered = 0

        async def shopper() -> None:
            nonlocal answered
            async with Browser(server.url) as visitor:
                shown = 0
                while not over:
                    logs_in = chance.random() < 0.05
                    try:
                        if logs_in:
                            await visitor.post("/login?user=garimoo&keep=first&keep=second&keep=third")
                        answer = await visitor.post("/transfer")
                    except Exception:  # nobody there: the process is dead just now
                        if logs_in:
                            shown = 0  # the answer with the new ticket may be lost: then a new session begins
                        await asyncio.sleep(0.05)
                        continue
                    if answer.status_code == 200:
                        # An answer that was seen is stored: the number only grows.
                        assert int(answer.text) > shown
                        shown = int(answer.text)
                        answered += 1

        shoppers = [asyncio.create_task(shopper()) for _ in range(12)]
        for _ in range(3):
            goal = answered + 150
            async with asyncio.timeout(20):
                while answered < goal:
                    await asyncio.sleep(0.005)
                    for done in (one for one in shoppers if one.done()):
                        done.result()
            await asyncio.sleep(chance.random() * 0.02)
            server.kill()
            assert check_whole(valkey, prefix) > 0
            await asyncio.to_thread(server.start)
        over = True
        await asyncio.gather(*shoppers)
        assert check_whole(valkey, prefix) > 0
