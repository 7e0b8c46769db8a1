"""R1's positive control: the storm of cancellations finds the fault in a client that is known to have it.

redis-py 4.5.1 gives a connection back to its pool although its reply has not been read, when the caller is cancelled in
between; whoever takes that connection next gets somebody else's answer (CVE-2023-28858). A storm that finds nothing in *that*
client could not find anything in ours.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.promises import cancelling
from tests.servers.processes import ROOT
from tests.servers.proxy import Proxy

OPERATIONS = 8000


@pytest.fixture(scope="module")
def redis_py_451(pytestconfig: pytest.Config) -> Path:
    """A folder with that version and nothing else. It stays in pytest's cache, where `make clean` removes it."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("redis-py-4.5.1")
    complete = folder / "complete"
    if not complete.exists():
        packages = ROOT / "requirements" / "control.txt"
        pip = ["-m", "pip", "--disable-pip-version-check", "install", "--upgrade"]
        uv = ["-m", "uv", "pip", "install"]  # where Debian makes environments without pip
        installer = pip if importlib.util.find_spec("pip") else uv
        done = subprocess.run(
            [sys.executable, *installer, "--quiet", "--require-hashes", "--target", folder, "-r", packages],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode:
            problem = f"redis-py 4.5.1 cannot be installed, so R1 has no positive control here:\n{done.stderr[-500:]}"
            if os.environ.get("COATCHECK_REQUIRE_SERVERS") == "1":
                pytest.fail(problem)
            pytest.skip(problem)
        complete.touch()
    return folder


async def storm(proxy: Proxy, client: str, *options: str, path: Path | None = None) -> dict[str, int]:
    """Let `cancelling.py` loose in a process of its own, with only `path` to import from if one is given."""
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    arguments = [*options, cancelling.__file__, client, proxy.url, str(OPERATIONS)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        said, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complaint.decode()
    counted: dict[str, int] = json.loads(said)
    assert sum(counted.values()) == OPERATIONS
    assert counted["cancelled"] > OPERATIONS / 20, counted  # half were told to end; many had their answer by then
    return counted


async def test_the_storm_finds_the_fault_in_redis_py_451(proxy: Proxy, redis_py_451: Path) -> None:
    proxy._latency = (0.0, 0.004)
    counted = await storm(proxy, "redis-py", "-S", path=redis_py_451)  # -S: without the packages of our environment
    print(counted)
    assert counted["wrong"] > 1000, counted


async def test_the_same_storm_finds_none_in_ours(proxy: Proxy) -> None:
    proxy._latency = (0.0, 0.004)
    counted = await storm(proxy, "coatcheck")
    assert counted["wrong"] == counted["failed"] == 0, counted
