"""A cluster of three primaries, each with a replica, that decides quickly."""

from __future__ import annotations

import time
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.servers.processes import LOOPBACK, wait_until
from tests.servers.sentinel import QUICK, is_in_step
from tests.servers.valkey import Valkey

_OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0")


class ClusterGroup:
    """`start` and `stop` it. Tests may kill, freeze, fail over and move slots; `settle` puts it in order again."""

    def __init__(self) -> None:
        self.nodes = [Valkey(*QUICK, *_OPTIONS, in_cluster=True) for _ in range(6)]
        self.ids: dict[Valkey, str] = {}

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        self.ids = {node: node("CLUSTER", "MYID").decode() for node in self.nodes}
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node is not first:
                node("CLUSTER", "MEET", LOOPBACK, first.port, _bus(first))
        wait_until(self._have_met, "the nodes to meet")
        share = REDIS_CLUSTER_HASH_SLOTS // 3
        for number, node in enumerate(self.nodes[:3]):
            last = REDIS_CLUSTER_HASH_SLOTS - 1 if number == 2 else (number + 1) * share - 1
            node("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            self.nodes[number + 3]("CLUSTER", "REPLICATE", self.ids[node])
        self.settle()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{LOOPBACK}:{node.port}' for node in self.nodes[:2])}"

    def primary_of(self, key: str) -> Valkey:
        """The node that serves a key, as some node sees it that is up."""
        slot = key_slot(key.encode())
        for node in self.nodes:
            try:
                lines = self._lines(node)
            except (redis.RedisError, OSError):
                continue
            for words in map(str.split, lines):
                for served in words[8:]:
                    first, _, last = served.partition("-")
                    if served[0] != "[" and int(first) <= slot <= int(last or first):
                        return self._at(_port(words))
        raise AssertionError("nobody serves it")

    def has_replaced(self, before: Valkey, key: str) -> bool:
        """Whether another node serves a key, and takes writes to its slot."""
        primary = self.primary_of(key)
        return primary is not before and primary.takes_writes(f"{{{key}}}")

    def replica_of(self, primary: Valkey) -> Valkey:
        for line in self._lines(primary):
            words = line.split()
            if words[3] == self.ids[primary]:
                return self._at(_port(words))
        raise AssertionError(f"{primary.port} has no replica")

    @property
    def primaries(self) -> list[Valkey]:
        return [node for node in self.nodes if node.process.alive and node("ROLE")[0] == b"master"]

    def move(self, slot: int, source: Valkey, target: Valkey, *, pause: float = 0.0) -> None:
        """Move a slot and its keys, as administrators do, one key after the other."""
        target("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        source("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])
        while keys := source("CLUSTER", "GETKEYSINSLOT", slot, 100):
            for key in keys:
                source("MIGRATE", LOOPBACK, target.port, key, 0, 5000)
                time.sleep(pause)
        time.sleep(pause)
        for node in (target, source, *(one for one in self.primaries if one not in (source, target))):
            node("CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])

    def freeze(self) -> None:
        """Everything falls silent, as when the network is cut."""
        for node in self.nodes:
            node.freeze()

    def settle(self) -> None:
        """Everything is up, every primary has a replica, and all know it."""
        self.revive()
        self.wait()

    def revive(self) -> None:
        """Start what was killed, and thaw what was frozen. Not from another thread, with which it would die."""
        for node in self.nodes:
            if node.process.alive:
                node.thaw()
            else:
                node.start()

    def wait(self) -> None:
        wait_until(self._settled, "the cluster to agree", 30)

    def _have_met(self) -> bool:
        """Whether each knows all by their ids. A node with which another still shakes hands has an invented one there."""
        ids = set(self.ids.values())
        return all({line.split()[0] for line in self._lines(node)} == ids for node in self.nodes)

    def _settled(self) -> bool:
        try:
            for node in self.nodes:
                if b"cluster_state:ok" not in node("CLUSTER", "INFO"):
                    return False
                lines = [line.split() for line in self._lines(node)]
                primaries = [line for line in lines if "master" in line[2]]
                if len(primaries) != 3 or any("fail" in line[2] or line[7] != "connected" for line in lines):
                    return False
            return all(is_in_step(node("ROLE"), replicas=1) for node in self.nodes)
        except (redis.RedisError, OSError):
            return False

    def _lines(self, node: Valkey) -> list[str]:
        """What a node knows of all of them, one in each line."""
        with redis.Redis(port=node.port, host=LOOPBACK, socket_timeout=5) as client:
            client.response_callbacks.clear()
            told: Any = client.execute_command("CLUSTER", "NODES")
        return [line for line in told.decode().splitlines() if line]

    def _at(self, port: int) -> Valkey:
        return next(node for node in self.nodes if node.port == port)


def _bus(node: Valkey) -> int:
    return int(node("CONFIG", "GET", "cluster-port")[b"cluster-port"])


def _port(words: list[str]) -> int:
    return int(words[1].partition("@")[0].rpartition(":")[2])
