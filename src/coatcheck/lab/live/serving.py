"""The page, its stream of events, and its buttons, in an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from importlib import resources
from typing import Any

import msgspec
from aiohttp import web

from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.errors import LabError
from coatcheck.lab.live.world import GOODS, World
from coatcheck.lab.processes import LOOPBACK

_OWN_HEADER = "x-coatcheck"  # another site's page cannot send it without asking first, and nobody answers
_BEHIND = 400  # events that a page may be behind, before it has to begin anew


class Order(msgspec.Struct, frozen=True):
    """What somebody wants to be done.

    Attributes:
        do: `build`, `kill`, `revive`, `cut`, `mend`, `kill-store`, `revive-store`, `add`, `look`, `logout`, `pause` or `go`.
        what: the architecture, the server, or the thing to put into the cart.
        link: what `cut` and `mend` are about: the server's link to the `balancer`, to the `store`, or to its `peers`.
    """

    do: str
    what: str = ""
    link: str = ""


class LiveServer:
    """Serves the page from a thread, and passes on orders for the parts.

    Attributes:
        port: where it serves, on 127.0.0.1.
        orders: what the main thread is to do.
        world: what is shown; to be used through `tell` from other threads.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.world = World(self._publish)
        self._pages: set[asyncio.Queue[bytes]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="live view", daemon=True)

    def __enter__(self) -> LiveServer:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise LabError(f"the page cannot be served at port {self.port}: {self._failure.strerror}")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=5)

    def tell(self, do: Callable[[World], None]) -> None:
        """Change the world from another thread."""
        self._loop.call_soon_threadsafe(do, self.world)

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/", self._page)
        application.router.add_get("/events", self._events)
        application.router.add_post("/do", self._do)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, LOOPBACK, self.port)
            try:
                await site.start()
            except OSError as problem:
                self._failure = problem
                return
            self.port = runner.addresses[0][1]
            living = asyncio.create_task(self.world.live())
            self._ready.set()
            await self._stop.wait()
            for page in self._pages:
                page.put_nowait(b"")
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
        finally:
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        """Nobody else's page may press our buttons, under whatever name it found this machine."""
        if request.host not in (f"{LOOPBACK}:{self.port}", f"localhost:{self.port}"):
            raise web.HTTPForbidden(text="This page is served to this machine only.")
        if request.method == "POST" and request.headers.get(_OWN_HEADER) != "1":
            raise web.HTTPForbidden(text="Not from another page.")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _page(self, _request: web.Request) -> web.Response:
        files = resources.files("coatcheck.lab")
        texts = [(files / name).read_text("utf-8") for name in ("page.css", "live/live.css", "live/live.js")]
        page = (files / "live/live.html").read_text("utf-8")
        architectures = [{"name": one.name, "title": one.title} for one in ARCHITECTURES.values()]
        facts = msgspec.json.encode({"architectures": architectures, "goods": GOODS}).decode()
        for name, text in zip(("STYLE", "LIVE_STYLE", "SCRIPT", "FACTS"), (*texts, facts), strict=True):
            page = page.replace(f"/*{name}*/", text)
        return web.Response(text=page, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        page: asyncio.Queue[bytes] = asyncio.Queue()
        self._pages.add(page)
        try:
            await response.write(_event("state", self.world.state()))
            while event := await page.get():
                if page.qsize() > _BEHIND:
                    break  # the page comes again by itself, and is told the state as it is then
                await response.write(event)
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._pages.discard(page)
        return response

    async def _do(self, request: web.Request) -> web.Response:
        try:
            order = msgspec.json.decode(await request.read(), type=Order)
        except msgspec.DecodeError as problem:
            raise web.HTTPBadRequest(text=str(problem)) from None
        you = self.world.people[0]
        if order.do == "add" and order.what in GOODS:
            await self.world.add(you, order.what)
        elif order.do == "look":
            await self.world.look(you)
        elif order.do == "logout":
            await self.world.log_out(you)
        elif order.do in ("pause", "go"):
            self.world.paused = order.do == "pause"
            self.world.changed()
        elif self.world.busy:
            raise web.HTTPConflict(text=f"One thing after the other: {self.world.busy}.")
        elif self._makes_sense(order):
            self.world.note(_busy(order))
            self.orders.put(order)
        else:
            raise web.HTTPBadRequest(text=f"{order.do} {order.what}: nothing that can be done now")
        return web.json_response({})

    def _makes_sense(self, order: Order) -> bool:
        state, cuts = self.world.servers.get(order.what), self.world.cuts.get(order.what, [])
        stored = self.world.service is not None
        return {
            "build": order.what in ARCHITECTURES,
            "kill": state == "up",
            "revive": state == "down",
            "cut": state == "up" and order.link in self.world.links and order.link not in cuts,
            "mend": order.link in cuts,
            "kill-store": stored and self.world.service_state == "up",
            "revive-store": stored and self.world.service_state == "down",
        }.get(order.do, False)

    def _publish(self, kind: str, content: Any) -> None:
        event = _event(kind, content)
        for page in self._pages:
            page.put_nowait(event)


def _busy(order: Order) -> str:
    words = {
        "build": "building {}", "kill": "killing {}", "revive": "starting {}", "kill-store": "killing the store",
        "revive-store": "starting the store", "cut": "cutting a link of {}", "mend": "mending a link of {}",
    }  # fmt: skip
    return words[order.do].format(order.what)


def _event(kind: str, content: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(content) + b"\n\n"
