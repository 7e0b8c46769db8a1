"""The ticket: what the browser keeps. A session id that names the record, and a secret that opens it."""

from __future__ import annotations

import hashlib
import os
import secrets
from binascii import b2a_base64
from hmac import compare_digest
from typing import Final

from mypy_extensions import mypyc_attr

ID_CHARACTERS: Final = 16  # 96 random bits, base64url
_SECRET_CHARACTERS: Final = 32  # 192 random bits, base64url
LONGEST_SEEN: Final = 200
"""Characters that a freshness token has at most."""

_TAG_CHARACTERS: Final = 4  # of the session id, which a freshness token's cookie begins with
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_SEEN_ALPHABET: Final = _ALPHABET + b".~"
_KINDS: Final = bytes(
    ord("a") if byte in _ALPHABET else ord("!") for byte in range(256)
)  # what a text looks like through it …
_ID_FORM: Final = b"a" * ID_CHARACTERS  # … if it is a session id
_TICKET_FORM: Final = b"a" * (ID_CHARACTERS + _SECRET_CHARACTERS)


@mypyc_attr(acyclic=True)
class Ticket:
    """A session id and the secret that proves possession of it.

    The id may be logged; it opens nothing. The secret appears in the cookie and nowhere else: `repr` hides it, and
    stores get only its hash (OWASP ASVS 5.0, 7.2.3 and 11.4.1; NIST SP 800-63B-4, 5.1: at least 64 random bits).

    Attributes:
        session_id: 16 base64url characters.
        seen: the freshness token that came with it, for the store to read; `""` for none. It proves nothing: whoever
            makes one up waits for it, and gets no more than his ticket opens. See `stores.interface.AsyncFreshness`.
        secret_hash: SHA-256 of the secret in base64, 44 characters: all that a store ever sees of it. A fast hash is right
            here, unlike for passwords: 192 random bits cannot be guessed.
    """

    __slots__ = ("_secret", "secret_hash", "seen", "session_id")

    def __init__(self, session_id: str, secret: bytes) -> None:
        self.session_id = session_id
        self.seen = ""
        self._secret = secret
        self.secret_hash = _base64(_sha256(secret).digest(), newline=False).decode()

    @staticmethod
    def new() -> Ticket:
        """A ticket with a fresh id and a fresh secret from the operating system's random source."""
        return Ticket(secrets.token_urlsafe(12), secrets.token_urlsafe(24).encode())

    @staticmethod
    def parse(value: bytes | str) -> Ticket | None:
        """The ticket in a cookie's value, or `None` for anything that is not exactly of a ticket's form."""
        if isinstance(value, str):
            value = value.encode("utf-8", "replace")
        if value.translate(_KINDS) != _TICKET_FORM:
            return None
        return Ticket(value[:ID_CHARACTERS].decode(), value[ID_CHARACTERS:])

    def renewed(self) -> Ticket:
        """A ticket for the same session with a fresh secret."""
        ticket = Ticket(self.session_id, secrets.token_urlsafe(24).encode())
        ticket.seen = self.seen
        return ticket

    def show(self, value: bytes | str) -> None:
        """Take the freshness token in a cookie's value. What is none, or another session's, counts as none."""
        if isinstance(value, str):
            value = value.encode("utf-8", "replace")
        tag, seen = value[:_TAG_CHARACTERS], value[_TAG_CHARACTERS:]
        fits = 0 < len(seen) <= LONGEST_SEEN and not seen.translate(None, _SEEN_ALPHABET)
        self.seen = seen.decode() if fits and tag == self.session_id[:_TAG_CHARACTERS].encode() else ""

    @property
    def seen_cookie_value(self) -> str:
        """What goes into the freshness token's cookie: which session it is of, and the token."""
        return self.session_id[:_TAG_CHARACTERS] + self.seen

    @property
    def cookie_value(self) -> str:
        """What goes into the cookie, 48 characters. The one place where the secret comes out."""
        return self.session_id + self._secret.decode()

    def __repr__(self) -> str:
        return f"Ticket({self.session_id!r}, secret hidden)"


def is_session_id(text: str) -> bool:
    """Whether this is of a session id's form."""
    return text.isascii() and text.encode().translate(_KINDS) == _ID_FORM


def same_hash(one: str, other: str) -> bool:
    """Whether two secret hashes are equal, in time that does not depend on where they differ."""
    try:
        return compare_digest(one, other)
    except TypeError:  # one of them, damaged in the store, is not even ASCII
        return False


def new_operation_id() -> str:
    """An id for one commit, 8 characters: enough to tell apart the few commits that a record remembers."""
    return _base64(os.urandom(6), newline=False).decode()


# Compiled code looks for no name that is `Final`, but for that of an import each time.
_sha256: Final = hashlib.sha256
_base64: Final = b2a_base64
