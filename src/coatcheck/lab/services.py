"""What stands beside the web servers and the balancer, one entry for each kind. An architecture names what it `needs`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from coatcheck.lab import database, valkey
from coatcheck.lab.architectures import Service
from coatcheck.lab.processes import Supervisor
from coatcheck.lab.running import Running

Starter = Callable[[Supervisor, Mapping[str, Path], Path], Running]
"""Starts a service: with the run's programs by name, and the folder of the architecture's run."""


def _valkey(supervisor: Supervisor, programs: Mapping[str, Path], folder: Path) -> Running:
    program = programs["valkey"]
    url = valkey.start(supervisor, program, folder)
    return Running(
        url=url,
        process=supervisor.named("valkey"),
        kept_bytes=lambda: valkey.used_memory(url),
        again=lambda: valkey.start_again(supervisor, program, folder, url),
        on_disk=lambda: valkey.each_change_on_disk(url),
        tidy=lambda: shutil.rmtree(folder / "valkey", ignore_errors=True),
    )


SERVICES: Mapping[Service, Starter] = {"valkey": _valkey, "database": database.start}


def given(kind: Service, url: str) -> Running:
    """A service that runs already."""
    assert kind == "valkey"
    return Running(url=url, process=None, kept_bytes=lambda: valkey.used_memory(url))
