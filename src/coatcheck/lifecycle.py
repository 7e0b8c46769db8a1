"""The decisions of a session's life: who is let in, what is written back, which cookie goes out. Nothing here waits.

A request goes `ticket_of` -> (store.read) -> `admit` -> the handler -> `plan` -> (store.delete, create, update) -> `settle`.
The managers, sync and async, do what stands in brackets and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from coatcheck.cookie import Cookie
from coatcheck.record import Applied, Changes, NewRecord, Record, Renewal, created
from coatcheck.session import NO_DELTA, Delta, Session
from coatcheck.settings import Settings
from coatcheck.ticket import Ticket, new_operation_id, same_hash

CookieAction: TypeAlias = Literal["write", "erase"] | None


def ticket_of(headers: Iterable[tuple[bytes, bytes]], cookie: Cookie) -> tuple[Ticket | None, str]:
    """The ticket that a request shows; or `None` and, if something unusable was shown, why it is refused."""
    values = cookie.find(headers)
    if not values:
        return None, ""
    if len(values) > 1:
        return None, "duplicate cookie"
    ticket = Ticket.parse(values[0].decode("latin-1"))
    return ticket, "" if ticket else "malformed"


def admit(session: Session, ticket: Ticket, record: Record | None) -> str:
    """Give the session the record if the ticket opens it. Returns why not, or `""`."""
    refusal = ""
    if record is None:
        refusal = "unknown or expired"
    elif not record.accepts(ticket.secret_hash, record.read_at_ms):
        refusal = "wrong secret"
    elif record.expires_ms <= record.read_at_ms:
        refusal = "expired"
    session.admit(None if refusal else record)
    return refusal


class Plan(Struct):
    """What the store must do at the end of a request, in this order. At most one of `create` and `update` is set.

    Attributes:
        delete: id of a session that the handler destroyed.
        create: a new session.
        update: changes to the session that was read.
        shown: the session's ticket when this was planned.
        delta: the changes to fields.
        take_back: makes the session count as changed again, if the store refuses; set by `begin`.
        essential: whether the request fails if the update does; a mere touch is not worth failing for.
        ticket: what the browser is to hold afterwards.
    """

    delete: str | None = None
    create: NewRecord | None = None
    update: Changes | None = None
    essential: bool = True
    ticket: Ticket | None = None
    shown: Ticket | None = None
    delta: Delta = NO_DELTA
    take_back: Callable[[], None] | None = None

    def refused(self) -> None:
        """The store did nothing of it."""
        if self.take_back is not None:
            self.take_back()


NOTHING = Plan()
"""The plan of a request that changed nothing and has nothing due."""


def plan(session: Session, settings: Settings) -> Plan:
    """What has to be done so that the store holds what the handler meant.

    Raises:
        UnstorableValue: a value changed in place so that it can no longer be stored. Nothing has been written.
    """
    record = session._record
    if record is None:
        return _plan_without_record(session, settings) if session.looked_at else NOTHING
    ticket = session.ticket
    assert ticket is not None  # only a ticket leads to a record
    if session.looked_at:
        delta = session.delta()
        if delta or session._renew:
            return _plan_update(session, record, ticket, delta, settings)
    renewed, renewal = _periodic_renewal(session, record, ticket, settings)
    if renewal is not None or record.read_at_ms - record.touched_ms >= settings.touch_ms:
        touch = Changes(
            proof=ticket.secret_hash, idle_ms=settings.idle_ms, owner=_indexed_owner(record), renewal=renewal
        )
        return Plan(update=touch, essential=False, ticket=renewed, shown=ticket)
    return NOTHING


def _plan_without_record(session: Session, settings: Settings) -> Plan:
    """An anonymous request that stores nothing makes no record: no crowd of visitors can fill the store."""
    delta = session.delta()
    if not delta.sets and session._owner is None:
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
        plan.take_back = session.advance(plan.delta)


def settle(session: Session, plan: Plan, applied: Applied | None, settings: Settings) -> CookieAction:
    """Note what the store did, and decide about the cookie. `applied` is `None` if nothing was created or updated."""
    if plan.take_back is None:
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
    before = session._record
    assert plan.update is not None
    assert before is not None
    session.settle(_as_updated(before, plan.update, applied), applied)
    if applied.renewed:
        session.ticket = plan.ticket
        return "write"
    if plan.update.renewal is not None or applied.by_previous:
        return None  # a request beside this one renewed the ticket: its answer carries the new one
    # A cookie with an age of its own is counted anew by sending it again, but no more often than a touch is due: each
    # time it may overtake, on its way to the browser, a new ticket from a login beside this request.
    again = settings.cookie.max_age is not None and applied.touched_ms - before.touched_ms >= settings.touch_ms
    return "write" if again else None


def _as_updated(record: Record, changes: Changes, applied: Applied) -> Record:
    """What this request knows of the record now, its fields aside: what others changed shows at the next read."""
    now_ms = applied.touched_ms
    after = replace(record, version=applied.version, touched_ms=now_ms, read_at_ms=now_ms, idle_ms=changes.idle_ms)
    if changes.owner is not None:
        after.owner = changes.owner
    if changes.absolute_ms is not None:
        after.deadline_ms = now_ms + changes.absolute_ms
    if applied.renewed and changes.renewal is not None:
        after.secret_hash = changes.renewal.secret_hash
        after.renewed_ms = now_ms
    return after
