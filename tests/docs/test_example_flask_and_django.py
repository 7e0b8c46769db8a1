"""The example shops on Flask and on Django, used by browsers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.processes import ROOT
from tests.servers.valkey import Valkey

EXAMPLES = ROOT / "examples"


@pytest.fixture(params=["memory", "valkey"])
def flask_shop(request: pytest.FixtureRequest) -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("flask_shop", EXAMPLES / "flask_shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    url = "memory://" if request.param == "memory" else f"{request.getfixturevalue('valkey').url}?prefix=flask-shop:"
    app = module.create_app(url)
    yield app
    app.extensions["coatcheck"].close()


def test_the_flask_shop(flask_shop: Any) -> None:
    client = flask_shop.test_client()
    client.environ_base["wsgi.url_scheme"] = "https"
    assert "Nothing in it yet" in client.get("/").text
    for item in ("coat", "coat", "hat"):
        client.post(f"/add/{item}")
    assert "Wool coat added" in client.get("/").text
    assert "Wool coat added" not in client.get("/").text
    client.post("/remove/hat")
    page = client.post("/login", data={"name": "<i>Ada"}, follow_redirects=True).text
    assert "Hello, &lt;i&gt;Ada" in page
    assert "Welcome" in page
    assert "2 of Wool coat" in page
    assert "of Felt hat" not in page
    page = client.post("/logout", follow_redirects=True).text
    assert "Nothing in it yet" in page
    assert "Hello" not in page


DJANGO = """
import asyncio
import re

import httpx
from shop.asgi import application


async def main():
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(
        transport=transport, base_url="https://testserver", headers={"referer": "https://testserver/"}
    ) as browser:
        async def post(path, **data):
            data["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
            return await browser.post(path, data=data, follow_redirects=True)

        await browser.get("/")
        assert "sessionid" not in browser.cookies, "nothing is stored for who only looks"
        for item in ("hat", "hat", "coat"):
            page = await post(f"/add/{item}")
        assert "2 of Felt hat" in page.text and "Wool coat added" in page.text, page.text
        assert (await browser.get("/live/cart")).json() == {"user": None, "cart": {"hat": 2, "coat": 1}}

        anonymous = browser.cookies["sessionid"]
        page = await post("/admin/login/?next=/", username="ada", password="secret")
        assert "Hello, ada." in page.text and "2 of Felt hat" in page.text, page.text
        assert browser.cookies["sessionid"] != anonymous
        assert "Site administration" in (await browser.get("/admin/")).text
        assert (await browser.get("/live/cart")).json() == {"user": "1", "cart": {"hat": 2, "coat": 1}}

        await post("/admin/logout/")
        assert (await browser.get("/live/cart")).json() == {"user": None, "cart": {}}
        assert "Hello, whoever you are." in (await browser.get("/")).text


asyncio.run(main())
"""


def test_the_django_site_and_the_application_beside_it(valkey: Valkey, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "SHOP_STORE": f"{valkey.url}?prefix=django-shop:&timeout=5",
        "SHOP_FOLDER": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "DJANGO_SUPERUSER_PASSWORD": "secret",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=EXAMPLES / "django_site", env=environment, check=False,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "no issues" in run("manage.py", "check")
    run("manage.py", "migrate", "--verbosity", "0")
    run("manage.py", "createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.org")
    run("-c", DJANGO)
