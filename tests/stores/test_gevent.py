"""The synchronous store under gevent, whose greenlets take turns where threads would wait. In a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.servers.processes import ROOT
from tests.servers.valkey import Valkey

PROGRAM = """
from gevent import monkey

monkey.patch_all()

import random
import sys
from time import monotonic

import gevent

from coatcheck.errors import StoreUnavailable
from coatcheck.stores.redis import SyncRedisStore
from coatcheck.stores.redis.transport import whole
from coatcheck.testing import a_commit, a_record

store = SyncRedisStore.from_url(f"{sys.argv[1]}&max_connections=10")
wire = store._transport
wire.exchange([("PING",)], whole)

# They wait beside each other: ten at a time.
began = monotonic()
waiting = [gevent.spawn(wire.exchange, [("BLPOP", "nothing", "0.2")], whole) for _ in range(20)]
gevent.joinall(waiting, raise_error=True)
assert 0.35 < monotonic() - began < 2, monotonic() - began

people = [a_record(fields={"me": str(number)}) for number in range(20)]
for person in people:
    store.create(person)
done = given_up = 0


def visit():
    global done, given_up
    for _ in range(60):
        person = random.choice(people)
        try:
            with gevent.Timeout(random.choice((None, 0.0005, 0.002))):
                record = store.read(person.session_id)
                assert (record.session_id, record.fields["me"]) == (person.session_id, person.fields["me"])
                applied = store.update(person.session_id, a_commit(person, increments={"hits": 1, "me": 0}))
                assert applied.counters["me"] == int(person.fields["me"])
                done += 1
        except gevent.Timeout:
            given_up += 1


visits = [gevent.spawn(visit) for _ in range(40)]
gevent.sleep(0.05)
gevent.killall(visits[::8])
gevent.joinall(visits, raise_error=True)
assert (wire._loans, wire._turns) == (set(), {})
assert len(wire._idle) <= 10
for person in people:
    record = store.read(person.session_id)
    assert record.version - 1 == int(record.fields.get("hits", 0))
store.close()

resolved = SyncRedisStore.from_url(sys.argv[1].replace("127.0.0.1", "localhost"))
assert resolved.read(people[0].session_id) is not None
resolved.close()
print(done, given_up)
"""


def test_greenlets_that_run_out_of_time_mix_nothing_up_and_leak_nothing(valkey: Valkey, valkey_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, valkey_url], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    served, given_up = map(int, done.stdout.split())
    assert served > 100
    assert given_up > 100
