"""How much is measured: the standard comparison, and the quick one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Amounts.

    Attributes:
        rounds: how often the timed experiments are done.
        calm_rate, busy_rate, growth_rate: arrivals per second.
        load_seconds, crowd_seconds, growth_seconds: how long people keep coming.
        stored: sessions in the store when latency is measured with many.
        grown: sessions in the store when memory is measured by number of web servers.
        laid_out: sessions per web server when the layouts are compared.
        races: people with several requests at once, and as many who log out.
        growth: numbers of web servers.
        sizes: bytes of the sessions with which the layouts are compared.
        bursts: how often session work alone is measured in each round.
        work: pieces of work in each, where many come at once.
        pieces: whether reading, changing, beginning and doing nothing are also measured, once.
        held_sizes: bytes of the sessions of which the memory is measured.
        held: bytes of all those sessions of one size together.
        users: people who come in a timed experiment, at most.
        with_calm: whether latency is also measured with few users.
        with_stored: whether latency is also measured with many sessions stored.
        failure: whether the experiment with restarts is part of it.
    """

    rounds: int = 3
    calm_rate: float = 40.0
    busy_rate: float = 200.0
    growth_rate: float = 100.0
    load_seconds: float = 1.7
    crowd_seconds: float = 4.0
    growth_seconds: float = 1.2
    stored: int = 4_500
    grown: int = 4_000
    laid_out: int = 200
    races: int = 20
    growth: tuple[int, ...] = (1, 2, 4, 8)
    sizes: tuple[int, ...] = (1_000, 10_000, 50_000)
    bursts: int = 3
    work: int = 1_200
    pieces: bool = True
    held_sizes: tuple[int, ...] = (2_000, 4_000, 10_000, 50_000)
    held: int = 8_000_000
    users: int = 60
    with_calm: bool = True
    with_stored: bool = True
    failure: bool = True


STANDARD = Scale()
QUICK = Scale(
    rounds=1,
    load_seconds=1.2,
    crowd_seconds=2.4,
    growth_seconds=1.0,
    grown=2_000,
    laid_out=100,
    races=10,
    growth=(1, 4),
    sizes=(10_000,),
    work=400,
    pieces=False,
    held_sizes=(),
    users=40,
    with_calm=False,
    with_stored=False,
    failure=False,
)
