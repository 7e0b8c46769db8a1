"""What can go wrong, in words that say what to do next.

Every exception of coatcheck derives from `CoatcheckError` and builds its own message from the facts it is given.
None of them ever carries a ticket's secret.
"""

from __future__ import annotations

from typing import Literal


class CoatcheckError(Exception):
    """The root of every exception that coatcheck raises on purpose."""


class ConfigurationError(CoatcheckError, ValueError):
    """A setting that cannot work, refused at start."""

    def __init__(self, setting: str, value: object, problem: str, next_step: str) -> None:
        super().__init__(f"{setting}={value!r}: {problem}. {next_step}")
        self.setting = setting
        self.value = value


class InsecureCookieWarning(UserWarning):
    """The session cookie may travel over plain HTTP, where anybody on the way can read and use it."""


class UnstorableValue(CoatcheckError, TypeError):
    """A value of the application that no store can keep. Nothing has been written."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(
            f"session field {field!r} cannot hold this {type(value).__qualname__}: {problem}. "
            "Store str, int, float, bool, None, bytes, datetime, date, time, timedelta, Decimal, UUID, "
            "or a list, tuple, set, frozenset or dict of them"
        )
        self.field = field


class BadFieldName(CoatcheckError, ValueError):
    """A name, or a map's key, that cannot name a field. Nothing has been written."""

    def __init__(self, name: object) -> None:
        super().__init__(
            f"{name!a} cannot name a session field: a name, or a map's key, is a string of valid Unicode, and a name "
            "is not empty and does not begin with '@'"
        )


class TooLong(CoatcheckError, ValueError):
    """The name of a field, or of an owner, for which the store has no room. Nothing has been written."""

    def __init__(self, kind: Literal["field", "owner"], name: str, length: int, limit: int) -> None:
        what, next_step = {
            "field": ("the name of session field", "Use a shorter name, or a shorter key of the map"),
            "owner": ("the owner", "Use a shorter one, such as the user's id"),
        }[kind]
        super().__init__(
            f"{what} {name[:40] + '…'!r} has {length} bytes, and this store has room for {limit}. {next_step}"
        )


class UnreadableField(CoatcheckError, KeyError):
    """One stored field that cannot be decoded. The session's other fields stay readable.

    It is a `KeyError`, so `session.get(name)` and `name in session` treat the field as absent, and assigning to it heals it.
    """

    def __init__(self, field: str, session_id: str, problem: str) -> None:
        super().__init__(field)
        self.field = field
        self.session_id = session_id
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"session field {self.field!r} of session {self.session_id} cannot be read: {self.problem}. "
            "It counts as absent; assign to it or delete it to heal it"
        )


class NotACounter(CoatcheckError, TypeError):
    """An increment of a field that holds something other than a 64-bit integer. Nothing has been written."""

    def __init__(self, field: str, problem: str = "it does not hold an integer") -> None:
        super().__init__(
            f"session field {field!r} cannot be incremented: {problem}. Set it to an integer within 64 bits first"
        )
        self.field = field


class TooLate(CoatcheckError, RuntimeError):
    """A change to the session that can no longer reach the browser or the store."""

    def __init__(self, attempt: str, reason: str, next_step: str) -> None:
        super().__init__(f"{attempt}: {reason}. {next_step}")
        self._facts = (attempt, reason, next_step)

    def anew(self) -> TooLate:
        """The same, to be raised: an exception raised twice would add up tracebacks, and keep all that they refer to."""
        return TooLate(*self._facts)


class NotLoaded(CoatcheckError, RuntimeError):
    """A look at a session that is loaded on request only, before it was."""

    def __init__(self) -> None:
        super().__init__("the session has not been loaded yet. Call `await session.load()` first, or use load='eager'")


class SessionGone(CoatcheckError):
    """The session ended, or its ticket was renewed, while this request ran. Its changes were refused.

    A commit never recreates a session: logout is final, however slow the other request was.
    """

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id} ended or was renewed while this request ran; its changes were not saved. "
            "Repeat the request with the browser's present cookie"
        )
        self.session_id = session_id


class Conflict(CoatcheckError):
    """Another request changed the session, and the handler had asked for `session.require_unchanged()`."""

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id} was changed by another request since this one read it; nothing was saved, "
            "because the handler asked for require_unchanged(). Read again and repeat"
        )
        self.session_id = session_id


class SessionExists(CoatcheckError):
    """`create` met a record with the same session id. An id is never reused."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id} exists already; a new session needs a new id")
        self.session_id = session_id


class CorruptRecord(CoatcheckError):
    """The store holds something under this session id that is not a session record."""

    def __init__(self, session_id: str, problem: str) -> None:
        super().__init__(
            f"the record of session {session_id} cannot be read: {problem}. "
            "It is left as it is and counts as no session; the user gets a new one"
        )
        self.session_id = session_id
        self.problem = problem


class StoreError(CoatcheckError):
    """The store did not do what it was asked. Says nothing about whether the session exists."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, or did not answer in time. Nothing is known about the session.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, store: str, problem: str, *, retry_after: int = 1) -> None:
        super().__init__(f"session store {store} is unavailable: {problem}")
        self.store = store
        self.retry_after = retry_after


class OutcomeUnknown(StoreUnavailable):
    """A commit was sent, and whether it was applied cannot be known. It was not applied twice."""

    def __init__(self, store: str, session_id: str, problem: str) -> None:
        super().__init__(
            store,
            f"{problem}; the changes to session {session_id} may or may not have been saved, but not twice. "
            "Read the session again before repeating them",
        )
        self.session_id = session_id


class StoreFull(StoreUnavailable):
    """The store has no room for a write. Reading and logging out still work."""

    def __init__(
        self, store: str, problem: str, next_step: str = "Give it more room, or shorten the idle timeout"
    ) -> None:
        super().__init__(store, f"it is full ({problem}). {next_step}", retry_after=30)


class ForeignReply(StoreError):
    """The store's answer belongs to another request. The connection has been dropped; no data was handed out."""

    def __init__(self, store: str, session_id: str, problem: str) -> None:
        super().__init__(
            f"session store {store} answered a request for session {session_id} with something else ({problem}). "
            "The connection was dropped. If this happens again, something between here and the store mixes up replies"
        )
        self.session_id = session_id
