"""examples/all_to_all: the shop runs as it says, and the manifest fits together, and to the shop."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from coatcheck.stores.replicated.address import Target
from coatcheck.stores.replicated.keys import ClusterKey
from tests.servers.browser import Browser
from tests.servers.processes import ROOT, eventually, free_ports
from tests.servers.web import WebServer

FOLDER = ROOT / "examples" / "all_to_all"


@pytest.fixture(scope="module")
def manifest() -> dict[tuple[str, str], Any]:
    """What is in it, by kind and name."""
    parts = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text("utf-8"))
    return {(part["kind"], part["metadata"]["name"]): part for part in parts}


def test_the_manifest_lists_every_pod_by_its_stable_name(manifest: dict[tuple[str, str], Any], tmp_path: Path) -> None:
    pods = manifest["StatefulSet", "shop"]["spec"]
    [container] = pods["template"]["spec"]["containers"]
    peers = manifest["Service", pods["serviceName"]]["spec"]
    [url] = [variable["value"] for variable in container["env"] if variable["name"] == "SHOP_STORE"]
    [mount] = container["volumeMounts"]
    key = f"{mount['mountPath']}/cluster.key"
    assert f"keys={key}" in url
    ClusterKey.new().write(tmp_path / "cluster.key")
    target = Target.parse(url.replace(key, str(tmp_path / "cluster.key")))
    [port] = [port["port"] for port in peers["ports"]]
    assert target.peers == tuple(f"shop-{number}.shop-peers:{port}" for number in range(pods["replicas"]))
    assert {"name": "peers", "containerPort": port} in container["ports"]
    assert peers["clusterIP"] == "None"
    assert peers["publishNotReadyAddresses"] is True, "or they could not find each other before they are ready"
    assert pods["podManagementPolicy"] == "Parallel", "or the first would wait for the second, which is not started"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


async def test_the_shop_runs_with_two_workers_as_it_says() -> None:
    said = (FOLDER / "visits.py").read_text("utf-8")
    [(url, workers, factory)] = re.findall(r"SHOP_STORE=(\S+) uvicorn --factory --workers (\d) (\S+)", said)
    ports = free_ports(int(workers))
    url = url.replace("7946-7947", f"{ports[0]}-{ports[-1]}")
    with WebServer(factory, {"SHOP_STORE": url}, workers=int(workers)) as server:
        async with Browser(server.url) as visitor:
            once = {"connection": "close"}
            seen = set()
            for number in range(1, 41):
                answer = await visitor.get_when_up("/", headers=once)
                said, _, process = answer.text.strip().partition(", served by process ")
                assert said == f"visit {number}"
                seen.add(process)
        await eventually(lambda: len(server.workers) == 2, "both workers")
        assert seen <= set(map(str, server.workers))
