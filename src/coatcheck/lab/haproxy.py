"""The balancer's configuration: rendering it, and starting HAProxy with it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from coatcheck.lab.architectures import Balancing
from coatcheck.lab.errors import LabError
from coatcheck.lab.processes import LOOPBACK, Supervisor, on_free_port

COOKIE = "SRV"
HEALTH_PATH = "/healthz"

_TEMPLATE = """\
# Written by `coatcheck lab`.

global
    log stdout format raw daemon
    nbthread 1              # one thread is plenty here, and leaves the other cores to the web servers
    maxconn 4000
    stats socket {admin} mode 600 level admin   # where the lab drains a server, or cuts it off

defaults
    mode http
    log global
    option httplog
    option dontlog-normal   # log only what went wrong
    timeout connect 1s
    timeout client 60s
    timeout server 5s
    timeout check 1s
    # A request that finds its server dead goes to another one at once. Without `redispatch 1`, HAProxy tries the
    # dead server again, a second apart, before it looks elsewhere.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response
    default-server inter 250ms fall 2 rise 2

frontend shop
    bind {address}:{port}
    default_backend web

backend web
    balance roundrobin
{cookie}\
    # A change may have been made before the connection broke; only looking twice is harmless.
    http-request disable-l7-retry unless METH_GET
    option httpchk GET {health}
    http-check expect status 200
{servers}
"""

_STICKY = f"""\
    # The balancer adds a cookie that names the server, and removes it from what the server sees.
    cookie {COOKIE} insert indirect nocache
"""


def configuration(
    port: int, servers: Mapping[str, int], balancing: Balancing, admin: Path, waiting: frozenset[str] = frozenset()
) -> str:
    """The text of `haproxy.cfg`.

    Args:
        port: where shoppers come in, on 127.0.0.1.
        servers: the web servers' names and their ports on 127.0.0.1.
        balancing: `round-robin` takes turns; `sticky` brings each shopper back to the same server.
        admin: the unix socket at which it takes orders.
        waiting: the servers that get no requests until they are told to be ready.
    """
    sticky = balancing == "sticky"
    lines = [
        f"    server {name} {LOOPBACK}:{server_port} check"
        + (f" cookie {name}" if sticky else "")
        + (" disabled" if name in waiting else "")
        for name, server_port in servers.items()
    ]
    return _TEMPLATE.format(
        address=LOOPBACK,
        port=port,
        admin=admin,
        cookie=_STICKY if sticky else "",
        health=HEALTH_PATH,
        servers="\n".join(lines),
    )


State = Literal["ready", "drain", "maint"]
"""Of a web server, as the balancer sees it: gets requests; gets only those of shoppers pinned to it; gets none."""


class Orders:
    """What can be told to a running HAProxy.

    Args:
        path: its unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def set_state(self, server: str, state: State) -> None:
        """Let a web server take part, drain it, or cut it off. Raises `LabError` if HAProxy refuses."""
        answer = self._ask(f"set server web/{server} state {state}").strip()
        if answer:
            raise LabError(f"HAProxy refuses to set {server} to {state}: {answer}")

    def is_up(self, server: str) -> bool:
        """Whether HAProxy would send this web server a request."""
        return self.status(server).startswith("UP")

    def status(self, server: str) -> str:
        """What HAProxy makes of a web server: `UP`, `DOWN`, `DRAIN` or `MAINT`, and how far it is from the next."""
        rows = [line.split(",") for line in self._ask("show stat -1 4 -1").splitlines() if line]
        heading = rows[0]
        return next((row[heading.index("status")] for row in rows[1:] if row[heading.index("svname")] == server), "")

    def _ask(self, order: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self._path))
                connection.sendall(order.encode() + b"\n")
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        except OSError as problem:
            raise LabError(f"HAProxy takes no orders: {problem}") from problem


def start(
    supervisor: Supervisor,
    program: Path,
    folder: Path,
    servers: Mapping[str, int],
    balancing: Balancing,
    admin: Path,
    waiting: frozenset[str] = frozenset(),
) -> int:
    """Start HAProxy in front of `servers`, wait until it answers, and give its port.

    The configuration is kept as `haproxy.cfg` in `folder`. The other arguments are those of `configuration`.
    """

    def on(port: int) -> int:
        file = folder / "haproxy.cfg"
        file.write_text(configuration(port, servers, balancing, admin, waiting))
        # -db: stay in the foreground, so that the process started is the one to stop.
        command = [str(program), "-db", "-f", str(file.resolve())]
        supervisor.serve("haproxy", command, lambda _process: answers(port), seconds=15, what="HAProxy")
        return port

    return on_free_port(on)


def answers(port: int) -> bool:
    """Whether something on this port of 127.0.0.1 answers the health check with 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=1)
    try:
        connection.request("GET", HEALTH_PATH)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
