"""Finding the cookie in a request, and what a response says to browsers and to caches on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.cookie import Cookie, finish_headers, keeps_users_apart
from coatcheck.errors import InsecureCookieWarning
from coatcheck.lifecycle import ticket_of
from coatcheck.settings import CookieSettings
from tests.core.tools import COOKIE

TICKET = b"4vGkq0cWm2n8Zx1Bk3_9Qd-7LrT0aXwE5uYhJm2Pb8sNcVgZ"
OTHER = b"x" * 48
NAME = b"__Host-session"

Headers = list[tuple[bytes, bytes]]


def find(*lines: bytes) -> list[bytes]:
    return COOKIE.find([(b"host", b"shop.example"), *((b"cookie", line) for line in lines), (b"accept", b"*/*")])


# --- in a request ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        NAME + b"=" + TICKET,
        b"a=1; " + NAME + b"=" + TICKET + b"; b=2",
        b"a=1;" + NAME + b"=" + TICKET + b";b=2",
        b" \t" + NAME + b"=" + TICKET + b"\t ",
        b"broken; =; ;;=x; " + NAME + b"=" + TICKET,
        b"\xff\xfe=\x00; " + NAME + b"=" + TICKET,
        b"x" + NAME + b"=" + OTHER + b"; " + NAME + b"=" + TICKET,
        b"other=" + NAME + b"=; " + NAME + b"=" + TICKET,
    ],
)
def test_the_ticket_is_found_among_other_cookies(line: bytes) -> None:
    assert find(line) == [TICKET]


def test_the_ticket_is_found_in_any_of_several_headers() -> None:
    """HTTP/2 splits them (RFC 9113, 8.2.3)."""
    assert find(b"a=1", NAME + b"=" + TICKET, b"b=2") == [TICKET]


def test_a_request_without_the_cookie_has_none() -> None:
    assert find() == []
    assert find(b"") == []
    assert find(b"a=1; b=2") == []
    assert COOKIE.find([(b"x-cookie", NAME + b"=" + TICKET), (b"set-cookie", NAME + b"=" + TICKET)]) == []


@pytest.mark.parametrize(
    "name",
    [
        "\u2000__Host-session",  # spaces of Unicode, which some servers trim and browsers do not
        "\u00a0__Host-session",
        "\u0085__Host-session",
        "\x0b__Host-session",
        "\x0c__Host-session",
        "\x1f__Host-session",
        "__Host-session\u3000",
        "__host-session",
        "__HOST-SESSION",
        "__Host-Session",
        "__Host-sessio\u0274",
        "__Host%2Dsession",
        "_Host-session",
        "x__Host-session",
        "__Host-session2",
        "$__Host-session",
        '"__Host-session"',
        "",
    ],
)
def test_a_name_that_differs_by_one_byte_is_another_cookie(name: str) -> None:
    """A sister domain may set a cookie of such a name; only the exact one is protected by `__Host-`."""
    for trick in {name.encode(), name.encode("latin-1", "replace")}:
        assert find(trick + b"=" + OTHER) == []
        assert find(trick + b"=" + OTHER + b"; " + NAME + b"=" + TICKET) == [TICKET]


@pytest.mark.parametrize(
    "lines",
    [
        (NAME + b"=" + TICKET + b"; " + NAME + b"=" + OTHER,),
        (NAME + b"=" + TICKET, NAME + b"=" + OTHER),
        (NAME + b"=" + TICKET + b"; " + NAME + b"=" + TICKET,),
        (NAME + b"=; " + NAME + b"=" + TICKET,),
    ],
)
def test_two_cookies_of_the_name_are_both_refused(lines: tuple[bytes, ...]) -> None:
    assert len(find(*lines)) == 2
    assert ticket_of([(b"cookie", line) for line in lines], COOKIE) == (None, "duplicate cookie")


def test_one_good_cookie_is_a_ticket_and_a_bad_one_is_none() -> None:
    ticket, refusal = ticket_of([(b"cookie", NAME + b"=" + TICKET)], COOKIE)
    assert ticket is not None
    assert (ticket.cookie_value.encode(), refusal) == (TICKET, "")
    assert ticket_of([(b"cookie", NAME + b"=")], COOKIE) == (None, "malformed")
    assert ticket_of([(b"cookie", NAME + b'="' + TICKET + b'"')], COOKIE) == (None, "malformed")
    assert ticket_of([], COOKIE) == (None, "")


@given(st.lists(st.binary()))
def test_any_bytes_are_looked_through_without_an_exception(lines: list[bytes]) -> None:
    assert find(*lines) == [] or any(NAME + b"=" in line for line in lines)


@given(
    st.lists(st.sampled_from((b"a=1", b"", b" ", b"=", b"b", NAME + b"=" + TICKET, b"\xa0" + NAME + b"=x")), max_size=8)
)
def test_every_cookie_of_the_name_counts(parts: list[bytes]) -> None:
    assert find(b"; ".join(parts)) == [TICKET] * parts.count(NAME + b"=" + TICKET)


# --- in a response: to the browser -----------------------------------------------------------------------------------


def test_the_cookie_is_as_safe_as_browsers_allow() -> None:
    assert COOKIE.write("x" * 48) == "__Host-session=" + "x" * 48 + "; Path=/; HttpOnly; SameSite=Lax; Secure"


def test_the_cookie_is_taken_back_by_the_same_path_and_domain() -> None:
    cookie = Cookie(CookieSettings(path="/shop", domain="example.org", same_site="strict", max_age=60))
    assert cookie.write("x") == (
        "__Secure-session=x; Max-Age=60; Path=/shop; Domain=example.org; HttpOnly; SameSite=Strict; Secure"
    )
    erase = cookie.erase()
    assert erase.startswith('__Secure-session=""; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; ')
    assert erase.endswith("; Path=/shop; Domain=example.org; HttpOnly; SameSite=Strict; Secure")


def test_over_plain_http_it_says_so_loudly_and_works() -> None:
    with pytest.warns(InsecureCookieWarning):
        cookie = Cookie(CookieSettings(secure=False))
    assert cookie.write("x") == "session=x; Path=/; HttpOnly; SameSite=Lax"
    assert cookie.find([(b"cookie", b"session=y")]) == [b"y"]


# --- in a response: to caches ----------------------------------------------------------------------------------------


def finish(given: Headers, *, looked_at: bool = True, ticket: bool = False) -> Headers:
    return finish_headers(list(given), looked_at=looked_at, set_cookies=["__Host-session=x; Path=/"] if ticket else [])


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for each, value in headers if each.lower() == name]


def test_a_response_that_had_nothing_to_do_with_the_session_is_left_alone() -> None:
    given = [(b"Vary", b"Accept"), (b"Cache-Control", b"public, max-age=60")]
    assert finish(given, looked_at=False) == given


def test_who_looked_at_the_session_varies_by_cookie() -> None:
    assert finish([(b"content-type", b"text/html")]) == [(b"content-type", b"text/html"), (b"vary", b"Cookie")]


@pytest.mark.parametrize("vary", [b"Cookie", b"cookie", b"Accept, COOKIE", b"accept,cookie ,x", b"*", b"Accept, *"])
def test_who_varies_by_cookie_already_does_not_say_it_twice(vary: bytes) -> None:
    assert values(finish([(b"Vary", vary)]), b"vary") == [vary]


@pytest.mark.parametrize("vary", [b"Accept-Encoding", b"", b"Cookie2", b"x-cookie, cookies", b"Set-Cookie"])
def test_what_the_application_varies_by_stays(vary: bytes) -> None:
    assert values(finish([(b"Vary", vary)]), b"vary") == [vary, b"Cookie"]


def test_vary_may_stand_in_several_headers() -> None:
    two = [(b"vary", b"Accept"), (b"VARY", b"Cookie")]
    assert finish(two) == two


def test_a_ticket_is_stored_by_no_cache() -> None:
    finished = finish([], ticket=True)
    assert values(finished, b"set-cookie") == [b"__Host-session=x; Path=/"]
    assert values(finished, b"cache-control") == [b"no-store"]
    assert values(finished, b"vary") == [b"Cookie"]


def test_a_ticket_goes_out_without_a_look_too() -> None:
    """A touch by a request that never looked at its session, where the cookie has an age of its own."""
    finished = finish([(b"cache-control", b"public")], looked_at=False, ticket=True)
    assert values(finished, b"cache-control") == [b"no-store"]
    assert values(finished, b"vary") == [b"Cookie"]


@pytest.mark.parametrize(
    "control",
    [b"public, max-age=31536000, immutable", b"private", b"no-cache", b'private="x", s-maxage=5', b"x-no-store", b""],
)
def test_whatever_else_was_said_to_caches_about_a_ticket_is_replaced(control: bytes) -> None:
    finished = finish([(b"Cache-Control", control), (b"cache-control", b"max-age=5")], ticket=True)
    assert values(finished, b"cache-control") == [b"no-store"]


@pytest.mark.parametrize("control", [b"no-store", b"No-Store", b"private, no-store, max-age=0", b"max-age=0,NO-STORE "])
def test_who_forbids_storing_already_keeps_the_words(control: bytes) -> None:
    finished = finish([(b"Cache-Control", control)], ticket=True)
    assert values(finished, b"cache-control") == [control]


@pytest.mark.parametrize("forbids", [b"no-store", b"public"])
@pytest.mark.parametrize("field", [b"CDN-Cache-Control", b"Surrogate-Control"])
def test_what_would_overrule_it_for_one_kind_of_cache_goes(field: bytes, forbids: bytes) -> None:
    finished = finish([(field, b"max-age=600"), (b"Cache-Control", forbids)], ticket=True)
    assert values(finished, field.lower()) == []


def test_cookies_of_the_application_stay() -> None:
    finished = finish([(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")], ticket=True)
    assert values(finished, b"set-cookie") == [b"a=1", b"b=2", b"__Host-session=x; Path=/"]


@pytest.mark.parametrize(
    ("given", "apart"),
    [
        ([], False),
        ([(b"Vary", b"Accept")], False),
        ([(b"Vary", b"Accept, Cookie")], True),
        ([(b"vary", b"*")], True),
        ([(b"Cache-Control", b"public, max-age=60")], False),
        ([(b"Cache-Control", b"Private")], True),
        ([(b"Cache-Control", b"max-age=0, no-store")], True),
        ([(b"Cache-Control", b"no-cache")], False),
        ([(b"Cache-Control", b"private"), (b"CDN-Cache-Control", b"max-age=60")], False),
    ],
)
def test_a_response_that_already_began_is_known_to_keep_users_apart_or_not(given: Headers, apart: bool) -> None:
    assert keeps_users_apart(given) is apart
