"""All-to-all in several worker processes of one server: uvicorn's, and gunicorn's with threads, forked and with greenlets.

All of them have the same URL. The test is a peer, too: it sees who is there, and what they hold.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from coatcheck.stores.replicated import ReplicatedStore
from coatcheck.stores.replicated.keys import ClusterKey
from tests.servers.browser import Browser
from tests.servers.processes import LOOPBACK, eventually, free_ports
from tests.servers.web import Gunicorn, WebServer

Flask = partial(Gunicorn, "tests.web.shops.on_flask:application", settings="tests.web.shops.joining")


class Kind(NamedTuple):
    """A web server, and how many peers it is."""

    serve: Callable[[dict[str, str]], WebServer]
    peers: int = 2


KINDS = {
    "uvicorn --workers": Kind(partial(WebServer, "tests.web.shop:from_environment", workers=2)),
    "gunicorn, threads": Kind(partial(Flask, workers=2)),
    "gunicorn --preload": Kind(partial(Flask, workers=2, preload=True)),
    # Its store was used before the fork: the parent has become a peer, and stays one.
    "gunicorn --preload, warm": Kind(
        lambda environment: Flask({**environment, "SHOP_WARM": "1"}, workers=2, preload=True), peers=3
    ),
    "gunicorn, gevent": Kind(partial(Flask, workers=2, worker="gevent", threads=100)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


async def test_workers_of_one_server_are_peers_and_one_that_dies_comes_back_as_one(kind: Kind, tmp_path: Path) -> None:
    ClusterKey.new().write(tmp_path / "key")
    ports = free_ports(kind.peers + 1)
    url = f"replicated://{LOOPBACK}:{ports[0]}-{ports[-1]}?keys={tmp_path}/key&silence=6&timeout=15&quorum=2"
    server = kind.serve({"SHOP_STORE": url, "SHOP_PATIENCE": "15"})
    spectator = ReplicatedStore.from_url(url)
    server.launch()
    try:
        assert await spectator.ready(timeout=30)
        await eventually(server.runs, "the start of the server", 30)
        await eventually(lambda: spectator.figures["live"] == kind.peers, "all workers to be there", 30)
        async with Browser(server.url) as visitor:
            once = {"connection": "close"}  # so that any worker may get the next one
            await visitor.post("/login?user=ann", headers=once)
            for _ in range(30):
                assert (await visitor.post("/count", headers=once)).status_code == 200
            assert visitor.session_id is not None
            record = await spectator.read(visitor.session_id)
            assert record is not None
            assert record.fields["count"] == "30"
            parted = spectator.figures["parted"]
            os.kill(server.workers[0], signal.SIGKILL)
            await eventually(lambda: spectator.figures["parted"] > parted, "the death to be noticed", 30)
            await eventually(lambda: spectator.figures["live"] == kind.peers, "another one in its place", 30)
            for _ in range(10):
                page = await visitor.get("/page", headers=once)
                assert json.loads(page.text) == {"user": "ann", "count": 30}
        assert "Traceback" not in server.log
    finally:
        await spectator.close()
        await asyncio.to_thread(server.stop)
