"""The balancer's configuration: rendering it, and starting HAProxy with it."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from pathlib import Path

from coatcheck.lab.architectures import Balancing
from coatcheck.lab.processes import LOOPBACK, Process, Supervisor, on_free_port

COOKIE = "SRV"
HEALTH_PATH = "/healthz"

_TEMPLATE = """\
# Written by `coatcheck lab`.

global
    log stdout format raw daemon
    nbthread 1              # one thread is plenty here, and leaves the other cores to the web servers
    maxconn 4000

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


def configuration(port: int, servers: Mapping[str, int], balancing: Balancing) -> str:
    """The text of `haproxy.cfg`.

    Args:
        port: where shoppers come in, on 127.0.0.1.
        servers: the web servers' names and their ports on 127.0.0.1.
        balancing: `round-robin` takes turns; `sticky` brings each shopper back to the same server.
    """
    sticky = balancing == "sticky"
    lines = [
        f"    server {name} {LOOPBACK}:{server_port} check" + (f" cookie {name}" if sticky else "")
        for name, server_port in servers.items()
    ]
    return _TEMPLATE.format(
        address=LOOPBACK,
        port=port,
        cookie=_STICKY if sticky else "",
        health=HEALTH_PATH,
        servers="\n".join(lines),
    )


def start(supervisor: Supervisor, program: Path, folder: Path, servers: Mapping[str, int], balancing: Balancing) -> int:
    """Start HAProxy in front of `servers`, wait until it answers, and give its port.

    The configuration is kept as `haproxy.cfg` in `folder`.
    """

    def on(port: int) -> int:
        file = folder / "haproxy.cfg"
        file.write_text(configuration(port, servers, balancing))
        # -db: stay in the foreground, so that the process started is the one to stop.
        process = supervisor.start("haproxy", [str(program), "-db", "-f", str(file.resolve())])
        _wait(supervisor, process, port)
        return port

    return on_free_port(on)


def _wait(supervisor: Supervisor, process: Process, port: int) -> None:
    try:
        supervisor.wait_until(lambda: answers(port), seconds=15, what="the start of HAProxy")
    except BaseException:
        supervisor.forget(process)
        raise


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
