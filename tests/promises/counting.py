"""A process that counts: `python -m tests.promises.counting URL SESSION_ID PROOF TIMES NAME`."""

from __future__ import annotations

import asyncio
import sys

from coatcheck import open_store
from coatcheck.testing import a_commit, a_record


async def main(url: str, session_id: str, proof: str, times: int, name: str) -> None:
    store = open_store(url)
    session = a_record(session_id=session_id, secret_hash=proof)
    for number in range(0, times, 10):
        commits = [
            a_commit(session, increments={"hits": 1, f"cart[{name}]": 1}, sets={f"last {name}": str(number)})
            for _ in range(10)
        ]
        await asyncio.gather(*(store.update(session_id, commit) for commit in commits))
    await store.close()


if __name__ == "__main__":
    url, session_id, proof, times, name = sys.argv[1:]
    asyncio.run(main(url, session_id, proof, int(times), name))
