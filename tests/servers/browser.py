"""A browser with a session's cookies: what it is given it keeps and shows, as over HTTPS, whatever the server speaks."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import httpx

from coatcheck.asgi import ASGIApp
from coatcheck.cookie import SEEN

COOKIE = "__Host-session"


class Browser:
    """An async context manager.

    Args:
        where: an ASGI application, or the URL of a real server.
        cookie: the cookie's name.
        ticket: the cookie's value to begin with.

    Attributes:
        seen: the value of the freshness token's cookie; `None` if there is none.
    """

    def __init__(self, where: ASGIApp | str, *, cookie: str = COOKIE, ticket: str | None = None) -> None:
        self.cookie = cookie
        self.ticket = ticket
        self.seen: str | None = None
        if isinstance(where, str):
            self._client = httpx.AsyncClient(base_url=where, timeout=20)
        else:
            # Exceptions that reach the server are its logs' business: a user sees a status.
            transport = httpx.ASGITransport(where, raise_app_exceptions=False)
            self._client = httpx.AsyncClient(transport=transport, base_url="https://testserver")

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("GET", path, **options)

    async def get_when_up(self, path: str, **options: Any) -> httpx.Response:
        """The first answer other than 503: a server that was down is asked about again only now and then."""
        async with asyncio.timeout(15):
            while (response := await self.get(path, **options)).status_code == 503:
                await asyncio.sleep(0.02)
        return response

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("POST", path, **options)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        self._client.cookies.clear()
        headers = dict(options.pop("headers", {}))
        shown = {self.cookie: self.ticket, self.cookie + SEEN: self.seen}
        if any(shown.values()):
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
        response = await self._client.request(method, path, headers=headers, **options)
        for header in response.headers.get_list("set-cookie"):
            self._take(header)
        return response

    @property
    def session_id(self) -> str | None:
        return None if self.ticket is None else self.ticket[:16]

    def _take(self, header: str) -> None:
        pair, *attributes = header.split("; ")
        name, _, value = pair.partition("=")
        kept = None if "Max-Age=0" in attributes else value
        if name == self.cookie + SEEN:
            self.seen = kept
        else:
            assert name == self.cookie, header
            self.ticket = kept
