"""What sessions do to responses, in whatever framework: what is answered in place of the application, what is too late once
the response has begun, and the headers that keep users apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from coatcheck.cookie import finish_headers, keeps_users_apart
from coatcheck.errors import (
    CoatcheckError,
    Conflict,
    CorruptRecord,
    ForeignReply,
    OutcomeUnknown,
    SessionGone,
    StoreError,
    StoreUnavailable,
    TooLate,
)

REFUSALS = (SessionGone, Conflict, CorruptRecord, StoreError)
"""What is answered in place of the application. Everything else is the application's own business."""


class ResponseReplaced(OSError):
    """What a server raises when nobody listens any more, which frameworks know to be the end of a stream."""


class Answer(Struct, frozen=True):
    """Why nothing was stored, in words for a user. It has no cookie, so that the browser keeps what it has.

    Attributes:
        status: 503 if the store failed, otherwise 409.
        text: plain text, ASCII.
        headers: all that it needs.
    """

    status: int
    text: str
    headers: list[tuple[str, str]]


def answer_to(error: CoatcheckError) -> Answer:
    """The response in place of the application's, for one of `REFUSALS`."""
    status = 503 if isinstance(error, StoreError) else 409
    if isinstance(error, (OutcomeUnknown, ForeignReply)):
        text = "It is not known whether your last change was saved. Please look before you repeat it."
    elif isinstance(error, StoreError):
        text = "Sessions are not available at the moment. Please try again shortly."
    else:
        text = "Your session ended or changed in another window, so nothing was saved. Please reload the page."
    headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(text))),
        ("cache-control", "no-store"),
    ]
    if status == 503:
        headers.append(("retry-after", str(error.retry_after if isinstance(error, StoreUnavailable) else 1)))
    return Answer(status, text, headers)


def response_started(wait: str) -> TooLate:
    """Why nothing can be changed any more; `wait` is `await ` where that has to be written, else nothing."""
    return TooLate(
        "change of a session",
        "the response has begun, and the session was stored before its first byte",
        f"Change it earlier; or, in a stream, call `{wait}session.reload()`, change it, and `{wait}session.commit()`",
    )


HEADERS_SENT = TooLate(
    "new session or renewal",
    "the response has begun, so that no cookie can reach the browser any more",
    "Do it before the response or the WebSocket's accept",
)


def refuse_first_look(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """What is sent from now on must not depend on the cookie, unless the headers that went out keep users apart."""
    if not keeps_users_apart(headers):
        raise TooLate(
            "first look at a session",
            "the response has begun without `Vary: Cookie`, so that a cache on the way may give it to other users",
            "Look at the session before the response begins, or send `Vary: Cookie` or `Cache-Control: no-store` with it",
        )


def as_bytes(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers that are text, as WSGI and the frameworks on it have them, for a look at them.

    In UTF-8 rather than in what goes over the wire: a framework may have a `Location` of any letters here, and bring it
    into a form for the wire later.
    """
    return [(name.encode(*_ANY_TEXT), value.encode(*_ANY_TEXT)) for name, value in headers]


def finish_text_headers(
    headers: Iterable[tuple[str, str]], *, looked_at: bool, set_cookies: Sequence[str]
) -> list[tuple[str, str]]:
    """`cookie.finish_headers` for headers that are text. The application's own come back as they were."""
    finished = finish_headers(as_bytes(headers), looked_at=looked_at, set_cookies=set_cookies)
    return [(name.decode(*_ANY_TEXT), value.decode(*_ANY_TEXT)) for name, value in finished]


_ANY_TEXT = ("utf-8", "surrogatepass")
