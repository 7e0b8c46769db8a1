"""The example shop, used by two browsers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.servers.valkey import Valkey

FILE = Path(__file__).parents[2] / "examples" / "starlette_shop.py"


@pytest.fixture(params=["memory", "valkey"])
def shop(request: pytest.FixtureRequest) -> Any:
    spec = importlib.util.spec_from_file_location("starlette_shop", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if request.param == "memory":
        return module.create_app()
    server: Valkey = request.getfixturevalue("valkey")
    return module.create_app(f"{server.url}?prefix=shop:")


def test_a_cart_survives_the_login_and_a_logout_elsewhere_is_final(shop: Any) -> None:
    with TestClient(shop, base_url="https://testserver", headers={"user-agent": "Firefox on Linux"}) as laptop:
        assert "no session yet" in laptop.get("/").text
        laptop.post("/add/coat")
        laptop.post("/add/coat")
        laptop.post("/add/hat")
        laptop.post("/remove/hat")
        page = laptop.post("/login", content="name=%3Ci%3EAda").text
        assert "Hello, &lt;i&gt;Ada" in page
        assert "€ 378" in page
        assert "Felt hat</td>" not in page

        phone = TestClient(shop, base_url="https://testserver", headers={"user-agent": "Safari on iPhone"})
        phone.portal = laptop.portal  # in the same event loop, as in one server
        assert "Firefox on Linux" in phone.post("/login", content="name=%3Ci%3EAda").text

        page = laptop.get("/").text
        assert "Safari on iPhone" in page
        assert page.count("this one") == 1
        laptop.post("/end-others")
        assert "Log in" in phone.get("/").text
        assert "Hello" in laptop.get("/").text
        laptop.post("/logout")
        page = laptop.get("/").text
        assert "no session yet" in page
        assert "Nothing in it yet" in page
