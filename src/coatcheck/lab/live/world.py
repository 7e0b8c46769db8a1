"""People at the shop, and what is seen of its parts. Lives in one event loop, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, Literal

import aiohttp
import msgspec

from coatcheck.lab.meter import HEADER
from coatcheck.lab.processes import LOOPBACK
from coatcheck.lab.shoppers import SESSION_COOKIE, SESSION_ID_CHARACTERS, Answer, CookieJar

PEOPLE = ("you", "Ada", "Ben", "Cleo", "Dan", "Eve")
GOODS = ("hat", "scarf", "boots")

_PATIENCE = 6.0  # seconds; longer than a web server waits for those that it no longer hears
_LOOK_AGAIN = 0.6  # seconds between looks at where sessions are
_RESTS = (0.7, 1.5)  # seconds between two requests of one person, at least and at most
_GIVES_UP = 4  # wrong carts in a row, after which a person begins anew

_TROUBLES = {200: "", 0: "no answer", 503: "asked to come again (503)"}

State = Literal["up", "down"]
Link = Literal["balancer", "store", "peers"]
Tell = Callable[[str, Any], None]


class Person:
    """Somebody with a browser and a memory of what is in the cart."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.cookies = CookieJar()
        self.expected: dict[str, int] = {}
        self.unsure: dict[str, int] = {}  # what was put in and not acknowledged: it may be there or not
        self.seen: dict[str, int] | None = None
        self.right: bool | None = None
        self.server = ""
        self.trouble = ""
        self.wrong_in_a_row = 0
        self.turn = asyncio.Lock()

    @property
    def session(self) -> str | None:
        """The id of the session that the browser's ticket names."""
        ticket = self.cookies.get(SESSION_COOKIE)
        return None if ticket is None else ticket[:SESSION_ID_CHARACTERS]

    def begin_anew(self) -> None:
        """Forget everything, cookies too."""
        self.cookies = CookieJar()
        self.expected, self.unsure, self.seen, self.right, self.wrong_in_a_row = {}, {}, None, None, 0
        self.trouble = ""

    def judge(self, seen: dict[str, int]) -> bool:
        """Whether this is what was put in. What was unsure is sure once it was seen."""
        names = {*self.expected, *self.unsure, *seen}
        more = {name: seen.get(name, 0) - self.expected.get(name, 0) for name in names}
        if not all(0 <= count <= self.unsure.get(name, 0) for name, count in more.items()):
            return False
        self.expected = seen
        self.unsure = {name: count - more[name] for name, count in self.unsure.items() if count > more[name]}
        return True

    def shown(self) -> dict[str, Any]:
        """For the page."""
        return {
            "name": self.name, "expected": self.expected, "unsure": self.unsure, "seen": self.seen, "right": self.right,
            "server": self.server, "session": self.session, "trouble": self.trouble,
        }  # fmt: skip


class World:
    """All that the page shows.

    Args:
        tell: told each event: its kind, and its content for JSON.
        seed: decides what people do.
    """

    def __init__(self, tell: Tell, seed: int = 1) -> None:
        self._tell = tell
        self._dice = random.Random(f"live {seed}")
        self.people = [Person(number, name) for number, name in enumerate(PEOPLE)]
        self.architecture = ""
        self.title = ""
        self.sticky = False
        self.servers: dict[str, State] = {}
        self.service: str | None = None
        self.service_state: State = "up"
        self.links: list[Link] = []
        self.cuts: dict[str, list[Link]] = {}
        self.coats: dict[str, list[str]] = {}
        self.busy = "building"
        self.paused = False
        self._ports: dict[str, int] = {}
        self._port = 0

    # --- told by the stage -------------------------------------------------------------------------------------------

    def built(self, what: dict[str, Any], port: int, ports: dict[str, int]) -> None:
        """Another architecture is there. Everybody begins anew."""
        self.architecture, self.title, self.sticky, self.service, self.links = (
            what[name] for name in ("architecture", "title", "sticky", "service", "links")
        )
        self.cuts = {}
        self._port, self._ports = port, ports
        self.servers = dict.fromkeys(ports, "up")
        self.service_state = "up"
        self.coats = {}
        for person in self.people:
            person.begin_anew()
        self.note("", f"{self.title}. Everybody begins with an empty cart.")

    def note(self, busy: str, words: str = "") -> None:
        """Something is being done (`busy`), or has been (`words`)."""
        self.busy = busy
        if words:
            self._tell("news", words)
        self.changed()

    def changed(self) -> None:
        """Tell the whole state."""
        self._tell("state", self.state())

    def state(self) -> dict[str, Any]:
        """For the page."""
        return {
            "architecture": self.architecture,
            "title": self.title,
            "sticky": self.sticky,
            "servers": self.servers,
            "service": self.service,
            "serviceState": self.service_state,
            "links": self.links,
            "cuts": self.cuts,
            "coats": self.coats,
            "people": [person.shown() for person in self.people],
            "busy": self.busy,
            "paused": self.paused,
        }

    # --- people ------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Let everybody but you come and go, and look where sessions are, for ever."""
        timeout = aiohttp.ClientTimeout(total=_PATIENCE)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as self._client:
            await asyncio.gather(self._look(), *(self._come(person) for person in self.people[1:]))

    async def add(self, person: Person, item: str) -> None:
        """Put one more into the cart."""
        answer = await self._ask(person, "POST", f"/cart/{item}")
        if answer is None:
            person.unsure = {**person.unsure, item: person.unsure.get(item, 0) + 1}
            self.changed()
        else:
            person.expected = {**person.expected, item: person.expected.get(item, 0) + 1}
            self._judge(person, answer)

    async def look(self, person: Person) -> None:
        """Look at the cart."""
        answer = await self._ask(person, "GET", "/cart")
        if answer is not None:
            self._judge(person, answer)

    async def log_out(self, person: Person) -> None:
        """End the session."""
        await self._ask(person, "POST", "/logout")
        person.begin_anew()
        self.changed()

    async def _come(self, person: Person) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(*_RESTS))
            if self.busy or self.paused:
                continue
            if sum(person.expected.values()) < 3:
                await self.add(person, self._dice.choice(GOODS))
            else:
                await self.look(person)
            if person.wrong_in_a_row >= _GIVES_UP:
                person.begin_anew()

    async def _ask(self, person: Person, method: str, path: str) -> Answer | None:
        async with person.turn:
            began, status, server, told = time.monotonic(), 0, "", "0 0"
            answer: Answer | None = None
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError, msgspec.DecodeError):
                url = f"http://{LOOPBACK}:{self._port}{path}"
                async with self._client.request(method, url, headers=person.cookies.header()) as response:
                    body = await response.read()
                    status = response.status
                    server = response.headers.get("x-served-by", "")
                    told = response.headers.get(HEADER, told)
                    for set_cookie in response.headers.getall("Set-Cookie", ()):
                        person.cookies.take(set_cookie)
                if status == 200 and path != "/logout":
                    answer = msgspec.json.decode(body, type=Answer)
            person.server = server or person.server
            trouble = _TROUBLES.get(status, f"an error ({status})")
            if trouble != person.trouble:
                person.trouble = trouble
                self.changed()
            self._tell(
                "request",
                {
                    "who": person.number, "server": server, "status": status, "path": f"{method} {path}",
                    "store": int(told.partition(" ")[0]), "ms": round((time.monotonic() - began) * 1000, 1),
                },
            )  # fmt: skip
            return answer

    def _judge(self, person: Person, answer: Answer) -> None:
        before = person.right
        person.seen = answer.items
        person.right = person.judge(answer.items)
        person.wrong_in_a_row = 0 if person.right else person.wrong_in_a_row + 1
        if person.right is False and before is not False:
            self._tell("news", f"{person.name}: the cart is wrong. {answer.server} shows {_spoken(answer.items)}.")
        self.changed()

    # --- parts -------------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """See which web server finds which session; where they share a store, the coats hang there."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            if self.busy or not self._ports:
                continue
            sessions = {person.session: person.name for person in self.people if person.session}
            asked = [
                server
                for server, state in self.servers.items()
                if state == "up" and not (self.service and "store" in self.cuts.get(server, ()))
            ]
            told = await asyncio.gather(*(self._has(server, list(sessions)) for server in asked))
            found = {server: [sessions[each] for each in theirs] for server, theirs in zip(asked, told, strict=True)}
            if self.service is not None:
                if self.service_state == "up" and not asked:
                    continue  # nobody can tell; they hang where they hung
                found = {"store": max(found.values(), key=len, default=[]) if self.service_state == "up" else []}
            if found != self.coats:
                self.coats = found
                self.changed()

    async def _has(self, server: str, sessions: list[str]) -> list[str]:
        url = f"http://{LOOPBACK}:{self._ports.get(server, 0)}/lab/has?ids={','.join(sessions)}"
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError, msgspec.DecodeError):
            async with self._client.get(url) as response:
                return msgspec.json.decode(await response.read(), type=list[str] | None) or []
        return []


def _spoken(cart: dict[str, int]) -> str:
    return ", ".join(f"{count} {item}" for item, count in cart.items()) or "an empty cart"
