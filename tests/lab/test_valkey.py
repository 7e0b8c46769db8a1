"""What the lab asks of its Valkey: how much it keeps, and to wait for its disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from coatcheck.lab import programs, valkey
from coatcheck.lab.processes import Supervisor
from coatcheck.lab.stopping import StopRequests


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with StopRequests() as stop, Supervisor(tmp_path, tmp_path / "logs", stop) as supervisor:
        yield valkey.start(supervisor, programs.valkey(None), tmp_path)


def test_memory_is_that_of_what_is_kept_and_not_of_the_buffers_of_connections(url: str) -> None:
    """The buffers of fifty connections that came just now are more than the six hundred sessions take."""
    before = valkey.used_memory(url)
    clients = [redis.Redis.from_url(url, single_connection_client=True) for _ in range(50)]
    for at in range(600):
        clients[at % 50].set(f"session:{at:04d}", "x" * 1000)
    took = (valkey.used_memory(url) - before) / 600
    for client in clients:
        client.close()
    assert 1000 < took < 1300


def test_it_waits_for_its_disk_while_it_is_asked_to(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        with valkey.each_change_on_disk(url):
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
