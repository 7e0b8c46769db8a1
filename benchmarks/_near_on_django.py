"""Sessions of Django like those of `coatcheck.django` in the same process, but with a near cache, for `SESSION_ENGINE`."""

from __future__ import annotations

from functools import cache

from django.conf import settings

from coatcheck import django as ours


@cache
def _engine() -> ours._Engine:
    return ours._Engine(settings.COATCHECK_NEAR)


class SessionStore(ours.SessionStore):
    """Runs on the other of two engines: a process has but one, by the setting `COATCHECK`."""

    def __init__(self, session_key: str | None = None) -> None:
        self._engine = _engine()
        self.accessed = False
        self._changed = False
        self._session_key = session_key
