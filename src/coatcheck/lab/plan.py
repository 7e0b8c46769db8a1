"""Who comes when, and what for. Decided before the first request, from a seed: no answer can change it.

Arrivals are spread evenly at a fixed rate and do not wait for answers (an *open loop*). If the servers stall, people
keep coming, and each of them waits: latency counts from the planned arrival.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["fill", "read"]
Cart = dict[str, int]  # article to quantity

FILL_SHARE = 0.1  # of the visits after the first; the rest are reads
LEAST_VISITS_BEFORE_KILL = 4  # fill, and a few looks to know that the session was there
LEAST_READS_AFTER_KILL = 8
_CHANCE_TO_MISS_A_SERVER = 0.01

_GOODS = ("coat", "scarf", "hat", "gloves", "umbrella", "boots", "shawl", "cane")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One planned visit.

    Attributes:
        scheduled: seconds after the start of the run.
        shopper: whose visit, counted from 0.
        kind: `fill` replaces the whole cart in one request; `read` looks at it.
    """

    scheduled: float
    shopper: int
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The traffic of one run.

    Attributes:
        shoppers: how many people, each with their own cookies and cart.
        rate: arrivals per second, all shoppers together.
        seconds: how long people keep coming.
        kill_at: seconds after the start at which one web server is killed.
        servers: number of web servers before the kill.
        seed: the same seed gives the same plan.
    """

    shoppers: int
    rate: float
    seconds: float
    kill_at: float
    servers: int
    seed: int

    @property
    def count(self) -> int:
        """How many visits there will be."""
        return math.floor(self.rate * self.seconds + 1e-9)  # 0.1 x 30 is a little less than 3

    def arrivals(self) -> Iterator[Arrival]:
        """All visits, in order of time.

        Every shopper comes once per round, in an order shuffled anew for each round. A fixed order would fall into
        step with the balancer's: with 150 shoppers and 3 servers each shopper would always meet the same server.

        The first visits after the kill are reads, enough to meet every server that is left; then people fill their
        carts again now and then, as before.
        """
        dice = random.Random(f"plan {self.seed}")
        enough = reads_needed(self.servers)
        visits = [0] * self.shoppers
        reads_since_kill = [0] * self.shoppers
        order: list[int] = []
        for number in range(self.count):
            if not order:
                order = list(range(self.shoppers))
                dice.shuffle(order)
            shopper = order.pop()
            scheduled = number / self.rate
            wants_to_fill = dice.random() < FILL_SHARE
            kind: Kind = "fill" if wants_to_fill or visits[shopper] == 0 else "read"
            if scheduled >= self.kill_at and reads_since_kill[shopper] < enough:
                kind = "read"
                reads_since_kill[shopper] += 1
            visits[shopper] += 1
            yield Arrival(scheduled, shopper, kind)


def reads_needed(servers: int) -> int:
    """How many reads after the kill tell a lost session from one that was just not met again.

    Enough for a shopper whom the balancer sends anywhere to have met every remaining server, in 99 of 100 cases.
    """
    left = servers - 1
    if left <= 1:
        return LEAST_READS_AFTER_KILL
    meets_all = math.log(left / _CHANCE_TO_MISS_A_SERVER) / -math.log(1 - 1 / left)
    return max(LEAST_READS_AFTER_KILL, math.ceil(meets_all))


def visits_needed(servers: int, kill_share: float) -> int:
    """Visits per shopper that a run needs, if the kill comes after `kill_share` (0 to 1) of it."""
    before = LEAST_VISITS_BEFORE_KILL / kill_share
    after = reads_needed(servers) / (1 - kill_share)
    return math.ceil(max(before, after)) + 1


def cart_of(seed: int, shopper: int, generation: int) -> Cart:
    """What a shopper puts into the cart the `generation`-th time.

    Every article carries the mark of its shopper and generation, so any cart tells whose it is and how old.
    """
    dice = random.Random(f"cart {seed} {shopper} {generation}")
    goods = dice.sample(_GOODS, dice.randint(1, 3))
    return {f"{article}-{mark(shopper, generation)}": dice.randint(1, 9) for article in goods}


def mark(shopper: int, generation: int) -> str:
    """The end of every article's name in such a cart."""
    return f"s{shopper}-g{generation}"
