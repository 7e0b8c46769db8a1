"""From a URL to a store."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, cast

from coatcheck.errors import ConfigurationError
from coatcheck.stores.interface import AsyncStore, SyncStore

# Import name of a client to the extra of coatcheck that brings it.
_EXTRAS = {"redis": "redis", "sqlalchemy": "sql", "zmq": "replicated"}


def open_store(url: str) -> AsyncStore:
    """The asynchronous store for a URL such as `memory://` or `redis://localhost:6379/0`.

    Opening does not connect: a store that is down is found out at its first use, and answered with 503.

    Another package adds a scheme with an entry point in the group `coatcheck.stores`: its name is the scheme, its object
    is called with the URL and returns an `AsyncStore`.

    Raises:
        ConfigurationError: no store for this scheme, a missing extra, or an option that the store does not know.
    """
    return cast(AsyncStore, _opener(url, "coatcheck.stores")(url))


def open_sync_store(url: str) -> SyncStore:
    """The synchronous store for a URL; see `open_store`. The group of entry points is `coatcheck.sync_stores`."""
    return cast(SyncStore, _opener(url, "coatcheck.sync_stores")(url))


def _opener(url: object, group: str) -> Callable[[str], Any]:
    if not isinstance(url, str) or "://" not in url:
        shown = without_password(url) if isinstance(url, str) else url
        raise ConfigurationError(
            "store", shown, "not a store URL", "Use one such as 'memory://' or 'redis://localhost:6379'"
        )
    scheme = url.partition("://")[0].lower()
    found = {entry.name: entry for entry in entry_points(group=group)}
    if scheme not in found:
        known = ", ".join(f"{name}://" for name in sorted(found)) or "none; is coatcheck installed?"
        raise ConfigurationError(
            "store", without_password(url), f"no store for the scheme {scheme!r}", f"Known: {known}"
        )
    try:
        return cast(Callable[[str], Any], found[scheme].load())
    except ModuleNotFoundError as missing:
        extra = _EXTRAS.get(missing.name or "")
        if extra is None:
            raise
        raise ConfigurationError(
            "store", without_password(url), f"the package {missing.name!r} is not installed",
            f"Install it: pip install 'coatcheck[{extra}]'",
        ) from None  # fmt: skip


def without_password(url: str) -> str:
    """The URL as it may be shown: a password becomes `***`, and the query, where another may stand, is left out."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"  # no URL at all: it may be the secret that another library takes in this place
    place = re.split("[?#]", rest, maxsplit=1)[0]
    if "@" in rest and "@" not in place:
        return f"{scheme}://***"  # a password with a ? or # in it: where it begins and ends is not to be told
    user, at, host = place.rpartition("@")
    name, colon, _ = user.partition(":")
    # A name without a password may be a password that was put in its place.
    shown = f"{name}:***@" if colon else "***@" if at else ""
    return scheme + separator + shown + host
