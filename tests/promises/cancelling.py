"""A storm of cancellations, of which half of all operations die: `python cancelling.py redis-py|coatcheck URL OPERATIONS`.

Prints as JSON how many answers were right, how many were somebody else's, and so on. It imports nothing but what it drives,
because `redis-py` runs in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import cycle

PEOPLE = 40
AT_A_TIME = 64
CONNECTIONS = 16

Ask = Callable[[int], Awaitable[str]]
"""What is stored of somebody: his number, unless the answer is another's."""


async def with_redis_py(url: str) -> Ask:
    """A few clients with one connection each. In a pool the fault is the same, but shows itself by chance: a connection is
    looked at when it is taken out, and thrown away if the reply that was left on it has come by then.
    """
    from redis.asyncio import Redis

    clients = [Redis.from_url(url, decode_responses=True).client() for _ in range(CONNECTIONS)]
    for client in clients:
        await client.initialize()
    for number in range(PEOPLE):
        await clients[0].hset(f"person:{number}", mapping={"me": str(number)})
    turns = cycle(clients)

    async def ask(number: int) -> str:
        return str((await next(turns).hgetall(f"person:{number}"))["me"])

    return ask


async def with_coatcheck(url: str) -> Ask:
    from coatcheck.stores.redis import RedisStore
    from coatcheck.testing import a_record

    store = RedisStore.from_url(f"{url}?timeout=5")
    people = [a_record(fields={"me": str(number)}) for number in range(PEOPLE)]
    for person in people:
        await store.create(person)

    async def ask(number: int) -> str:
        record = await store.read(people[number].session_id, timeout=5)
        assert record is not None
        return record.fields["me"]

    return ask


async def storm(ask: Ask, operations: int) -> Counter[str]:
    chance = random.Random(1)
    count = Counter(right=0, wrong=0, cancelled=0, failed=0)

    async def one() -> None:
        number = chance.randrange(PEOPLE)
        task = asyncio.ensure_future(ask(number))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.008)
            task.cancel()
        try:
            count["right" if await task == str(number) else "wrong"] += 1
        except asyncio.CancelledError:
            count["cancelled"] += 1
        except Exception as error:
            count["failed"] += 1
            print(f"{number}: {error!r}", file=sys.stderr)

    async def worker() -> None:
        for _ in range(operations // AT_A_TIME):
            await one()

    await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))
    return count


async def main(client: str, url: str, operations: int) -> None:
    ask = await {"redis-py": with_redis_py, "coatcheck": with_coatcheck}[client](url)
    print(json.dumps(await storm(ask, operations)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
