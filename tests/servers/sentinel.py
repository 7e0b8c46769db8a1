"""A primary with two replicas, watched by three sentinels that decide quickly."""

from __future__ import annotations

from typing import Any

import redis

from tests.servers.processes import LOOPBACK, wait_until
from tests.servers.valkey import Valkey

SERVICE = "shop"
QUICK = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "3")
_MONITOR = """
sentinel monitor {service} {host} {port} 2
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 2000
sentinel parallel-syncs {service} 2
"""
# Sentinels look at each other, and at the servers, every second or ten by default; and one that was frozen itself does
# nothing but look for half a minute.
_HASTE = ("ping-period", 100, "info-period", 200, "publish-period", 200, "ask-period", 200, "election-timeout", 1000)
_SOBER = ("tilt-period", 1000)


class SentinelGroup:
    """`start` and `stop` it. Tests may kill, freeze and fail over; `settle` puts it in order again."""

    def __init__(self) -> None:
        self.servers = [Valkey(*QUICK) for _ in range(3)]
        self.sentinels: list[Valkey] = []

    def start(self) -> None:
        for server in self.servers:
            server.start()
        for replica in self.servers[1:]:
            replica("REPLICAOF", LOOPBACK, self.servers[0].port)
        wait_until(lambda: is_in_step(self.servers[0]("ROLE"), replicas=2), "two replicas")
        config = _MONITOR.format(service=SERVICE, host=LOOPBACK, port=self.servers[0].port)
        self.sentinels = [Valkey("--sentinel", config=config) for _ in range(3)]
        for sentinel in self.sentinels:
            sentinel.start()
            sentinel("SENTINEL", "DEBUG", *_HASTE, *_SOBER)
        self.settle()

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.stop()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'{LOOPBACK}:{each.port}' for each in self.sentinels)}/{SERVICE}"

    @property
    def primary(self) -> Valkey:
        """The server that the first sentinel calls the primary."""
        return self._primary_of(self.sentinels[0])

    @property
    def replicas(self) -> list[Valkey]:
        return [server for server in self.servers if server is not self.primary]

    def has_replaced(self, before: Valkey) -> bool:
        """Whether the sentinels name another server the primary, and that one takes writes."""
        primary = self.primary
        return primary is not before and primary.takes_writes()

    def fail_over(self, how: str) -> None:
        """A planned change, as before maintenance; `COORDINATED`, so that the old primary waits for the new one."""
        self.sentinels[0]("SENTINEL", "FAILOVER", SERVICE, *how.split())

    def freeze(self) -> None:
        """Everything falls silent, as when the network is cut."""
        for server in (*self.sentinels, *self.servers):
            server.freeze()

    def settle(self) -> None:
        """Everything is up, one server is the primary, and all know it."""
        self.revive()
        self.wait()

    def revive(self) -> None:
        """Start what was killed, and thaw what was frozen. Not from another thread, with which it would die."""
        for server in self.servers:
            if server.process.alive:
                server.thaw()
            else:
                server.start()
        for sentinel in self.sentinels:
            sentinel.thaw()

    def wait(self) -> None:
        wait_until(self._settled, "the sentinels to agree and the replicas to follow", 30)

    def _settled(self) -> bool:
        try:
            primary = self.primary
            agreed = all(self._primary_of(sentinel) is primary for sentinel in self.sentinels)
            told = [self._told(sentinel) for sentinel in self.sentinels]
            watched = all(
                each[b"num-other-sentinels"] == b"2" and each[b"num-slaves"] == b"2" and each[b"flags"] == b"master"
                for each in told
            )
            return agreed and watched and all(is_in_step(server("ROLE"), replicas=2) for server in self.servers)
        except (redis.RedisError, OSError, StopIteration):
            return False

    def _primary_of(self, sentinel: Valkey) -> Valkey:
        _, port = sentinel("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def _told(self, sentinel: Valkey) -> dict[bytes, bytes]:
        with redis.Redis(port=sentinel.port, host=LOOPBACK, socket_timeout=5) as client:
            told: Any = client.execute_command("SENTINEL", "MASTER", SERVICE)
        return dict(told)


def is_in_step(role: list[Any], *, replicas: int) -> bool:
    """Whether a server's answer to `ROLE` is that of a primary with so many replicas, or of a replica that has all."""
    if role[0] == b"master":
        return len(role[2]) == replicas and all(int(acknowledged) > 0 for _, _, acknowledged in role[2])
    return bool(role[3] == b"connected")
