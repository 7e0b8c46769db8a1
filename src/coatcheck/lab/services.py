"""What stands beside the web servers and the balancer, one entry for each kind. An architecture names what it `needs`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coatcheck.lab import valkey
from coatcheck.lab.architectures import Service
from coatcheck.lab.processes import Process, Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A service of one run.

    Attributes:
        url: where the web servers find it.
        process: its process; `None` for one that somebody else runs.
        kept_bytes: how many bytes of memory, or of disk, it uses for what it keeps.
        again: starts it anew at the same place after it was killed.
        tidy: removes what it kept, when no process of the run is left.
    """

    url: str
    process: Process | None
    kept_bytes: Callable[[], int]
    again: Callable[[], Process] | None = None
    tidy: Callable[[], None] = lambda: None


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
        tidy=lambda: shutil.rmtree(folder / "valkey", ignore_errors=True),
    )


SERVICES: Mapping[Service, Starter] = {"valkey": _valkey}


def given(kind: Service, url: str) -> Running:
    """A service that runs already."""
    assert kind == "valkey"
    return Running(url=url, process=None, kept_bytes=lambda: valkey.used_memory(url))
