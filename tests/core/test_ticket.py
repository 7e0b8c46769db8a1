"""The ticket: taken from any bytes, shown to nobody."""

from __future__ import annotations

import hashlib
import logging
import string
import traceback
from base64 import b64decode, b64encode, urlsafe_b64encode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck.lifecycle import ticket_of
from coatcheck.ticket import Ticket, is_session_id, new_operation_id, same_hash
from tests.core.tools import COOKIE, headers

ALPHABET = string.ascii_letters + string.digits + "-_"
VALUE = "4vGkq0cWm2n8Zx1B" + "k3_9Qd-7LrT0aXwE5uYhJm2Pb8sNcVgZ"
FORBIDDEN = [
    "../../../../etc/passwd",
    "\x00" * 48,
    "A" * 47 + "\x00",
    "A" * 48 + "\r\nSet-Cookie: a=b",
    "A" * 48 + "\n",
    "A" * 46 + "\r\n",
    "*" * 48,
    "{" + "A" * 46 + "}",
    "A" * 16 + "?" * 32,
    "A" * 44 + "/../",
    "A" * 47,
    "A" * 49,
    "A" * 47 + " ",
    " " + "A" * 48,
    '"' + "A" * 48 + '"',
    "A" * 47 + "é",
    "A" * 47 + "\uff21",  # a full-width A
    "A" * 47 + "\u212a",  # the Kelvin sign, a K to those who ignore case
    "٣" * 48,  # digits, but not ours
    "A" * 47 + "=",
    "A" * 47 + "+",
    "A" * 47 + ".",
    "A" * 47 + ":",
    "",
]


@given(st.text(st.characters()) | st.text(ALPHABET, min_size=46, max_size=50))
@example(VALUE)
def test_a_ticket_is_48_characters_of_base64url_and_nothing_else(text: str) -> None:
    ticket = Ticket.parse(text)
    assert (ticket is not None) == (len(text) == 48 and set(text) <= set(ALPHABET))
    if ticket is not None:
        assert (ticket.session_id, ticket.cookie_value) == (text[:16], text)
        assert is_session_id(ticket.session_id)


@pytest.mark.parametrize("text", FORBIDDEN)
def test_everything_else_is_refused_before_a_store_is_asked(text: str) -> None:
    assert Ticket.parse(text) is None
    assert not is_session_id(text)
    for encoding in ("utf-8", "latin-1"):
        raw = text.encode(encoding, "replace")
        assert ticket_of(headers(COOKIE.settings.name, raw), COOKIE)[0] is None


def test_a_megabyte_is_refused() -> None:
    assert Ticket.parse("A" * 1_000_000) is None
    assert ticket_of(headers("__Host-session", b"A" * 1_000_000), COOKIE) == (None, "malformed")


@given(st.binary())
def test_a_cookie_of_any_bytes_is_no_session_and_no_exception(raw: bytes) -> None:
    ticket, refusal = ticket_of([(b"cookie", b"__Host-session=" + raw), (b"cookie", raw)], COOKIE)
    assert ticket is None or ticket.cookie_value.encode() in raw
    assert ticket is None or not refusal


def test_every_ticket_is_new() -> None:
    tickets = [Ticket.new() for _ in range(2000)]
    assert len({each.session_id for each in tickets}) == len(tickets)
    assert len({each.cookie_value[16:] for each in tickets}) == len(tickets)
    for each in tickets:
        assert Ticket.parse(each.cookie_value) is not None
    # Every character stands everywhere: nothing is constant, no bit is lost to padding.
    for position in range(48):
        assert len({each.cookie_value[position] for each in tickets}) == 64


def test_a_renewed_ticket_has_the_same_id_and_another_secret() -> None:
    before = Ticket.new()
    after = before.renewed()
    assert after.session_id == before.session_id
    assert after.cookie_value[16:] != before.cookie_value[16:]
    assert after.secret_hash != before.secret_hash


def test_a_store_gets_a_hash_of_the_secret_alone() -> None:
    ticket = Ticket.parse(VALUE)
    assert ticket is not None
    assert ticket.secret_hash == b64encode(hashlib.sha256(VALUE[16:].encode()).digest()).decode()


def test_the_stored_hash_is_no_ticket() -> None:
    """CVE-2019-16782: who has read the store cannot log in with what stands there."""
    ticket = Ticket.new()
    stored = ticket.secret_hash
    shown = [
        stored,
        ticket.session_id + stored,
        ticket.session_id + stored[:32],
        ticket.session_id + stored[32:],
        ticket.session_id + urlsafe_b64encode(b64decode(stored)).decode()[:32],
    ]
    for text in shown:
        forged = Ticket.parse(text)
        assert forged is None or not same_hash(forged.secret_hash, stored)


def test_neither_repr_nor_str_nor_format_shows_the_secret() -> None:
    ticket = Ticket.parse(VALUE)
    assert ticket is not None
    ticket.secret_hash  # noqa: B018 - it is kept from here on
    for shown in (repr(ticket), str(ticket), f"{ticket}", f"{[ticket]!r}", repr({"ticket": ticket})):
        assert VALUE[16:] not in shown
        assert ticket.secret_hash not in shown
        assert ticket.session_id in shown
    assert not hasattr(ticket, "__dict__")  # which some error trackers print


def test_no_traceback_and_no_log_shows_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    ticket = Ticket.parse(VALUE)
    assert ticket is not None
    with caplog.at_level(logging.DEBUG):
        try:
            raise ValueError("something about %s" % ticket)  # noqa: UP031
        except ValueError as error:
            logging.getLogger("somebody").exception("it failed for %r", ticket)
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert VALUE[16:] not in caplog.text
    assert VALUE[16:] not in "".join(shown.format()).replace(repr(VALUE), "")


@given(st.text(), st.text())
@example("a" * 64, "a" * 64)
@example("\udcff", "\udcff")
@example("", "")
def test_hashes_are_compared_whatever_stands_in_the_store(one: str, other: str) -> None:
    assert same_hash(one, other) == (one == other and one.isascii())


def test_hashes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2013-0263."""
    asked: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        asked.append((one, other))
        return one == other

    monkeypatch.setattr("coatcheck.ticket.compare_digest", compare)
    assert same_hash("a" * 64, "a" * 64)
    assert not same_hash("a" * 64, "b" * 64)
    assert len(asked) == 2


def test_operation_ids_are_new_and_have_no_space() -> None:
    """A store may keep them as words in one text."""
    ids = {new_operation_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(len(each) == 8 and each.isascii() and not set(each) & set(" \t\r\n,") for each in ids)
