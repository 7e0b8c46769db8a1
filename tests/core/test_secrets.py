"""No secret where many can read it, and no secret compared in a way that tells how much of it is right."""

from __future__ import annotations

import ast
import inspect
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

import coatcheck
from coatcheck import errors
from coatcheck.changes import Applied, Renewal
from coatcheck.events import Event
from coatcheck.lifecycle import admit, plan
from coatcheck.record import apply
from coatcheck.session import Session
from coatcheck.settings import Settings
from coatcheck.stores.memory import MemoryStore
from coatcheck.ticket import Ticket
from tests.core.tools import CODEC, HOUR, NOW, stored

PACKAGE = Path(inspect.getfile(coatcheck)).parent
CORE = [
    "session", "record", "ticket", "cookie", "codec", "lifecycle", "settings", "errors", "events", "manager",
    "stores/memory", "stores/opening", "stores/interface",
]  # fmt: skip

# --- comparisons -----------------------------------------------------------------------------------------------------


def names_in(node: ast.AST) -> set[str]:
    return {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)} | {
        each.id for each in ast.walk(node) if isinstance(each, ast.Name)
    }


def comparisons_of_secrets(source: str) -> Iterator[str]:
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Compare) and not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
                told = ast.unparse(node)
                names = names_in(node)
                if any(part in name for name in names for part in ("secret", "hash", "proof", "cookie_value")):
                    yield f"{function.name}: {told}"


# Both sides of these are the server's own; nothing that a browser sent takes part.
OUR_OWN = {
    "apply: record.secret_hash == changes.renewal.secret_hash",
    "apply: renewal.replaces in (None, record.secret_hash)",
    "apply: renewal.secret_hash == record.secret_hash",
}


def test_secrets_are_compared_by_one_function_only() -> None:
    """CVE-2013-0263. That one takes constant time; see test_ticket.py."""
    found = {line for module in CORE for line in comparisons_of_secrets((PACKAGE / f"{module}.py").read_text("utf-8"))}
    assert found == OUR_OWN


def test_a_careless_comparison_would_be_found() -> None:
    careless = "def admit(ticket, record):\n    return ticket.secret_hash == record.secret_hash"
    assert list(comparisons_of_secrets(careless)) == ["admit: ticket.secret_hash == record.secret_hash"]


# --- what is shown ---------------------------------------------------------------------------------------------------


MANY = "four thousand"  # told nowhere, not even as a line of the source in a traceback


class Secrets:
    """A session with things that nobody else must read, and everything that is made of it on its way."""

    def __init__(self) -> None:
        self.ticket = Ticket.new()
        self.after = self.ticket.renewed()
        self.record = stored(
            self.ticket,
            {"card": '"four thousand"', "broken": "four thousand", "n": "40015"},
            previous_hash=self.after.secret_hash,
            previous_until_ms=NOW + HOUR,
            touched_ms=NOW - HOUR,
        )
        self.session = Session(CODEC, self.ticket)
        assert admit(self.session, self.ticket, self.record) == ""
        self.session["other"] = "four thousand"
        self.session["card"] += " and one"
        self.session.increment("n", 40015)
        self.session.get("broken")

    def hidden(self) -> list[str]:
        return [
            self.ticket.cookie_value[16:], self.after.cookie_value[16:],
            self.ticket.secret_hash, self.after.secret_hash, "thousand", "40015",
        ]  # fmt: skip

    def everything(self) -> list[Any]:
        todo = plan(self.session, Settings(renew_every=1))
        assert todo.update is not None
        assert todo.update.renewal is not None
        anonymous = Session(CODEC)
        anonymous["card"] = "four thousand"
        return [
            self.ticket, self.record, self.session, self.session.map("card"), self.session.delta(), todo, todo.update,
            todo.update.renewal, plan(anonymous, Settings()), anonymous, *self.session.take_unreadable(),
            Renewal(secret_hash=self.after.secret_hash, replaces=self.ticket.secret_hash),
        ]  # fmt: skip


def test_no_repr_on_the_way_of_a_session_shows_a_secret_or_a_value() -> None:
    secrets = Secrets()
    everything = secrets.everything()
    for thing in [*everything, everything]:
        for shown in (repr(thing), str(thing), f"{thing}"):
            for secret in secrets.hidden():
                assert secret not in shown
    assert secrets.ticket.session_id in repr(secrets.record), "the id may be shown"
    assert "card" in repr(secrets.record), "and so may the names of fields"


def failures(secrets: Secrets) -> list[Any]:
    """Everything that can go wrong with it."""
    store = MemoryStore(max_sessions=1)
    todo = plan(secrets.session, Settings())
    changes = todo.update
    assert changes is not None

    def unreadable() -> None:
        secrets.session["broken"]

    def unstorable() -> None:
        secrets.session["card"] = {MANY: object()}

    def no_counter() -> None:
        secrets.session.increment("card")

    def gone() -> None:
        store.update(secrets.ticket.session_id, changes)

    def refused() -> None:
        apply(secrets.record, structs.replace(changes, proof="0" * 64), secrets.ticket.session_id, NOW)

    def conflict() -> None:
        conflicting = structs.replace(changes, unchanged=True, read_version=1)
        apply(secrets.record, conflicting, secrets.ticket.session_id, NOW)

    def not_a_counter() -> None:
        added = structs.replace(changes, increments={"card": 1})
        apply(secrets.record, added, secrets.ticket.session_id, NOW)

    return [unreadable, unstorable, no_counter, gone, refused, conflict, not_a_counter]


def test_no_exception_and_no_log_of_one_shows_a_secret_or_a_value(caplog: pytest.LogCaptureFixture) -> None:
    """CVE-2023-20866; with the local variables too, which error trackers collect."""
    secrets = Secrets()
    raised = 0
    for fail in failures(secrets):
        with caplog.at_level(logging.DEBUG):
            try:
                fail()
            except errors.CoatcheckError as error:
                raised += 1
                logging.getLogger("shop").exception("it failed: %r %s", error, error)
                told = traceback.TracebackException.from_exception(error, capture_locals=True)
                # The lines of this package; a handler's own variables are the application's.
                ours = "".join(
                    line
                    for frame in told.stack
                    if str(PACKAGE) in frame.filename and frame.locals
                    for name, line in frame.locals.items()
                    if name not in ("value", "text", "fields", "sets", "counters", "known")
                )
                for secret in secrets.hidden()[:4]:
                    assert secret not in ours
                for shown in (str(error), repr(error), "".join(told.format_exception_only())):
                    for secret in secrets.hidden():
                        assert secret not in shown
    assert raised == len(failures(secrets))
    for secret in secrets.hidden():
        assert secret not in caplog.text


def test_every_error_says_what_happened_and_what_to_do() -> None:
    told = [
        errors.ConfigurationError("idle_timeout", -1, "out of range", "Use a positive number of seconds"),
        errors.UnstorableValue("cart", object(), "its type cannot be stored"),
        errors.BadFieldName("@cart"),
        errors.TooLong("field", "x" * 2001, 2001, 2000),
        errors.UnreadableField("cart", "4vGkq0cWm2n8Zx1B", "unknown tag"),
        errors.NotACounter("cart"),
        errors.TooLate("change of a session", "the response has begun", "Change it earlier"),
        errors.NotLoaded(),
        errors.SessionGone("4vGkq0cWm2n8Zx1B"),
        errors.Conflict("4vGkq0cWm2n8Zx1B"),
        errors.SessionExists("4vGkq0cWm2n8Zx1B"),
        errors.CorruptRecord("4vGkq0cWm2n8Zx1B", "it has no @id"),
        errors.StoreUnavailable("redis://localhost", "connection refused"),
        errors.OutcomeUnknown("redis://localhost", "4vGkq0cWm2n8Zx1B", "no answer"),
        errors.StoreFull("redis://localhost", "OOM"),
        errors.ForeignReply("redis://localhost", "4vGkq0cWm2n8Zx1B", "another id"),
    ]
    named = {type(error) for error in told}
    for each in vars(errors).values():
        if inspect.isclass(each) and issubclass(each, errors.CoatcheckError):
            assert each in named or each in (errors.CoatcheckError, errors.StoreError), f"{each} is tested too"
    for error in told:
        assert isinstance(error, errors.CoatcheckError)
        assert len(str(error).split()) > 5


def test_an_error_of_the_store_is_never_taken_for_an_absent_session() -> None:
    """Down is not absent is not corrupt: whoever catches one does not catch the others."""
    down, absent, corrupt = errors.StoreUnavailable, errors.SessionGone, errors.CorruptRecord
    for one in (down, absent, corrupt):
        for other in (down, absent, corrupt):
            assert issubclass(one, other) == (one is other)
    assert issubclass(errors.OutcomeUnknown, down)
    assert issubclass(errors.StoreFull, down)
    assert not issubclass(errors.ForeignReply, down)


def test_an_event_has_room_for_an_id_and_a_few_words_only() -> None:
    assert Event.__slots__ == ("name", "session_id", "detail")


def test_answers_may_be_shown() -> None:
    assert (
        repr(Applied(2, NOW, {"hits": 3}))
        == f"Applied(version=2, touched_ms={NOW}, counters={{'hits': 3}}, renewed=False, by_previous=False, seen='')"
    )
