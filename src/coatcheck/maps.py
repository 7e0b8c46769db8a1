"""Maps whose entries are fields of a session."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from coatcheck.errors import BadFieldName, UnreadableField
from coatcheck.record import entry_field

if TYPE_CHECKING:
    from coatcheck.session import Session


class FieldMap(MutableMapping[str, Any]):
    """A map inside a session; see `Session.map`. It holds nothing itself: it is a view of the session's fields."""

    __slots__ = ("_name", "_session")

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name

    def __getitem__(self, key: str) -> Any:
        try:
            return self._session[self._sought(key)]
        except UnreadableField:
            raise
        except KeyError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        self._session[self._field(key)] = value

    def __delitem__(self, key: str) -> None:
        try:
            del self._session[self._sought(key)]
        except KeyError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        start = self._name + "["
        return iter([field[len(start) : -1] for field in self._session if field.startswith(start) and field[-1] == "]"])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and entry_field(self._name, key) in self._session

    def clear(self) -> None:
        """Remove all entries that this request sees."""
        for key in list(self):
            del self[key]

    def increment(self, key: str, by: int = 1) -> int:
        """Add `by` to an entry, exactly; see `Session.increment`."""
        return self._session.increment(self._field(key), by)

    def __repr__(self) -> str:
        return f"<map {self._name!r} of {self._session!r}>"

    def _sought(self, key: object) -> str:
        if not isinstance(key, str):  # 7 is not "7", though both would name the same field
            raise KeyError(key)
        return entry_field(self._name, key)

    def _field(self, key: str) -> str:
        if not isinstance(key, str):
            raise BadFieldName(key)
        return entry_field(self._name, key)
