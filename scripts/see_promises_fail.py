"""See the promises' tests fail: break a copy of the package in the obvious way, and run the tests that should notice.

    python scripts/see_promises_fail.py            all of them, in some minutes
    python scripts/see_promises_fail.py logout     those with "logout" in their name

A test that has never failed proves nothing. Each entry of the table below takes away what keeps a promise; the tests named
with it must fail then, and pass on an unbroken copy. Exit code 1 if a damage goes unnoticed, or no longer fits the code.
"""

# ruff: noqa: E501 - the code is quoted as it stands

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "coatcheck"
STORM = "3000"
SECONDS = 300  # a damage may also make its test wait for ever

R1 = "tests/promises/test_r1_r2_replies.py"
R4 = "tests/promises/test_r4_three_outcomes.py"
R6 = "tests/promises/test_r6_increments.py"
R7 = "tests/promises/test_r7_whole_or_not.py"
R8 = "tests/promises/test_r8_logout.py"
R12 = "tests/promises/test_r12_r13_time.py"
SILENCE = "tests/promises/test_r12_silence.py"
R14 = "tests/promises/test_r14_full.py"
R15 = "tests/promises/test_r15_near_cache.py"
R16 = "tests/promises/test_r16_no_lost_update.py"
R17 = "tests/promises/test_r17_failover.py"
R18 = "tests/promises/test_r18_no_storm.py"
R20 = "tests/promises/test_r20_damage.py"
SECURITY = "tests/promises/test_security.py"
REDIS = "tests/stores/test_redis.py"
NEAR = "tests/stores/test_near.py"
THREADS = "tests/promises/test_threads.py"
BLOCKING = "tests/stores/test_blocking.py"
TOPOLOGIES = "tests/stores/test_sync_topologies.py"
WEB = "tests/web"
FRAMEWORKS = f"{WEB}/test_frameworks.py"
GUNICORN = "tests/promises/test_gunicorn.py"
WSGI = f"{WEB}/test_wsgi.py"
FLASK = f"{WEB}/test_flask.py"
QUART = f"{WEB}/test_quart.py"
DJANGO = f"{WEB}/test_django_sessions.py"
SITE = f"{WEB}/test_django_site.py"
DATABASES = "tests/promises/test_databases.py"
SQL = "tests/stores/test_sql.py"
TABLES = "tests/stores/test_sql_tables.py"
FORKING = "tests/stores/test_sql_forking.py"
INPUT = "tests/stores/test_sql_input.py"
OPENING = "tests/stores/test_sql_opening.py"
ALL_TO_ALL = "tests/promises/test_all_to_all.py"
PEERS = "tests/stores/test_replicated_peers.py"
MERGE = "tests/stores/test_replicated_merge.py"
TOKENS = "tests/stores/test_replicated_freshness.py"
FRESH_READS = "tests/stores/test_replicated_fresh_reads.py"
FRESH = f"{WEB}/test_freshness.py"
EVERYWHERE = f"{WEB}/test_freshness_everywhere.py"


@dataclass(frozen=True)
class Damage:
    """One promise taken away.

    Attributes:
        name: the promise, and what is done to it.
        tests: what must notice: arguments for pytest, that is a file and, after a space, an expression for `-k`.
        edits: file of the package, text that stands in it exactly once, and what is put there instead.
    """

    name: str
    tests: tuple[str, ...]
    edits: tuple[tuple[str, str, str], ...]


def damage(name: str, tests: str | tuple[str, ...], *edits: tuple[str, str, str]) -> Damage:
    return Damage(name, (tests,) if isinstance(tests, str) else tests, edits)


LAYOUT = "stores/redis/layout.py"
UPDATE = "stores/redis/update.lua"
CREATE = "stores/redis/create.lua"
VERBS = "stores/redis/verbs.py"
SENTINEL = "stores/redis/sentinel.py"
CLUSTER = "stores/redis/cluster.py"
CONNECTION = "stores/redis/blocking_connection.py"
WIRE = "stores/redis/blocking_wire.py"
ASYNC_WIRE = "stores/redis/wire.py"
GATE = "stores/redis/gate.py"
EVICTING = "stores/redis/evicting.py"
SQL_CORE = "stores/sql/core.py"
SQL_STORE = "stores/sql/store.py"
SQL_VERBS = "stores/sql/verbs.py"
SQL_TROUBLE = "stores/sql/trouble.py"
FUNCTIONS = "stores/sql/postgresql.sql"
MERGING = "stores/replicated/merge.py"
REPLICA = "stores/replicated/replica.py"
CLUSTER_OF_PEERS = "stores/replicated/cluster.py"
REPLICATED = "stores/replicated/store.py"
POST = "stores/replicated/post.py"

DAMAGES = [
    # --- R1, R2 ------------------------------------------------------------------------------------------------------
    damage("R1 a record is handed out whosever it is", f"{R1} surplus and read",
           (LAYOUT, "        if stored_id != session_id:\n", "        if False:\n")),
    damage("R1 an answer to another commit is taken", f"{R1} surplus and update",
           (LAYOUT, "if words[1:3] == [session_id, operation]:", "if True:")),
    damage("R1 a list of sessions is taken whosever it is", f"{R1} surplus and sessions_of",
           (LAYOUT, "if echo != self.owner_key(owner) or type(session_ids) is not list:", "if False:")),
    damage("R1 a connection that mixes up replies is kept", f"{R1} under_load and wire",
           ("stores/redis/conversation.py", "        if isinstance(error, LEAVING):\n", "        if False:\n")),
    damage("R1 a cancelled request gives up its place in the line", (f"{R1} storm and wire", f"{R1} several_servers"),
           ("stores/redis/conversation.py", "                if answered == len(line):\n",
            "                while answered < len(line) and line[answered].done():\n                    line.pop(answered)\n"
            "                if answered == len(line):\n")),
    damage("R2 a cancelled request keeps its connection", f"{R1} storm and client",
           ("stores/redis/pooled.py", "await self._pool.release(connection)", "clean and await self._pool.release(connection)")),
    damage("R2 a single slot of one's own client is lost", (f"{R1} mixes and client", f"{R1} client_of_sentinels"),
           ("stores/redis/pooled.py", "await self._pool.release(connection)",
            "(clean or _CODES.setdefault('lost', connection) is not connection) and await self._pool.release(connection)")),
    damage("R2 a single slot of one's own cluster client is lost", f"{R1} client_of_a_cluster",
           ("stores/redis/clustered.py", "                await self._cluster.initialize()\n",
            "                await self._cluster.initialize()\n                if 'lost' not in self.__dict__:\n"
            "                    self.lost = self._cluster.get_default_node().acquire_connection()\n")),
    damage("R2 a connection too many stays open", (f"{R1} mixes and wire", f"{R1} several_servers", f"{R1} storm and near_cache"),
           (ASYNC_WIRE, "                    dialed = await _dial(address, self._timeout)\n",
            "                    self.lost = await _dial(address, self._timeout)\n                    dialed = await _dial(address, self._timeout)\n")),
    damage("R2 a future stays behind", (f"{R1} mixes and wire", f"{R1} several_servers", f"{R1} storm and near_cache"),
           ("stores/redis/waiting.py", "        self._finish(None, asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))\n",
            "        self._finish(None, asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))\n"
            "        self.get_loop().lost = self.get_loop().create_future()\n")),
    damage("R2 a task stays behind", (f"{R1} mixes and client", f"{R1} client_of_sentinels"),
           ("stores/redis/pooled.py", "                    clean = False\n                    raise\n",
            "                    clean = False\n                    raise\n                except asyncio.CancelledError:\n"
            "                    asyncio.ensure_future(asyncio.sleep(1000))\n                    raise\n")),
    damage("R2 SQL what was cancelled keeps its connection", f"{DATABASES} r2",
           (SQL_STORE, "        if line is not None:\n            line.cut()\n", "        self._runner.__dict__.setdefault('lost', []).append(line)\n")),
    # --- R4 ----------------------------------------------------------------------------------------------------------
    damage("R4 a store that is down counts as an absent session", f"{WEB}/test_store_down.py killed",
           ("manager.py", "            raise self._told(error, ticket.session_id) from None\n",
            "            self._told(error, ticket.session_id)\n            session.admit(None)\n            return\n")),
    damage("R4 a store that is down is a traceback", f"{WEB}/test_store_down.py",
           ("responses.py", "REFUSALS = (SessionGone, Conflict, CorruptRecord, StoreError)",
            "REFUSALS = (SessionGone, Conflict, CorruptRecord)")),
    damage("R4 503 without Retry-After", f"{WEB}/test_store_down.py",
           ("responses.py", 'headers.append(("retry-after", str(error.retry_after if isinstance(error, StoreUnavailable) else 1)))', "pass")),
    damage("R4 a touch that fails fails the request", f"{WEB}/test_store_down.py touch",
           ("manager.py", "            self._told(error, session_id)\n            if todo.essential:\n", "            if True:\n")),
    damage("R4 a corrupt record is down", f"{R4} says_so",
           (LAYOUT, 'raise CorruptRecord(session_id, "its key holds another type")',
            "raise StoreUnavailable(self.store, reply.message)")),
    damage("R12 a slow store costs as long as it likes", f"{WEB}/test_store_down.py frozen",
           ("manager.py", "self.time_left = manager.store_seconds", "self.time_left = 60.0"),
           ("manager.py", "read(ticket.session_id, timeout=session.time_left)", "read(ticket.session_id, timeout=60.0)")),
    # --- R12, R13, R18 -----------------------------------------------------------------------------------------------
    damage("R12 reading and committing have a deadline each", f"{R12} slow_store",
           ("manager.py", "read(ticket.session_id, timeout=session.time_left)", "read(ticket.session_id, timeout=session.time_left)\n            began = monotonic()")),
    damage("R12 each round trip of a list of sessions has a deadline of its own", f"{R12} long_list and async",
           ("stores/redis/store.py", "self._verbs.sessions_of(owner), timeout)", "self._verbs.sessions_of(owner), None)")),
    damage("R12 sync: each round trip of a list of sessions has a deadline of its own", f"{R12} long_list and threads",
           ("stores/redis/sync_store.py", "self._verbs.sessions_of(owner), timeout)", "self._verbs.sessions_of(owner), None)")),
    damage("R12 a list of sessions costs as long as the store likes", (f"{R12} says_nothing", f"{WEB}/test_sync_manager.py ending_each"),
           ("manager.py", "sessions_of(owner, timeout=self.store_seconds if timeout is None else timeout)", "sessions_of(owner, timeout=timeout)")),
    damage("R12 whoever has many sessions stays logged in with some", f"{R12} nobody_stays",
           ("manager.py", "        ended = 0\n", "        ended = 0\n        over = monotonic() + seconds\n"),
           ("manager.py", "delete(record.session_id, timeout=seconds)", "delete(record.session_id, timeout=over - monotonic())")),
    damage("R12 the repair of its index makes a list fail", f"{R12} complete",
           (VERBS, "with suppress(StoreUnavailable, CorruptRecord):  # the list", "with suppress():  # the list")),
    damage("R13 who came last is served first", f"{R12} in_the_order",
           (ASYNC_WIRE, "list(islice(self._turns, max(0, self._most - len(connection.line))))", "[*reversed(self._turns)][: max(0, self._most - len(connection.line))]")),
    damage("R13 who comes late overtakes who waits", f"{R12} passed_over",
           (ASYNC_WIRE, "if connection is None or self._turns or len(", "if connection is None or len(")),
    damage("R13 nothing limits what is under way", f"{R12} in_the_order",
           (ASYNC_WIRE, "len(connection.line) >= self._most or deadline", "deadline"),
           (ASYNC_WIRE, "max(0, self._most - len(connection.line))", "1000")),
    damage("R13 who waits for a turn waits for ever", f"{R12} own_deadline",
           (ASYNC_WIRE, "timeout=max(0.0, deadline - monotonic())", "timeout=5")),
    damage("R12 all wait while servers that fell silent are looked for", (f"{SILENCE} async and sentinels", f"{SILENCE} async and cluster-primary"),
           ("stores/redis/fleet.py", "if self._down and task is self._awaited:", "if False:")),
    damage("R12 sync: all wait while servers that fell silent are looked for", (f"{SILENCE} threads and sentinels", f"{SILENCE} threads and cluster-primary"),
           ("stores/redis/blocking_fleet.py", "if self._down and refreshing is self._awaited:", "if False:")),
    damage("R12 commits that wait for a replica wait behind an attempt to connect", f"{SILENCE} async and cluster-replica",
           ("stores/redis/lane.py", "        if trouble := self._wire.trouble:", "        if trouble := '':")),
    damage("R12 whoever looks for the servers again is told what was before", "tests/stores/test_sentinel.py named_again and async",
           ("stores/redis/fleet.py", "if self._down and task is self._awaited:", "if self._down:")),
    damage("R12 sync: whoever looks for the servers again is told what was before", "tests/stores/test_sentinel.py named_again and threads",
           ("stores/redis/blocking_fleet.py", "if self._down and refreshing is self._awaited:", "if self._down:")),
    damage("R12 sentinels that say nothing are taken to agree", "tests/stores/test_sentinel.py vouches",
           (SENTINEL, "if self._primary is None or self._sentinels[0] in failed:", "if self._primary is None:")),
    damage("R18 each request asks a server that is down", (f"{R18} comes_back and async", f"{R18} comes_back and not async"),
           (GATE, "return max(0.0, self._opens_at - now)", "return 0.0")),
    damage("R18 the pauses between attempts do not grow", f"{R18} same_moment",
           (GATE, "FIRST_PAUSE * 2**self._failures", "FIRST_PAUSE")),
    damage("R18 all web servers come back at once", f"{R18} same_moment",
           (GATE, "random.uniform(0.5, 1.0)", "1.0")),
    damage("R18 whatever is lost is asked for again", f"{R18} keep_breaking",
           (GATE, "        if self._saved < 1:", "        if False:")),
    # --- R14 ---------------------------------------------------------------------------------------------------------
    damage("R14 a full server is called broken", f"{R14} keeps_what",
           (LAYOUT, "raise StoreFull(self.store, reply.message)", "raise StoreUnavailable(self.store, reply.message)")),
    damage("R14 a full server is asked again at once", f"{R14} more_memory",
           ("errors.py", "{next_step}\", retry_after=30", "{next_step}\", retry_after=1")),
    damage("R14 an evicting policy goes without a warning", f"{R14} warned_of",
           (EVICTING, '        _log.warning(\n            "%s: maxmemory', '        _log.debug(\n            "%s: maxmemory')),
    damage("R14 an evicting policy goes without a warning to threads", f"{R14} warned_of",
           (WIRE, "        self._warning.look(connection.eviction)\n", "")),
    damage("R14 evictions are not counted", f"{R14} counted",
           (EVICTING, "int(count[1]) if count else 0", "0")),
    damage("R14 each connection warns again", f"{R14} often",
           (EVICTING, "self._due_at = max(1, 2 * eviction.evicted)", "self._due_at = 0")),
    damage("R14 a server that forbids the question is refused", f"{R14} tells_nothing",
           ("stores/redis/address.py", "for reply in replies[:2]:", "for reply in replies:")),
    damage("R14 a server that evicts nothing is warned of", f"{R14} not_warned_of",
           (EVICTING, ' or policy[1] == "noeviction"', "")),
    # --- R6 ----------------------------------------------------------------------------------------------------------
    damage("R6 commits are not remembered", f"{R6} lost",
           (UPDATE, "local done = operation ~= '-' and", "local done = false and")),
    damage("R6 an unknown outcome is called a refusal", f"{R6} again_and_again",
           (VERBS, "if (again is not None or awaits_replica(commands)) and (sent or failed.sent):", "if False:")),
    damage("R6 an answer that was lost is never asked for again", f"{R6} asked_for_again",
           ("stores/redis/transport.py", "self.worth_repeating = sent and not slow", "self.worth_repeating = False")),
    damage("R6 a repeated creation is refused", f"{R6} made_once",
           (CREATE, "if at and version then", "if false then")),
    damage("R6 a repeated renewal is lost", f"{R6} renewal",
           (UPDATE, " or new_secret == secret)", ")")),
    # --- threads -----------------------------------------------------------------------------------------------------
    damage("R1 a reply that came in part is forgotten", "tests/stores/test_replies.py inside_a_reply",
           ("stores/redis/replies.py", "        if reply is not NOTHING:  # else", "        if True:  # else")),
    damage("R1 a string is taken for whole though its end has not come", "tests/stores/test_replies.py hiredis",
           ("stores/redis/replies.py", "if length < 0 or last + 2 > self._end or ord(text[last]) != _CR or ord(text[last + 1]) != _LF:", "if length < 0:")),
    damage("R12 whoever comes after a handler that ended the process is never woken", "tests/stores/test_waiting.py asleep",
           ("stores/redis/waiting.py", "if done < len(woken):", "if False:")),
    damage("R12 a request ends at some look at the clock", "tests/stores/test_wire.py some_look",
           ("stores/redis/connection.py", "self._tick(max(soonest - now, self._often / 16), often=True)", "self._tick(self._often, often=True)")),
    damage("R12 any byte is a sign of life for ever", "tests/stores/test_wire.py never_ends",
           ("stores/redis/connection.py", " and waited < _PATIENCE * self._timeout", "")),
    damage("R2 a task that is cancelled goes on waiting", "tests/stores/test_waiting.py cancelled or time_limit",
           ("stores/redis/waiting.py", "        self._finish(None, asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))\n", "")),
    damage("R20 the two ways to read a life differ", "tests/stores/test_layout.py by_hand",
           (LAYOUT, "if digits == 0 or digits > 15 or starts_with_zero", "if digits == 0 or starts_with_zero")),
    damage("R1 sync: an exchange that was interrupted leaves its connection to the next", (f"{THREADS} storm", f"{THREADS} signal"),
           (CONNECTION, "        self._settled = False\n        reader = self._reader\n", "        self._settled = True\n        reader = self._reader\n"),
           (CONNECTION, "        while self.at_rest:\n", "        return self._socket is not None and self._let_in\n        while self.at_rest:\n")),
    damage("R1 sync: what lies ready before the request is taken for its answer", f"{BLOCKING} never_taken and later",
           (CONNECTION, "        while self.at_rest:\n", "        return self._socket is not None and self._let_in\n        while self.at_rest:\n")),
    damage("R1 sync: what came with the answer is kept for the next", f"{BLOCKING} never_taken and with and half",
           (CONNECTION, "self._settled = not self._reader.has_data()", "self._settled = True")),
    damage("R1 sync: a connection that mixes up replies is kept", (f"{THREADS} surplus and wire", f"{BLOCKING} somebody_else"),
           (CONNECTION, "        except LEAVING:\n            raise  #", "        except LEAVING:\n            self._answered()\n            raise  #")),
    damage("R1 sync: somebody's own client keeps a connection that mixes up replies", f"{THREADS} surplus and client",
           ("stores/redis/sync_pooled.py", "            except LEAVING:\n                clean = False\n", "            except LEAVING:\n"),
           ("stores/redis/sync_pooled.py", "if connection.can_read(0):", "if False:")),
    damage("R1 sync: a forked process goes on with the parent's connections", f"{BLOCKING} fork",
           ("stores/redis/forking.py", "        transport.forked()\n", "        pass\n")),
    damage("R1 sync: a server that does not let us in is used", "tests/stores/test_sync_redis.py password",
           (CONNECTION, "        if problem or not self._settled:\n", "        if False:\n")),
    damage("R2 sync: what was struck while it gave back is not given back", f"{THREADS} signal",
           (WIRE, "            if not loan.over:\n                self._give_back(loan)\n", "            pass\n"),
           (WIRE, "            finally:\n                self._give_back(loan)\n", "            except ZeroDivisionError:\n                pass\n            self._give_back(loan)\n")),
    damage("R6 sync: a commit is repeated as if it were new", f"{THREADS} again_and_again",
           ("stores/redis/sync_store.py", "self._verbs.rescue(exchange, trouble)",
            "self._verbs.rescue(Exchange(exchange.session_id, exchange.commands, exchange.read), trouble)")),
    damage("R6 sync: a connection that broke under way counts as never used", (f"{THREADS} asked_for_again and wire", f"{BLOCKING} under_way"),
           (CONNECTION, '"the server closed the connection", sent=True', '"the server closed the connection", sent=False')),
    damage("R12 sync: each piece of an answer has a time limit of its own", f"{BLOCKING} in_pieces",
           (CONNECTION, "self._socket.receive(deadline)", "self._socket.receive(monotonic() + 0.2)")),
    damage("R12 sync: nobody remembers that the server is down", (f"{THREADS} slow_store", f"{BLOCKING} frozen"),
           (WIRE, "            self._up, self._down = False, True\n", "            pass\n")),
    damage("R12 sync: a name is looked up for as long as it takes", f"{BLOCKING} connecting and name",
           ("stores/redis/blocking_socket.py", ".result(max(0.0, deadline - monotonic()))", ".result()")),
    damage("R12 every attempt to find a server leaves a thread behind", "tests/stores/test_resolver.py hangs",
           ("stores/redis/resolver.py", "answer = self._under_way.get((host, port))", "answer = None")),
    damage("R12 a server is looked up where the application works", "tests/stores/test_resolver.py fills",
           (ASYNC_WIRE, "await asyncio.wrap_future(resolver.look_up(address.host, address.port))",
            "await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)")),
    damage("R2 a child waits for a thread that its parent has", "tests/stores/test_resolver.py child",
           ("stores/redis/resolver.py", "        tell_when_forked(self)\n", "")),
    damage("R4 a server that hangs up is not heard", f"{REDIS} lets_nobody_in",
           (ASYNC_WIRE, "problem = address.refusal(failed.heard) or str(failed)", "problem = str(failed)")),
    damage("R5 a commit is applied where nobody may wait for a replica", "tests/stores/test_confirming.py access_list",
           ("stores/redis/address.py", "if self.confirms and is_forbidden(replies[4]):", "if False:")),
    damage("R12 sync: a connection that died in silence is used", f"{BLOCKING} died_in_silence",
           (WIRE, "connection.usable() and self._alive(connection, deadline)", "connection.usable()")),
    damage("R12 sync: all of a crowd ask a server that is down", f"{BLOCKING} left_in_peace",
           (WIRE, "return self._most if self._up else 1", "return self._most")),
    damage("R13 sync: whoever waits has no time limit", f"{THREADS} end_by_their",
           (WIRE, "loan.turn.acquire(timeout=max(0.0, deadline - monotonic()))", "loan.turn.acquire()")),
    damage("R13 sync: whoever came last is served first", (f"{THREADS} all_served", f"{BLOCKING} in_the_order"),
           (WIRE, "            loan = next(iter(self._turns))\n            loan.wake()\n            self._loans",
            "            loan = next(reversed(self._turns))\n            loan.wake()\n            self._loans")),
    damage("R13 sync: as many connections as there are threads", f"{THREADS} all_served",
           (WIRE, "return self._most if self._up else 1", "return 10_000 if self._up else 1")),
    damage("R5 sync: reading waits behind commits that wait", f"{TOPOLOGIES} confirms",
           ("stores/redis/blocking_fleet.py", "[*commands[:-1], wait_for_replica(0.9 * left)], True", "[*commands[:-1], wait_for_replica(0.9 * left)], False")),
    # --- R7 ----------------------------------------------------------------------------------------------------------
    damage("R7 a new key lives for ever", (f"{R7} story", f"{REDIS} without_an_expiry"),
           (CREATE, "redis.pcall('PEXPIREAT', key, digits(now + (absolute == '0' and idle or math.min(idle, absolute))))", "1")),
    damage("R7 half of a commit", f"{R7} story",
           (UPDATE, "redis.call('HSET', key, unpack(ARGV, first, math.min(first + 999, deletes_at - 1)))",
            "redis.call('HSET', key, unpack(ARGV, first, first + 1))")),
    damage("R7 a commit in two parts", f"{R7} story",
           ("stores/redis/store.py", "        return self._run(self._verbs.update(session_id, changes), timeout)\n",
            "        return self._in_parts(session_id, changes, timeout)\n\n"
            "    async def _in_parts(self, session_id, changes, timeout):\n"
            "        from msgspec.structs import replace\n"
            "        for name, text in list(changes.sets.items())[1:]:\n"
            "            early = replace(changes, sets={name: text}, operation='', renewal=None, owner=None, retain=None)\n"
            "            await self._run(self._verbs.update(session_id, early), timeout)\n"
            "        return await self._run(self._verbs.update(session_id, changes), timeout)\n")),
    damage("R7 what stopped half-way is said to be undone", "tests/stores/test_redis.py half_way",
           (LAYOUT, 'and "script" in reply.message and not', "and False and not")),
    # --- R12 ---------------------------------------------------------------------------------------------------------
    damage("R12 a connection that dies in the middle is kept", "tests/stores/test_wire.py middle",
           ("stores/redis/connection.py", "silence = now - max(self._heard_at, first.sent_at)",
            "silence = 0.0 if self._heard_at >= first.sent_at else now - first.sent_at")),
    damage("R12 a crowd waits with whoever looks for the server", "tests/stores/test_wire.py looks_whether",
           (ASYNC_WIRE, "self._connecting is not None and self._gate.is_down:", "False:")),
    damage("an index of owners grows for ever", "tests/stores/test_redis.py for_ever",
           ("stores/redis/own.lua", "redis.call('ZREMRANGEBYSCORE'", "if false then redis.call('X') end--")),
    # --- R8 ----------------------------------------------------------------------------------------------------------
    damage("R8 an update recreates (Valkey)", f"{R8} revives",
           (UPDATE, "local head = redis.call(",
            "if redis.call('EXISTS', key) == 0 then\n"
            "  redis.call('HSET', key, '@ticket', id .. ' ' .. proof,\n"
            "    '@life', '[1,' .. redis.call('TIME')[1] .. '000,0,0,' .. new_idle .. ',0]')\nend\nlocal head = redis.call(")),
    damage("R8 an update needs no proof (Valkey)", f"{R8} before_the_login and valkey",
           (UPDATE, "if proof ~= secret then", "if false then")),
    damage("R8 an update needs no proof (memory)", f"{R8} before_the_login and memory",
           ("record.py", "    if not record.accepts(changes.proof, now_ms):\n", "    if False:\n")),
    damage("R8 logout leaves the record", f"{SECURITY} destroyed_cookie",
           ("manager.py", "            await self.store.delete(todo.delete, timeout=time_left)\n", "            pass\n")),
    # --- R16 ---------------------------------------------------------------------------------------------------------
    damage("R15 what has aged is served", f"{NEAR} after_its_time",
           ("stores/redis/near.py", "age < self.max_age and", "")),
    damage("R15 announcements are not heard", f"{R15} another_server",
           ("stores/redis/near.py", " and kept.source.vouches()", ""),
           ("stores/redis/near.py", "                if kept is not None and kept.source is source:", "                if False:")),
    damage("R15 what is older replaces what is newer", f"{NEAR} World or go_back",
           ("stores/redis/near.py", "present.version > version and", "False and")),
    damage("R15 what was forgotten comes back", f"{NEAR} forgotten",
           ("stores/redis/near.py", "            if replies.asked_at > self._forgotten_at:", "            if True:")),
    damage("R15 an answer counts from when it came", f"{R15} nobody_hears",
           ("stores/redis/connection.py", "Told(self, now)", "Told(self, now + 100)")),
    damage("R15 a lost connection empties nothing", f"{R15} lost_connection",
           ("stores/redis/connection.py", "            self._near.lost(self)", "            pass")),
    damage("R15 threads do not hear what comes before an answer", f"{R15} before_an_answer",
           ("stores/redis/blocking_connection.py", "                        self._near.announced(self, reply)", "                        pass")),
    damage("R15 threads do not look before a hit", f"{R15} another_server",
           ("stores/redis/blocking_wire.py", "                    if connection.usable():", "                    if True:")),
    damage("R15 a deletion of one's own is forgotten", f"{R15} did_itself",
           ("stores/redis/verbs.py", "self.near.changed(session_id, GONE, monotonic())", "pass")),
    damage("R15 a commit that waits for a replica is forgotten", f"{R15} waits_for_a_replica",
           ("stores/redis/verbs.py", "near.changed(session_id, applied.version, monotonic())", "pass")),
    damage("R15 somebody is refused, or let in, on the cache's word", f"{R15} grace",
           ("manager.py", "if record is not None and not refusal_of(ticket, record):", "if record is not None:")),
    damage("R15 a browser's token is not looked at", f"{R15} reads_what_it_wrote",
           ("stores/redis/near.py", " and kept.version >= seen:", ":")),
    damage("R15 connections gather news for ever", f"{R15} gather",
           ("stores/redis/blocking_wire.py", "self._unheard() if self._near is not None else None", "None")),
    damage("R16 the whole session is written", f"{R16} overlap",
           ("lifecycle.py", "        retain=delta.retain,\n        sets=delta.sets,\n",
            "        retain=(),\n        sets={**session.stored_fields, **delta.sets},\n")),
    damage("R16 a sum is written, not added", (f"{R16} overlap", f"{WEB}/test_stories.py counter"),
           ("lifecycle.py", "        sets=delta.sets,\n        deletes=delta.deletes,\n        increments=delta.increments,\n",
            "        sets={**delta.sets, **{name: str(session[name]) for name in delta.increments}},\n"
            "        deletes=delta.deletes,\n        increments={},\n")),
    damage("R16 nobody compares versions (Valkey)", f"{R16} require and valkey",
           (UPDATE, "if unchanged == '1' and", "if false and")),
    damage("R16 nobody compares versions (memory)", f"{R16} require and memory",
           ("record.py", "if changes.unchanged and record.version != changes.read_version:", "if False:")),
    # --- R17, and R5 through a failover ------------------------------------------------------------------------------
    damage("R17 the sentinels are asked once and never again", f"{R17} gone and killed-primary",
           (SENTINEL, "        if self._primary == primary:\n            self._primary = None\n", "        pass\n"),
           (SENTINEL, "fresh_for = 0.5", "fresh_for = 1e9")),
    damage("R17 a planned change is noticed when the old primary hangs up", "tests/stores/test_sentinel.py noticed",
           (SENTINEL, "fresh_for = 0.5", "fresh_for = 1e9")),
    damage("R17 READONLY counts as down", "tests/stores/test_sentinel.py became_a_replica",
           (SENTINEL, """last.code in _REFUSALS or " -READONLY " in last.message""", "False")),
    damage("R17 a replica is taken for the primary", "tests/stores/test_sentinel.py replica",
           ("stores/redis/address.py", """        if self.kind == "primary":\n            role""", "        if False:\n            role")),
    damage("R17 a sentinel that is behind is believed", "tests/stores/test_sentinel.py behind",
           (SENTINEL, "if epoch < self._epoch:", "if False:")),
    damage("R17 MOVED counts as down", f"{R17} slots_that_move",
           (CLUSTER, """if refused.code == "MOVED":\n""", """if refused.code == "MOVED":\n                    raise failure from None\n""")),
    damage("R17 ASK counts as not ready", f"{R17} slots_that_move",
           (CLUSTER, """elif refused.code == "ASK":""", "elif False:")),
    damage("R17 ASKING is not said", f"{R17} slots_that_move",
           (CLUSTER, "yield Send(node, asking, unless_refused_when_asked)", "yield Send(node, commands, unless_refused)")),
    damage("R17 a cluster is looked at once and never again", f"{R17} killed_is_replaced and primary",
           (CLUSTER, "for node in self._known:", "for node in () if any(self._slots) else self._known:")),
    damage("R17 what may have been applied is sent to another node", "tests/stores/test_cluster.py applied",
           (CLUSTER, "            except ExchangeFailed as failed:\n                if failed.sent or failed.slow:\n                    yield Refresh(wait=False)  # for",
            "            except ExchangeFailed as failed:\n                if False:\n                    yield Refresh(wait=False)  # for")),
    damage("R17 R18 a cluster that is down is asked again by everybody", "tests/stores/test_cluster.py not_ready",
           (CLUSTER, "elif self._budget.spend():", "elif True:")),
    damage("R17 what is known of the servers is believed for too long", f"{R17} gone and killed-primary",
           ("stores/redis/topology.py", "_FRESH = 0.1", "_FRESH = 6.0")),
    damage("R1 an answer of several nodes that mixes up replies leaves their connections", "tests/stores/test_topologies.py somebody_elses and reading",
           (CLUSTER, "            yield Drop(frozenset(answered), str(foreign))\n", "")),
    damage("R12 a request with much time waits for a server that says nothing", "tests/stores/test_wire.py dearer",
           ("stores/redis/connection.py", "if overslept or (silence < self._timeout and waited", "if True or (silence < self._timeout and waited")),
    damage("R5 WAIT's answer is ignored", (f"{R17} no_replica_has", "tests/stores/test_confirming.py without"),
           ("stores/redis/confirming.py", "return type(reply) is int and reply >= 1", "return True")),
    damage("R5 a repeat is taken for confirmed", "tests/stores/test_confirming.py lost",
           (VERBS, "trouble.worth_repeating and not awaits_replica(commands)", "trouble.worth_repeating")),
    damage("R5 reading waits behind commits that wait", "tests/stores/test_confirming.py reading",
           ("stores/redis/fleet.py", "            if awaits_replica(step.commands):\n", "            if False:\n")),
    # --- R20 ---------------------------------------------------------------------------------------------------------
    damage("R20 a number that is none is an error", f"{R20} reserved or all_fields",
           (LAYOUT, "        except DecodeError:\n", "        except KeyError:\n")),
    damage("R20 numbers that Lua reads otherwise are accepted", f"{R20} reserved",
           (LAYOUT, 'if text.encode("utf-8", "replace").translate(None, b"[0123456789,]"):', "if False:"), (LAYOUT, "lt=10**15", "lt=10**18")),
    damage("R20 Lua believes any number", f"{R20} before_it_has_begun",
           (UPDATE, "if #text > 15 then exact = false end", "")),
    damage("R20 an owner may be any bytes", f"{R20} owner",
           (LAYOUT, "if owner is not None and not owner.isascii() and not is_text(owner):", "if False:")),
    damage("R20 a field's name may be any bytes", f"{R20} whose_name",
           (LAYOUT, 'if not _is_ascii(name):', "if False:")),
    damage("R20 a corrupt record is an error", f"{R20} all_fields",
           ("manager.py", '            self._tell("record_corrupt", ticket.session_id, error.problem)\n            if not session.loaded:\n                session.admit(None)\n            return\n', "            raise\n")),
    damage("R20 a corrupt record is not told of", f"{R20} all_fields",
           ("manager.py", '            self._tell("record_corrupt", ticket.session_id, error.problem)\n', "")),
    damage("R20 a field that cannot be read is not told of", f"{R20} one_field",
           ("manager.py", '            self._tell("field_unreadable", error.session_id, f"{error.field}: {error.problem}")', "            pass")),
    damage("R20 a tagged value that cannot be is an error", f"{R20} one_field",
           ("codec.py", "except (TypeError, LookupError, ArithmeticError, RecursionError) as error:", "except ArithmeticError as error:")),
    damage("R20 a client that decodes chokes on bytes", f"{REDIS} OnRESP2 and corrupt",
           ("stores/redis/pooled.py", "disable_decoding=True, ", "")),
    # --- R21 ---------------------------------------------------------------------------------------------------------
    damage("R21 a change after the response began is silently lost", f"{WEB}/test_streams.py",
           ("asgi.py", "session.close(_RESPONSE_STARTED if is_http else None, _HEADERS_SENT)",
            "session.close(None, _HEADERS_SENT)"),
           ("asgi.py", "                raise _RESPONSE_STARTED.anew()\n", "                pass\n"),
           ("asgi.py", "            if not session.sealed:\n                await session.commit()\n", "            if False:\n                pass\n")),
    damage("R21 a value changed in place after the start is silently lost", f"{WEB}/test_streams.py in_place",
           ("asgi.py", "                raise _RESPONSE_STARTED.anew()\n", "                pass\n")),
    damage("R21 the same exception is raised again and again", f"{WEB}/test_streams.py memory",
           ("errors.py", "        return TooLate(*self._facts)\n", "        return self\n")),
    damage("R21 a socket is let in while the store is down", f"{WEB}/test_websockets.py denied",
           ("asgi.py", "            if self._eager and session.ticket is not None:\n",
            '            if scope["type"] == "http" and self._eager and session.ticket is not None:\n')),
    # --- the security table ------------------------------------------------------------------------------------------
    damage("fixation: an unknown id is adopted", f"{SECURITY} fixation",
           ("session.py", "            self._fields = {}\n            self.ticket = None\n", "            self._fields = {}\n")),
    damage("fixation: the secret is not checked", f"{SECURITY} fixation",
           ("lifecycle.py", "    if not record.accepts(ticket.secret_hash, record.read_at_ms):\n", "    if False:\n")),
    damage("CVE-2022-25896: login keeps the secret", f"{SECURITY} 25896",
           ("lifecycle.py", "        renewed = ticket.renewed()\n", "        renewed = ticket\n")),
    damage("CVE-2023-29020: login keeps what was planted", f"{SECURITY} 29020",
           ("session.py", "                self._keep_only(names)\n", "                pass\n")),
    damage("CVE-2024-31999: no absolute timeout", f"{SECURITY} 31999",
           ("record.py", "deadline_ms=None if new.absolute_ms is None else now_ms + new.absolute_ms,", "deadline_ms=None,"),
           ("record.py", "        after.deadline_ms = now_ms + changes.absolute_ms\n", "        pass\n")),
    damage("CVE-2015-5143: a look makes a record", f"{SECURITY} 5143",
           ("lifecycle.py", "    if not delta.sets and session._owner is None and not surely:\n", "    if False:\n")),
    damage("CVE-2019-16782: the secret is stored", f"{SECURITY} 16782",
           ("ticket.py", '_base64(_sha256(secret).digest(), newline=False).decode()', "secret.decode()")),
    damage("CVE-2013-0263: secrets are compared by ==", f"{SECURITY} 0263",
           ("ticket.py", "return compare_digest(one, other)", "return one == other")),
    damage("CVE-2023-20866: a ticket shows its secret", f"{SECURITY} 20866",
           ("ticket.py", 'return f"Ticket({self.session_id!r}, secret hidden)"', 'return f"Ticket({self.cookie_value!r})"')),
    damage("CVE-2023-20866: events show the ticket", f"{SECURITY} 20866",
           ("manager.py", 'self._tell("ticket_refused", ticket.session_id, refusal)', 'self._tell("ticket_refused", ticket.cookie_value, refusal)')),
    damage("a password in a URL is shown", f"{SECURITY} password",
           ("stores/opening.py", '    shown = f"{name}:***@" if colon else "***@" if at else ""\n', "    shown = user + at\n")),
    damage("CVE-2021-33026: pickles are loaded", f"{SECURITY} 33026",
           ("codec.py", "            value = _decode_json(text)\n",
            "            import pickle\n            data = text.encode('utf-8', 'surrogateescape')\n"
            "            value = pickle.loads(data) if data[:1] == b'\\x80' else _decode_json(text)\n")),
    damage("CVE-2020-9484: a ticket's form is checked at its start only", f"{SECURITY} 9484",
           ("ticket.py", "if value.translate(_KINDS) != _TICKET_FORM:", "if not value.translate(_KINDS).startswith(_TICKET_FORM):")),
    damage("__Host-: white space of any kind is trimmed", f"{SECURITY} padded",
           ("cookie.py", 'pair = pair.lstrip(b" \\t")', "pair = pair.lstrip()")),
    damage("duplicate cookies: the first is taken", f"{SECURITY} duplicates",
           ("lifecycle.py", "    if len(values) > 1:\n", "    if False:\n")),
    damage("a cookie of spaces takes a minute", f"{SECURITY} any_length",
           ("cookie.py", 'in line.split(b";"):', 'in __import__("re").findall(rb"(?:^|;)([^;]*?)[ \\t]*(?=;|$)", line):')),
    damage("CVE-2025-12390: an id is used again after logout", f"{SECURITY} 12390",
           ("session.py", "        self.ticket = self._record = self._pending = self._owner = None\n        self._fields",
            "        self._record = self._pending = self._owner = None\n        self._fields"),
           ("session.py", "            self._fields = {}\n            self.ticket = None\n", "            self._fields = {}\n")),
    damage("CVE-2023-30861: no Vary", (f"{WEB}/test_headers.py", f"{WEB}/test_cache.py"),
           ("cookie.py", '        headers.append((b"vary", b"Cookie"))\n', "        pass\n")),
    damage("CVE-2026-27205: `in` is no look", f"{WEB}/test_headers.py look",
           ("session.py", "    def __contains__(self, name: object) -> bool:\n        fields = self._look()\n",
            "    def __contains__(self, name: object) -> bool:\n        fields = self._fields or {}\n")),
    damage("CVE-2026-35192: a ticket may be cached", f"{WEB}/test_headers.py",
           ("cookie.py", '            headers.append((b"cache-control", b"no-store"))\n', "            pass\n"),
           ("cookie.py", "(*TARGETED_CACHE_FIELDS, b\"cache-control\")", "TARGETED_CACHE_FIELDS")),
    damage("a first look after the start goes unmarked", f"{WEB}/test_streams.py first_look",
           ("asgi.py", 'session.guard_first_look(partial(refuse_first_look, message.get("headers", ())))', "pass")),
    # --- synchronous applications ------------------------------------------------------------------------------------
    damage("R1 gunicorn: a forked process goes on with the parent's connections", f"{GUNICORN} forked",
           ("stores/redis/forking.py", "        transport.forked()\n", "        pass\n")),
    damage("R6 gunicorn: commits are not remembered", f"{GUNICORN} counts_once and threads",
           (UPDATE, "local done = operation ~= '-' and", "local done = false and")),
    damage("R8 gunicorn: a commit brings back what ended", f"{GUNICORN} logout and threads",
           ("flask.py", "                    session.manager.commit(session, surely=surely)\n",
            "                    try:\n                        session.manager.commit(session, surely=surely)\n"
            "                    except CoatcheckError:\n                        pass\n")),
    damage("R12 gunicorn: a slow store costs as long as it likes", f"{GUNICORN} frozen and threads",
           ("manager.py", "self.time_left = manager.store_seconds", "self.time_left = 60.0")),
    damage("R16 gunicorn: an increment is a plain value", f"{GUNICORN} nothing_is_lost and threads",
           ("session.py", "            pending.added[name] = added\n", "            self[name] = total\n")),
    damage("R4 WSGI: a store that is down is a traceback", f"{WSGI} down",
           ("wsgi.py", "            response.replace(error)\n        return _Body", "            raise\n        return _Body")),
    damage("R21 WSGI: a change after the response began is silently lost", f"{WSGI} change",
           ("wsgi.py", "        session.close(RESPONSE_STARTED, HEADERS_SENT)\n", ""),
           ("wsgi.py", "        if not session.sealed:  # it was read anew\n            session.commit()\n        elif", "        if not session.sealed:\n            pass\n        elif")),
    damage("R21 WSGI: a first look after the start goes unmarked", f"{WSGI} first_look",
           ("wsgi.py", "session.guard_first_look(partial(refuse_first_look, as_bytes(headers)))", "pass")),
    damage("WSGI: the session is stored after the first byte", f"{WSGI} first_byte",
           ("wsgi.py", "            if not response.begun:\n                response.begin()\n        except _Replaced:\n            return",
            "            if not response.begun:\n                response.session.close(None, None)\n                response.begun = True\n"
            "                response._start_response(*response._head)\n        except _Replaced:\n            return")),
    damage("WSGI: the application's body is not closed", f"{WSGI} closed",
           ("wsgi.py", "        if close is not None:\n            close()\n", "        pass\n")),
    damage("WSGI: a response that has begun begins again", f"{WSGI} first_byte and pushed",
           ("wsgi.py", "                if response.begun:  # by `write()`\n", "                if False:\n")),
    damage("sync: an unread session is read at once", (f"{WSGI} never_looks", f"{FLASK} never_looks"),
           ("sync_manager.py", "        self.manager = manager\n\n    def load", "        self.manager = manager\n        self.load()\n\n    def load")),
    damage("sync: a look that fails leaves the response unmarked", f"{WEB}/test_sync_manager.py fails",
           ("sync_manager.py", "            with suppress(NotLoaded):  # note the look, unless it comes too late\n                super()._look()\n", "")),
    damage("Flask: clear() before a login keeps the ticket", f"{FLASK} tutorial",
           ("flask_common.py", "            self.renew()\n            self._cleared = True\n", "            self._cleared = True\n")),
    damage("Flask: clear() at logout ends nothing", f"{FLASK} tutorial",
           ("flask_common.py", "                self.destroy()\n", "                pass\n")),
    damage("Flask: what an exception left behind is stored", (f"{FLASK} nobody_handles", f"{QUART} nobody_handles"),
           ("flask.py", "    request.environ[_FAILED] = True\n", "    pass\n"), ("quart.py", "    _scope()[_FAILED] = True\n", "    pass\n")),
    damage("Flask: a crowd that is made permanent fills the store", f"{FLASK} worth",
           ("flask_common.py", "                self._pending = None  # no crowd", "                pass  # no crowd")),
    damage("Flask: markup loses its type", f"{FLASK} flashed",
           ("flask_common.py", 'carry(Markup, "@html", str.__str__, Markup)', "Markup")),
    damage("Flask: a ticket may be cached", f"{FLASK} caches",
           ("flask_common.py", "finished = finish_text_headers(headers.to_wsgi_list(), looked_at=True, set_cookies=set_cookies)", 'finished = [*headers.to_wsgi_list(), *(("Set-Cookie", each) for each in set_cookies)]')),
    damage("freshness: the token is not looked at", f"{FRESH} own_writes",
           ("manager.py", "if self._fresh is not None and ticket.seen:", "if self._fresh is not None and not ticket:")),
    damage("freshness: with the token goes the ticket from before the login", f"{FRESH} late_answer",
           ("manager.py", "            ticket.seen = seen\n", "            ticket.seen = seen\n            session.set_cookie = self.cookie.write(ticket.cookie_value)\n")),
    damage("freshness: one session's token is asked of another", f"{FRESH} another_sessions",
           ("ticket.py", " and tag == self.session_id[:_TAG_CHARACTERS].encode()", "")),
    damage("freshness: who has no ticket gets a token", f"{FRESH} opens_nothing",
           ("manager.py", "        elif found is not None:\n", "        if found is not None:\n")),
    damage("freshness: Flask and Quart hand out none", (f"{EVERYWHERE} flask", f"{EVERYWHERE} quart"),
           ("flask_common.py", "    if session.set_seen is not None:\n", "    if False:\n")),
    damage("freshness: Django hands out none", f"{EVERYWHERE} django",
           ("django.py", "            session.hand_out_seen(response)\n", "            pass\n")),
    damage("freshness: Django takes none", f"{EVERYWHERE} django",
           ("django.py", "            request.session.take_seen(seen)\n", "            pass\n")),
    damage("freshness: a gap counts as known", f"{TOKENS} all_that_its_browser",
           (REPLICA, "entry is not None and session_id not in self._missing and includes", "entry is not None and includes")),
    damage("freshness: a copy with a gap speaks for all", f"{TOKENS} all_that_its_browser",
           (REPLICA, "missing=missing))", "missing=0))")),
    damage("freshness: what one peer lacks is lost, though another is away", f"{FRESH_READS} died",
           (CLUSTER_OF_PEERS, "inquiry.unanimous = len(inquiry.waiting) == len(self.peers)", "pass")),
    damage("freshness: what is lost is asked for for ever", f"{FRESH_READS} died",
           (REPLICATED, "what_is_left(wanted, state)", "str(wanted)")),
    damage("freshness: waiting has no end", f"{FRESH_READS} wait_has",
           (REPLICATED, "min(deadline, monotonic() + self._target.catch_up)", "monotonic() + 60")),
    damage("freshness: nobody is asked", f"{ALL_TO_ALL} past_a_cut",
           (CLUSTER_OF_PEERS, "            self._send(self.peers[address], Ask(inquiry.number, session_id, mark))\n", "            pass\n")),
    damage("freshness: a flood of made-up tokens asks without end", f"{FRESH_READS} flood",
           (CLUSTER_OF_PEERS, "if len(self._inquiries) >= MOST_INQUIRIES", "if False")),
    damage("R4 Quart: a store that is down is a traceback", f"{QUART} down",
           ("quart.py", "        except REFUSALS as error:\n            session.unread = error\n", "        except ZeroDivisionError:\n            pass\n")),
    damage("Django: an unknown key is adopted", f"{DJANGO} adopted",
           ("session.py", "            self._fields = {}\n            self.ticket = None\n", "            self._fields = {}\n")),
    damage("Django: a session ends for whoever knows its id", f"{DJANGO} wrong_secret",
           ("lifecycle.py", "    if not record.accepts(ticket.secret_hash, record.read_at_ms):\n", "    if False:\n")),
    damage("Django: saving what ended is no UpdateError", f"{DJANGO} update_error",
           ("django.py", "            raise UpdateError from None\n", "            pass\n")),
    damage("Django: what ended is saved unchanged", f"{DJANGO} unchanged_what_ended",
           ("lifecycle.py", "return Plan(update=touch, essential=surely,", "return Plan(update=touch, essential=False,")),
    damage("Django: login keeps the key", (f"{DJANGO} cycling", f"{SITE} login"),
           ("django.py", "        stored.renew()\n", "        pass\n")),
    damage("Django: logout leaves the record", (f"{DJANGO} flush", f"{SITE} login"),
           ("django.py", "        self.modified = True\n        await manager.commit(stored)\n", "        self.modified = True\n")),
    damage("Django: set_expiry does not reach the store", f"{DJANGO} expires",
           ("django.py", "self._engine.settings_for(self.get_expiry_age())", "self._engine.settings_for(_age())")),
    damage("Django: a user's sessions cannot be found", f"{DJANGO} owns",
           ("django.py", "            stored.belong_to(user)\n", "            pass\n")),
    damage("R4 Django: a store that is down is 500", f"{SITE} is_503",
           ("django.py", "        return _answer(exception) if isinstance(exception, REFUSALS) else None\n", "        return None\n"),
           ("django.py", "        if trouble is not None and response.status_code == 500:", "        if False:")),
    damage("Django: what strikes in a middleware is 500", f"{SITE} is_503",
           ("django.py", "        if trouble is not None and response.status_code == 500:", "        if False:")),
    damage("Django: a ticket may be cached", f"{SITE} by_its_own_settings",
           ("django.py", "    patch_cache_control(response, no_store=True)\n", "")),
    damage("Django: a store that is down takes the cookie back", f"{SITE} touches_no_cookie",
           ("django.py", "        if self.trouble is not None:\n            return False", "        if False:\n            return False")),
    damage("Django: under ASGI a thread saves the session", f"{SITE} no_thread",
           ("django.py", "    async def __acall__(self", "    async def unused(self")),
    damage("R8 everywhere: a commit that was refused is not told of", f"{FRAMEWORKS} logout",
           ("manager.py", "                return  # a mere touch came too late; that is no concern of this request's\n            todo.refused()\n            raise\n",
            "                return\n            return\n")),
    # --- stories -----------------------------------------------------------------------------------------------------
    damage("a renewal that another request made brings a dead ticket", f"{WEB}/test_stories.py renew_the_ticket",
           ("lifecycle.py", "    if changes.renewal is not None or applied.by_previous:\n", "    if False:\n")),
    damage("a store that was handed in empty is replaced", f"{WEB}/test_stories.py any_server",
           ("stores/memory.py", "self._store = MemoryStore() if store is None else store", "self._store = store or MemoryStore()")),
    damage("the lifespan closes nothing", f"{WEB}/test_starlette.py lifespan",
           ("asgi.py", "                await self.manager.close()\n", "                pass\n")),
    damage("every request writes", f"{WEB}/test_commands.py",
           ("lifecycle.py", "return record.read_at_ms - record.touched_ms >= settings.touch_ms\n", "return True\n")),
    damage("explicit loading loads anyway", f"{WEB}/test_commands.py",
           ("asgi.py", 'self._eager = load == "eager"', "self._eager = True")),
    damage("a malformed ticket reaches the store", f"{WEB}/test_commands.py malformed",
           ("ticket.py", "if value.translate(_KINDS) != _TICKET_FORM:", "if len(value) != len(_TICKET_FORM):")),
    damage("certificates are not checked", f"{REDIS} not_trusted",
           ("stores/redis/address.py", "    if certificate is not None:\n", "    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n    if certificate is not None:\n")),
    damage("the index of owners is never repaired", f"{REDIS} repaired",
           (VERBS, "        if missing:\n", "        if False:\n")),
    damage("an absolute timeout longer than the key's life", f"{REDIS} exactly_as_long",
           (CREATE, "math.min(idle, absolute)", "absolute")),
    # --- databases ---------------------------------------------------------------------------------------------------
    damage("R2 SQL as many connections as there are requests", f"{DATABASES} r2",
           (SQL_STORE, "asyncio.Semaphore(places or 1_000_000)", "asyncio.Semaphore(1_000_000)")),
    damage("R4 SQL what is no record is absent", f"{DATABASES} r4 and killed",
           (SQL_VERBS, '            raise CorruptRecord(session_id, "its version or its operations cannot be")\n',
            "            raise SessionGone(session_id)\n")),
    damage("R6 SQL an answer that is lost is not asked for again", f"{DATABASES} r6_an_answer",
           (SQL_CORE, 'once = {"broken", ', "once = {")),
    damage("R6 SQL a repeated commit is applied again", f"{DATABASES} r6_an_answer",
           (FUNCTIONS, "IF {prefix}remembers(s.operations, p_operation) THEN\n    outcome", "IF false THEN\n    outcome")),
    damage("R6 SQL what is not known is called refused", f"{DATABASES} r6_what",
           (SQL_CORE, "if self.uncertain and self.session_id:", "if False:")),
    damage("R7 SQL fields are written after the commit", f"{SQL} SQLite and interleave",
           (SQL_VERBS, "        yield from self._putting(session_id, put)\n        yield count(self._update, _columns(after))\n        yield COMMIT\n",
            "        yield count(self._update, _columns(after))\n        yield COMMIT\n        yield from self._putting(session_id, put)\n")),
    damage("R8 SQL a commit needs no proof", f"{SQL} PostgreSQL and wrong_secret",
           (FUNCTIONS, "WHEN by_previous AND (p_proof", "WHEN false AND (p_proof")),
    damage("R12 SQL a slow database costs as long as it likes", f"{DATABASES} r12 and postgresql",
           (SQL_STORE, "async with asyncio.timeout(call.timeout), self._places:", "async with asyncio.timeout(30), self._places:")),
    damage("R12 SQL a list of sessions costs as long as the database likes", f"{DATABASES} costs_a_list and postgresql",
           (SQL_CORE, "self.verbs.sessions_of(owner), timeout)", "self.verbs.sessions_of(owner), None)")),
    damage("R12 SQL a thread waits for psycopg as long as it likes", f"{DATABASES} r4 and postgresql and sync and frozen",
           ("stores/sql/drivers.py", "left if timeout is None else min(timeout, left)", "left * 0 + 30")),
    damage("R13 SQL who comes late overtakes who waits", f"{OPENING} overtakes",
           ("stores/sql/places.py", "if self._free and not self._waiting:", "if self._free or self._waiting:")),
    damage("R16 SQL a commit does not lock its session, PostgreSQL", f"{SQL} PostgreSQL and increments_at_once",
           (FUNCTIONS, "FOR NO KEY UPDATE;", ";")),
    damage("R16 SQL a commit does not lock its session, MariaDB", f"{SQL} MariaDB and increments_at_once",
           (SQL_VERBS, '    lock = " FOR UPDATE"\n', '    lock = ""\n')),
    damage("SQL a deadlock is an error", f"{DATABASES} deadlocks", (SQL_TROUBLE, '"40P01": "again"', '"40P01": "refused"')),
    damage("SQL a serialisation failure is an error", f"{DATABASES} serialise",
           (SQL_TROUBLE, '"40001": "again"', '"40001": "refused"')),
    damage("SQL a locked SQLite file is an error", f"{OPENING} sqlite", (SQL_TROUBLE, '    5: "again"', '    5: "refused"')),
    damage("SQL an SQLite file may be read by all", f"{OPENING} owners_alone", ("stores/sql/drivers.py", "0o600", "0o644")),
    damage("SQL a process forks while a thread has an SQLite file in hand", f"{FORKING} loop_runs and sqlite",
           ("stores/sql/files.py", "            self._changed.wait_for(lambda: not self._in_hand, _PATIENCE)\n", "")),
    damage("SQL a child inherits the open SQLite file", f"{FORKING} used_before",
           ("stores/sql/files.py", "            shelf.clear()\n", "            pass\n")),
    damage("SQL a child takes its parent's connections out of its loop", f"{FORKING} loop_runs and mariadb",
           (SQL_STORE, "_OF_PARENTS.extend(self._runners.values())", "[runner.forget() for runner in self._runners.values()]")),
    damage("SQL what was deleted before the answer was lost is called absent", f"{DATABASES} r6_an_answer and async",
           (SQL_CORE, "again=lambda: self.verbs.delete_again(session_id)", "again=lambda: self.verbs.delete(session_id)")),
    damage("SQL who cannot make tables keeps others from it", f"{TABLES} cannot_make and async",
           (SQL_CORE, "clean = lost and self._checked and call.needs_tables", "clean = lost")),
    damage("SQL tables are made without MariaDB's lock", f"{TABLES} nor_on and async",
           (SQL_VERBS, "        if not is_ours:\n", "        if False:\n")),
    damage("SQL a dropped table is only called a relation", f"{TABLES} dropped",
           (SQL_CORE, '                elif kind == "missing":\n                    raise', '                elif False:\n                    raise')),
    damage("SQL a duplicate is tried again until time is over", f"{OPENING} duplicate",
           (SQL_TROUBLE, '1062: "duplicate"', '1062: "again"')),
    damage("SQL a file that cannot be written says nothing of that", (f"{OPENING} may_not_be_written", f"{OPENING} without_room"),
           (SQL_TROUBLE, 'f"{words}. {_OF_SQLITE[code]}" if code in _OF_SQLITE else words', "words")),
    damage("SQL a locked file is only slow", f"{OPENING} costs_the_others", (SQL_CORE, 'if self.lost else ""', 'if False else ""')),
    damage("SQL any id is compared", f"{INPUT} nobodys and mariadb",
           (SQL_VERBS, "        if not is_session_id(session_id):  # MySQL", "        if False:  # MySQL")),
    damage("SQL a record of any kind is sent", f"{INPUT} by_name", (SQL_VERBS, "        check_new(new)\n", ""),
           ("stores/sql/postgresql.py", "        check_new(new)\n", "")),
    damage("SQL a commit of any kind is sent", f"{INPUT} by_name", (SQL_VERBS, "        check_changes(session_id, changes)\n", ""),
           ("stores/sql/postgresql.py", "        check_changes(session_id, changes)\n", "")),
    damage("SQL what a driver refuses to send is unknown", f"{INPUT} not_sent",
           (SQL_TROUBLE, 'type(error).__name__ == "DataError"', "False")),
    damage("SQL an addend of more than 64 bits counts", f"{SQL} SQLite and would_leave",
           ("record.py", "addend not in COUNTER_RANGE or ", ""), ("stores/sql/columns.py", "if addend not in COUNTER_RANGE:", "if False:")),
    damage("SQL psycopg is closed where SQLAlchemy refuses to", f"{OPENING} without_a_word",
           ("stores/sql/lines.py", "self._is_cut_anywhere = dialect.has_terminate", "self._is_cut_anywhere = True")),
    damage("SQL a loop that ended keeps an SQLite file open", f"{OPENING} ended_without",
           (SQL_STORE, "        self._threads.shutdown(wait=False)\n        self._desk.close()\n", "        self._threads.shutdown(wait=False)\n        self._desk.forget()\n")),
    damage("SQL a sweep waits for what others have in hand", f"{TABLES} in_hand",
           ("stores/sql/postgresql.py", "FOR UPDATE SKIP LOCKED", "FOR UPDATE")),
    damage("SQL a sweep removes who is alive", f"{TABLES} nothing_else",
           ("stores/sql/postgresql.py", "WHERE sweep_hour <= {self.now}", "WHERE sweep_hour <= 99999999 + {self.now}")),
    damage("SQL tables of any version will do", f"{TABLES} another_version",
           (SQL_CORE, "raise StoreUnavailable(self.store, advice(version))\n        self._checked = True\n", "pass\n        self._checked = True\n")),
    damage("SQL what was emptied by a crash lacks its tables' version", f"{TABLES} as_named",
           ("stores/sql/schema.py", 'Column("version", Integer, primary_key=True), **usual)', 'Column("version", Integer, primary_key=True), **usual, **emptied_by_a_crash)')),
    # --- all-to-all: R5, R8 to R11, R16, CVE-2026-34486 ---------------------------------------------------------------
    damage("R16 all-to-all: the larger sum is taken, not both", (f"{MERGE} add_up", f"{PEERS} exact"),
           (MERGING, "total = int(self.text or \"0\") + sum(amount for _, amount in self.adds.values())",
            "total = int(self.text or \"0\") + max(amount for _, amount in self.adds.values())")),
    damage("R16 all-to-all: a copy replaces the other whole", f"{MERGE} equal_in_whatever and not id_taken",
           (MERGING, "    cells = one.copy()\n    for name, cell in other.items():", "    cells = other.copy()\n    for name, cell in ():")),
    damage("R16 all-to-all: nobody is asked under require_unchanged", f"{PEERS} unchanged",
           (REPLICATED, "        if changes.unchanged:\n            return await", "        if False:\n            return await")),
    damage("R5 all-to-all: a commit is answered before the others have it", f"{PEERS} at_that_moment",
           (REPLICATED, "        if everyone or ack == \"all\":\n            return None\n", "        if everyone or ack == \"all\":\n            return 0\n")),
    damage("R5 all-to-all: a peer says that it heard what it has not taken in", f"{PEERS} at_that_moment",
           (CLUSTER_OF_PEERS, "                self._learn(self._credible(peer, news))\n                for claim", "                for claim")),
    damage("R8 all-to-all: deletions are not remembered", (f"{MERGE} revives", f"{ALL_TO_ALL} one_side_of_a_cut"),
           (REPLICA, "            if session_id in self._deleted:\n                continue", "            if False:\n                continue"),
           (REPLICA, "            elif session_id in self._deleted:\n                news.append", "            elif False:\n                news.append")),
    damage("R8 all-to-all: who was away for long brings back what was logged out", f"{ALL_TO_ALL} forgotten_meanwhile",
           (CLUSTER_OF_PEERS, "return peer.parted_ms is not None and self._clock_ms() - peer.parted_ms > self._remember_ms", "return False")),
    damage("R8 all-to-all: a commit that a login made void counts", f"{PEERS} login_beside",
           (REPLICATED, "if self._replica.generation_of(session_id) == generation:", "if True:")),
    damage("R8 all-to-all: a login is a change like any other", f"{MERGE} login_ends",
           (MERGING, "return delta if changes.renewal.grace_ms else _next_generation(join(state, delta), after, stamp)", "return delta")),
    damage("R9 all-to-all: a gap goes unnoticed", f"{PEERS} lost_on_the_way",
           (CLUSTER_OF_PEERS, "head.node != peer.node or head.number != peer.next or ", "head.node != peer.node or ")),
    damage("R9 all-to-all: copies are never compared again", f"{ALL_TO_ALL} found_by_comparing",
           (CLUSTER_OF_PEERS, "now - peer.compared_at > self._compare:", "False:")),
    damage("R10 all-to-all: a joiner serves before it has all", f"{ALL_TO_ALL} pieces",
           (CLUSTER_OF_PEERS, "            if not all(peer.synced and peer.waits and peer.walk is None for peer in heard):\n                return\n", "")),
    damage("R10 all-to-all: who finds nobody starts anyway", f"{PEERS} too_few",
           (CLUSTER_OF_PEERS, "if self._needs_quorum and len(heard)", "if False and len(heard)")),
    damage("R10 all-to-all: the donor sends all at once", f"{ALL_TO_ALL} pieces",
           (REPLICA, "            if news and size + (0 if entry is None else entry.size) > most_bytes:\n", "            if False:\n"),
           (CLUSTER_OF_PEERS, "_AT_ONCE = 500", "_AT_ONCE = 100_000"),
           (REPLICA, "return (ord(session_id[0]) * 31 + ord(session_id[1])) % BUCKETS", "return 0")),
    damage("R10 all-to-all: a joiner does not wait for what others are taking over", f"{ALL_TO_ALL} does_not_hear",
           (CLUSTER_OF_PEERS, "default=Stage.STARTING) == Stage.JOINING:", "default=Stage.STARTING) is None:")),
    damage("R10 all-to-all: who slept shows what was before", f"{ALL_TO_ALL} nothing_old",
           (CLUSTER_OF_PEERS, "            self._wake(now)\n", "            pass\n"),
           (CLUSTER_OF_PEERS, "return self.ready and self._now() - self._ticked_at <= self._silence", "return self.ready")),
    damage("R5 all-to-all: what is under way to a peer that hangs has no limit", f"{ALL_TO_ALL} hangs",
           (CLUSTER_OF_PEERS, "                self._forget_way(peer)\n                self._drop(peer.address)", "                pass"),
           (CLUSTER_OF_PEERS, "peer.in_flight > self._max_queue // 2", "False")),
    damage("R12 all-to-all: a list of sessions waits as long as it likes", f"{PEERS} list_of_sessions",
           (REPLICATED, "        await self._serving(self._deadline(timeout))\n        return self._replica.sessions_of", "        await self._serving(self._deadline(None))\n        return self._replica.sessions_of")),
    damage("R9 all-to-all: names are looked up once", f"{ALL_TO_ALL} stable_names",
           ("stores/replicated/address.py", 'return self.source != "list" or not all(map(has_ip, self.peers))', "return False")),
    damage("R9 all-to-all: who is not listed yet gives up", f"{ALL_TO_ALL} come_and_go",
           (REPLICATED, 'if target.source != "list" or not all(', "if False and not all(")),
    damage("R14 all-to-all: a message may be of any size", f"{PEERS} is_not_taken",
           (POST, "        inbox.set(zmq.MAXMSGSIZE, self._max_message)\n", "")),
    damage("R20 all-to-all: an id that is none is taken in", f"{PEERS} cannot_be_understood",
           (CLUSTER_OF_PEERS, "return all(is_session_id(item.session_id) for item in news)", "return True")),
    damage("R14 all-to-all: remembered logouts take no room", f"{MERGE} somebody_waits_for",
           (REPLICA, "                self.bytes += _A_LOGOUT\n", "")),
    damage("R14 all-to-all: a session may fill a message alone", f"{PEERS} still_fits",
           (REPLICA, "self._max_message // (self.servers + 1)", "self._max_message // 2")),
    damage("R11 all-to-all: times travel as they stand on the clock", (f"{MERGE} hour_apart", f"{ALL_TO_ALL} their_time"),
           (REPLICA, "        return Applied(1, now), News(new.session_id, shifted(state, -now))", "        return Applied(1, now), News(new.session_id, state)"),
           (REPLICA, "            state = shifted(item.state, now)\n", "            state = item.state\n")),
    damage("R11 all-to-all: the wall clock decides who was later", f"{ALL_TO_ALL} decide_nothing",
           (MERGING, "        self._last = max(self._last + 1, self._clock() - self._zero)\n        return self._last, self.node",
            "        import time\n        self._last = int(time.time() * 1000)\n        return self._last, self.node")),
    damage("R11 all-to-all: each copy prolongs a session", f"{MERGE} prolongs",
           (MERGING, "    return one if one.at <= other.at else other", "    return one if one.at >= other.at else other")),
    damage("R2 all-to-all: strangers are let in", f"{PEERS} clusters_key",
           (POST, 'welcome = mechanism == b"CURVE" and credentials == [ours]', "welcome = True")),
    damage("R20 all-to-all: what cannot be understood ends the cluster", f"{PEERS} cannot_be_understood",
           (CLUSTER_OF_PEERS, "        except (msgspec.DecodeError, ValueError, LookupError, RecursionError):", "        except ZeroDivisionError:")),
]  # fmt: skip


class Misfit(Exception):
    """A damage that no longer fits the code it is to be done to."""


def broken_copy(folder: Path, edits: Iterable[tuple[str, str, str]]) -> None:
    shutil.copytree(PACKAGE, folder / "coatcheck", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in edits:
        path = folder / "coatcheck" / file
        text = path.read_text("utf-8")
        if text.count(old) != 1:
            raise Misfit(f"{file} has this {text.count(old)} times, not once: {old.strip().splitlines()[0]}")
        path.write_text(text.replace(old, new), "utf-8")


def run(folder: Path, tests: str) -> tuple[bool, list[str]]:
    """Whether the tests pass with the package in `folder`, and which of them fail."""
    file, _, expression = tests.partition(" ")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-x", file]
    command += ["-o", "faulthandler_timeout=60", "-o", "faulthandler_exit_on_timeout=true"]
    if expression:
        command += ["-k", expression]
    environment = os.environ | {"PYTHONPATH": str(folder), "COATCHECK_STORM": STORM, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False, [f"(no end within {SECONDS} s)"]
    if done.returncode in (2, 4, 5):  # interrupted, wrong usage, no tests
        raise Misfit(f"{tests}: {done.stdout.strip().splitlines()[-1:]}")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return done.returncode == 0, failed or ["(the test process ended)"]


def uses_the_copy(folder: Path) -> bool:
    shown = subprocess.run(
        [sys.executable, "-c", "import coatcheck; print(coatcheck.__file__)"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return shown.stdout.startswith(str(folder))


def see(one: Damage) -> tuple[bool, str]:
    """Whether all of its tests notice the damage, and what is to be told."""
    noticed, lines = True, []
    with tempfile.TemporaryDirectory() as name:
        try:
            broken_copy(Path(name), one.edits)
            for tests in one.tests:
                passed, failed = run(Path(name), tests)
                noticed &= not passed
                lines.append(f"    {'NOT NOTICED by ' + tests if passed else 'noticed by ' + failed[0]}")
        except Misfit as misfit:
            noticed = False
            lines.append(f"    DOES NOT FIT: {misfit}")
    return noticed, "\n".join([one.name, *lines])


def main() -> int:
    wanted = [one for one in DAMAGES if all(word.lower() in one.name.lower() for word in sys.argv[1:])]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        broken_copy(Path(name), ())
        if not uses_the_copy(Path(name)):
            print("the copy is not what Python imports: is the package installed in an unusual way?")
            return 1
        print("First the unbroken copy:", flush=True)
        for tests in sorted({tests.partition(" ")[0] for one in wanted for tests in one.tests}):
            passed, failed = run(Path(name), tests)
            print(f"    {tests}: {'passes' if passed else 'FAILS: ' + ', '.join(failed)}", flush=True)
            if not passed:
                return 1
    unnoticed = []
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:
        for one, (noticed, text) in zip(wanted, pool.map(see, wanted), strict=True):
            print(text, flush=True)
            if not noticed:
                unnoticed.append(one.name)
    print(
        f"\n{len(wanted) - len(unnoticed)} of {len(wanted)} damages were noticed, in {time.monotonic() - began:.0f} s"
    )
    for missing in unnoticed:
        print(f"NOT NOTICED: {missing}")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
