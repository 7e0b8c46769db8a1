"""The decisions of a session's life: who is let in, what is written back, which cookie goes out. Nothing here waits.

A request goes `ticket_of` -> (store.read) -> `admit` -> the handler -> `plan` -> (store.delete, create, update) -> `settle`.
The managers, sync and async, do what stands in brackets and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

from coatcheck.changes import Applied, Changes, NewRecord, Renewal
from coatcheck.cookie import Cookie
from coatcheck.record import Record, created
from coatcheck.session import NO_DELTA, Before, Delta, Session
from coatcheck.settings import Settings
from coatcheck.ticket import Ticket, new_operation_id, same_hash

CookieAction: TypeAlias = Literal["write", "erase"] | None


def ticket_of(headers: Iterable[Any], cookie: Cookie) -> tuple[Ticket | None, str]:
    """The ticket that a request shows; or `None` and, if something unusable was shown, why it is refused."""
    values = cookie.find(headers)
    if not values:
        return None, ""
    if len(values) > 1:
        return None, "duplicate cookie"
    ticket = Ticket.parse(values[0])
    return ticket, "" if ticket else "malformed"


def admit(session: Session, ticket: Ticket, record: Record | None) -> str:
    """Give the session the record if the ticket opens it. Returns why not, or `""`."""
    refusal = "unknown or expired" if record is None else refusal_of(ticket, record)
    session.admit(None if refusal else record)
    return refusal


def refusal_of(ticket: Ticket, record: Record) -> str:
    """Why the ticket does not open the record, or `""`."""
    if not record.accepts(ticket.secret_hash, record.read_at_ms):
        return "wrong secret"
    return "expired" if record.expires_ms <= record.read_at_ms else ""


class Plan:
    """What the store must do at the end of a request, in this order. At most one of `create` and `update` is set.

    Attributes:
        delete: id of a session that the handler destroyed.
        create: a new session.
        update: changes to the session that was read.
        shown: the session's ticket when this was planned.
        delta: the changes to fields.
        session: whose plan it is, once it has begun.
        before: what `Session.take_back` needs, if the store refuses.
        essential: whether the request fails if the update does; a mere touch is not worth failing for.
        ticket: what the browser is to hold afterwards.
    """

    __slots__ = ("before", "create", "delete", "delta", "essential", "session", "shown", "ticket", "update")

    def __init__(
        self,
        *,
        delete: str | None = None,
        create: NewRecord | None = None,
        update: Changes | None = None,
        essential: bool = True,
        ticket: Ticket | None = None,
        shown: Ticket | None = None,
        delta: Delta = NO_DELTA,
    ) -> None:
        self.delete = delete
        self.create = create
        self.update = update
        self.essential = essential
        self.ticket = ticket
        self.shown = shown
        self.delta = delta
        self.session: Session | None = None
        self.before: Before | None = None

    def refused(self) -> None:
        """The store did nothing of it: the session counts as changed again."""
        if self.session is not None and self.before is not None:
            self.session.take_back(self.before)


NOTHING: Final = Plan()
"""The plan of a request that changed nothing and has nothing due."""


def is_settled(session: Session, settings: Settings) -> bool:
    """Whether nothing has to be done for this session: what most requests end with, told in a few steps."""
    if session._pending is not None or session._watched is not None:  # what can be changed in place has to be compared
        return False
    if session._renew or session._ended is not None or session._unreadable is not None:
        return False
    record = session._record
    if record is None:
        return True
    return settings.renew_ms is None and not _touch_is_due(record, settings)


def _touch_is_due(record: Record, settings: Settings) -> bool:
    return record.read_at_ms - record.touched_ms >= settings.touch_ms


def plan(session: Session, settings: Settings, *, surely: bool = False) -> Plan:
    """What has to be done so that the store holds what the handler meant.

    Args:
        session: whose.
        settings: what governs its life.
        surely: the store is told even if nothing changed: a new session is created, another one touched, and a refusal of
            that counts like any other.

    Raises:
        UnstorableValue: a value changed in place so that it can no longer be stored. Nothing has been written.
    """
    record = session._record
    if record is None:
        return _plan_without_record(session, settings, surely) if session.looked_at or surely else NOTHING
    ticket = session.ticket
    assert ticket is not None  # only a ticket leads to a record
    if session.looked_at:
        delta = session.delta()
        if delta or session._renew:
            return _plan_update(session, record, ticket, delta, settings)
    renewed, renewal = _periodic_renewal(session, record, ticket, settings)
    if surely or renewal is not None or _touch_is_due(record, settings):
        touch = Changes(
            proof=ticket.secret_hash, idle_ms=settings.idle_ms, owner=_indexed_owner(record), renewal=renewal,
            seen=ticket.seen,
        )  # fmt: skip
        return Plan(update=touch, essential=surely, ticket=renewed, shown=ticket)
    return NOTHING


def _plan_without_record(session: Session, settings: Settings, surely: bool) -> Plan:
    """An anonymous request that stores nothing makes no record: no crowd of visitors can fill the store."""
    delta = session.delta()
    if not delta.sets and session._owner is None and not surely:
        return Plan(delete=session._ended) if session._ended else NOTHING
    ticket = session.ticket = session.ticket or Ticket.new()
    new = NewRecord(
        session_id=ticket.session_id,
        secret_hash=ticket.secret_hash,
        fields=delta.sets,
        idle_ms=settings.idle_ms,
        absolute_ms=settings.absolute_ms,
        owner=session._owner,
        operation=new_operation_id(),
    )
    return Plan(delete=session._ended, create=new, ticket=ticket, shown=ticket, delta=delta)


def _plan_update(session: Session, record: Record, ticket: Ticket, delta: Delta, settings: Settings) -> Plan:
    if session._renew:
        renewed = ticket.renewed()
        renewal: Renewal | None = Renewal(secret_hash=renewed.secret_hash)
    else:
        renewed, renewal = _periodic_renewal(session, record, ticket, settings)
    changes = Changes(
        proof=ticket.secret_hash,
        idle_ms=settings.idle_ms,
        operation=new_operation_id(),
        read_version=record.version,
        unchanged=session._unchanged,
        retain=delta.retain,
        sets=delta.sets,
        deletes=delta.deletes,
        increments=delta.increments,
        renewal=renewal,
        owner=session._owner or _indexed_owner(record),
        absolute_ms=None if session._owner is None else settings.absolute_ms,
        seen=ticket.seen,
    )
    return Plan(update=changes, ticket=renewed, shown=ticket, delta=delta)


def _indexed_owner(record: Record) -> str | None:
    """The owner, where an index of owners must be told of each touch: nothing else bounds how long the session lives."""
    return record.owner if record.deadline_ms is None else None


def _periodic_renewal(
    session: Session, record: Record, ticket: Ticket, settings: Settings
) -> tuple[Ticket, Renewal | None]:
    """A new ticket, where the present one has grown old; otherwise the present one."""
    if settings.renew_ms is None or session._undeliverable is not None:
        return ticket, None
    age_ms = record.read_at_ms - record.renewed_ms
    # Whoever shows the previous ticket gets no new one for it: it may have been stolen before it was replaced.
    if age_ms < settings.renew_ms or not same_hash(ticket.secret_hash, record.secret_hash):
        return ticket, None
    renewed = ticket.renewed()
    return renewed, Renewal(
        secret_hash=renewed.secret_hash, grace_ms=settings.renew_grace_ms, replaces=record.secret_hash
    )


def begin(session: Session, plan: Plan) -> None:
    """The store sets to work: the session counts the changes as done, and what is changed from now on comes on top."""
    if plan.essential and plan is not NOTHING:
        plan.session, plan.before = session, session.advance(plan.delta)


def settle(session: Session, plan: Plan, applied: Applied | None, settings: Settings) -> CookieAction:
    """Note what the store did, and decide about the cookie. `applied` is `None` if nothing was created or updated."""
    if plan.session is None:
        begin(session, plan)
    if applied is None:
        return "erase" if plan.delete else None
    if session.ticket is not plan.shown:  # the handler destroyed the session while the store was at work
        if plan.create is not None:
            session.end_also(plan.create.session_id)
        return None
    if plan.create is not None:
        session.settle(created(plan.create, applied.touched_ms), applied)
        return "write"
    record, changes = session._record, plan.update
    assert changes is not None
    assert record is not None
    touched_before = record.touched_ms
    _note(record, changes, applied)
    session.settle(record, applied)
    if applied.renewed:
        session.ticket = plan.ticket
        return "write"
    if changes.renewal is not None or applied.by_previous:
        return None  # a request beside this one renewed the ticket: its answer carries the new one
    # A cookie with an age of its own is counted anew by sending it again, but no more often than a touch is due: each
    # time it may overtake, on its way to the browser, a new ticket from a login beside this request.
    again = settings.cookie.max_age is not None and applied.touched_ms - touched_before >= settings.touch_ms
    return "write" if again else None


def _note(record: Record, changes: Changes, applied: Applied) -> None:
    """What this request knows of the record now, its fields aside: what others changed shows at the next read."""
    record.version = applied.version
    record.touched_ms = record.read_at_ms = applied.touched_ms
    record.idle_ms = changes.idle_ms
    if changes.owner is not None:
        record.owner = changes.owner
    if changes.absolute_ms is not None:
        record.deadline_ms = applied.touched_ms + changes.absolute_ms
    if applied.renewed and changes.renewal is not None:
        record.secret_hash = changes.renewal.secret_hash
        record.renewed_ms = applied.touched_ms
