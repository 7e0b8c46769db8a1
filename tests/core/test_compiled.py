"""What a request passes through may be machine code: `make test COMPILED=1`. It behaves as its source does."""

from __future__ import annotations

import gc
import os
import weakref
from importlib import import_module
from typing import Any

import pytest

from coatcheck.asgi import SessionMiddleware
from coatcheck.codec import JSONCodec
from coatcheck.errors import ConfigurationError, UnstorableValue
from coatcheck.session import Session

COMPILED = ("session", "manager", "asgi", "stores.redis.connection", "stores.redis.store")


@pytest.mark.parametrize("name", COMPILED)
def test_what_is_tested_is_what_was_asked_for(name: str) -> None:
    compiled = not str(import_module(f"coatcheck.{name}").__file__).endswith(".py")
    assert compiled is (os.environ.get("COATCHECK_COMPILED") == "1")


def test_nobody_refers_weakly_to_what_would_not_tell_when_it_goes() -> None:
    """mypyc 2.4 leaves such references behind, and the process dies of them at a later collection."""
    with pytest.raises(TypeError, match="weak reference"):
        weakref.ref(Session(JSONCodec()))


def test_a_mistyped_attribute_is_no_field_and_says_so() -> None:
    with pytest.raises(AttributeError, match="user"):
        Session(JSONCodec()).user = "Garimoo"  # type: ignore[attr-defined]


async def test_a_pair_of_a_header_is_whatever_has_two_items() -> None:
    """As in ASGI's own examples: a list of lists."""
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["user"] = scope["session"].get("user", "") + "!"
        await send({"type": "http.response.start", "status": 200, "headers": [[b"vary", b"Accept"]]})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        raise AssertionError("nobody asked for it")

    async def send(message: Any) -> None:
        sent.append(message)

    sessions = SessionMiddleware(application, store="memory://")
    await sessions({"type": "http", "headers": []}, receive, send)
    cookie = dict(map(tuple, sent[0]["headers"]))[b"set-cookie"].partition(b";")[0]
    await sessions({"type": "http", "headers": [[b"accept", b"*/*"], [b"cookie", cookie]]}, receive, send)
    assert [message["status"] for message in sent if "status" in message] == [200, 200]


@pytest.mark.parametrize("wrong", [None, 1, "later"])
def test_a_wrong_setting_is_named_by_ourselves(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="load"):
        SessionMiddleware(None, store="memory://", load=wrong)  # type: ignore[arg-type]


def test_ones_own_kind_of_session_can_be_referred_to_weakly_and_goes() -> None:
    class Mine(Session):
        pass

    def one(number: int) -> weakref.ref[Mine]:
        session = Mine(JSONCodec())
        session["number"] = [number]
        return weakref.ref(session)

    references = [one(number) for number in range(1000)]
    gc.collect()
    assert not any(each() is not None for each in references)


def test_what_is_nested_without_end_is_refused_and_nothing_dies() -> None:
    nested: list[Any] = []
    for _ in range(200_000):
        nested = [nested]
    with pytest.raises(UnstorableValue):
        Session(JSONCodec())["nested"] = nested
