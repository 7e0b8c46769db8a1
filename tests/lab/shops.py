"""Real shops in this process, and samples as a measurement leaves them: where tests plant faults."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import uvicorn

from coatcheck.lab import samples
from coatcheck.lab.driver import Driver
from coatcheck.lab.messages import LoadJob, head_start
from coatcheck.lab.processes import bound_socket
from coatcheck.lab.samples import Began, Entry, Finished, Reading, Sample
from coatcheck.lab.shop import create_shop
from coatcheck.stores.interface import AsyncStore

SERVERS = ("web-1", "web-2", "web-3")


@contextmanager
def shop(store: AsyncStore) -> Iterator[int]:
    """A shop with this store, in a thread of its own; gives its port."""
    listening = bound_socket()
    port: int = listening.getsockname()[1]
    application = create_shop("web-1", store, port)
    server = uvicorn.Server(uvicorn.Config(application, access_log=False, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the cookie is not Secure
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the shop did not start"
            time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def drive(job: LoadJob, kind: type[Driver] = Driver, orders: IO[bytes] | None = None) -> list[Entry]:
    """Do a job in this process, and give what is in its file of samples."""
    began = Began(
        experiment="load", architecture="redis", servers=SERVERS, round=1, rate=job.rate, seconds=job.seconds,
        users=job.users, size=job.size, stored=0, write_share=job.write_share,
    )  # fmt: skip
    samples.append(Path(job.file), [began])
    asyncio.run(kind(job).run(time.monotonic() + head_start(job.users), orders))
    return samples.read(Path(job.file))


def measurement(
    visits: Sequence[Sample], *others: Entry, stored: int = 0, elapsed: float = 10.0, cpu: float = 1.0
) -> list[Entry]:
    """The samples of an imagined measurement."""
    began = Began(
        experiment="load", architecture="redis", servers=SERVERS, round=1, rate=100, seconds=10, users=10, size=1000,
        stored=stored, write_share=0.2,
    )  # fmt: skip
    return [began, *visits, *others, Finished(count=len(visits), elapsed=elapsed, cpu=cpu)]


def visit(
    at: float = 0.0, *, took: float = 0.002, late: float = 0.0, user: int = 0, server: str = "web-1", known: bool = True,
    status: int = 200, store_us: int = 300,
) -> Sample:  # fmt: skip
    """A read that was due `at` seconds after the start."""
    return Sample(at, at + late, at + late + took, user, "read", status, server, known, 1, store_us)


def reading(
    moment: str, *, cpu: float = 0.0, memory: int = 0, kept: int | None = None, network: tuple[int, int] = (0, 0)
) -> Reading:
    """Meters of three web servers that are all alike, and of a Valkey if `kept` is given."""
    processes = dict.fromkeys((*SERVERS, "haproxy"), cpu) | ({"valkey": cpu} if kept is not None else {})
    return Reading(
        moment,  # type: ignore[arg-type]
        0.0,
        processes,
        dict.fromkeys(SERVERS, memory),
        {} if kept is None else {"valkey": kept},
        dict.fromkeys(SERVERS, network),
    )
