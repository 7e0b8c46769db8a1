"""Starting a Valkey (or Redis) for one run, or checking that a given one can be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from coatcheck.lab.errors import UsageError
from coatcheck.lab.processes import LOOPBACK, Process, Supervisor, on_free_port


def start(supervisor: Supervisor, program: Path, folder: Path) -> str:
    """Start a Valkey, wait until it answers, and give its URL.

    It writes what it does to a file, once a second, as most people run it who keep sessions in it.
    """

    def on(port: int) -> str:
        url = f"redis://{LOOPBACK}:{port}/0"
        _start(supervisor, program, folder, url)
        return url

    return on_free_port(on)


def start_again(supervisor: Supervisor, program: Path, folder: Path, url: str) -> Process:
    """Start the Valkey of `url` anew after it was killed, and wait until it answers."""
    return _start(supervisor, program, folder, url)


def _start(supervisor: Supervisor, program: Path, folder: Path, url: str) -> Process:
    data = folder / "valkey"
    data.mkdir(exist_ok=True)
    return supervisor.serve(
        "valkey",
        [
            str(program),
            *("--port", str(urlsplit(url).port)),
            *("--bind", LOOPBACK),
            *("--save", ""),
            *("--appendonly", "yes", "--appendfsync", "everysec"),
            *("--daemonize", "no"),
            *("--dir", str(data.resolve())),
        ],
        # Its process id proves that it is ours that answers, and not somebody who took the port first.
        lambda process: _process_id(url) == process.popen.pid,
        seconds=15,
        what="Valkey",
    )


def used_memory(url: str) -> int:
    """Bytes of memory that the server uses for what it keeps: buffers of its connections and its file come and go.

    The server's own sum of those buffers is up to seconds old. Each connection, asked for by itself, tells what it has now.
    """
    import redis

    with redis.Redis.from_url(_as_the_client_has_it(url), socket_connect_timeout=3, socket_timeout=3) as client:
        connections: object = client.client_list()
        told: object = client.info("memory")
    assert isinstance(told, dict)
    assert isinstance(connections, list)
    buffers = sum(int(connection.get("tot-mem", 0)) for connection in connections)
    return int(told["used_memory"]) - buffers - int(told.get("mem_aof_buffer", 0))


@contextmanager
def each_change_on_disk(url: str) -> Iterator[None]:
    """Let the server acknowledge a change only when it is on its disk, instead of writing once a second."""
    import redis

    with redis.Redis.from_url(_as_the_client_has_it(url), socket_connect_timeout=3, socket_timeout=3) as client:
        client.config_set("appendfsync", "always")
        try:
            yield
        finally:
            client.config_set("appendfsync", "everysec")


def check_url(url: str) -> None:
    """Raise `UsageError` if no Redis or Valkey answers at `url`."""
    import redis

    if urlsplit(url).scheme not in ("redis", "rediss", "valkey", "valkeys", "unix", "redis+unix", "valkey+unix"):
        raise UsageError("--redis-url", without_password(url), "not the URL of a Redis", "Use redis://HOST:PORT/0")
    try:
        with redis.Redis.from_url(_as_the_client_has_it(url), socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as problem:
        raise UsageError(
            "--redis-url",
            without_password(url),
            f"no answer ({type(problem).__name__})",
            "Start a server there, or leave the option out: the lab then starts its own",
        ) from None


def without_password(url: str) -> str:
    """`url` with its user and password blotted out, to be shown and kept."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def _process_id(url: str) -> int | None:
    import redis

    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
            told: object = client.info("server")
    except (redis.RedisError, OSError):
        return None
    return told.get("process_id") if isinstance(told, dict) else None


def _as_the_client_has_it(url: str) -> str:
    """The client knows `redis`, `rediss` and `unix`; the other names are ours for the same things."""
    scheme, separator, rest = url.partition("://")
    names = {"valkey": "redis", "valkeys": "rediss", "valkey+unix": "unix", "redis+unix": "unix"}
    return names.get(scheme, scheme) + separator + rest
