"""Every setting that cannot work is refused at start, by name, by value, and with the next step."""

from __future__ import annotations

import math
import warnings
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck import AAL1, AAL2, AAL3
from coatcheck.cookie import Cookie
from coatcheck.errors import ConfigurationError, InsecureCookieWarning
from coatcheck.settings import CookieSettings, Settings

DAY = 86_400


def test_the_defaults_are_those_that_the_documentation_states() -> None:
    settings = Settings()
    assert (settings.idle_ms, settings.absolute_ms) == (2 * 3_600_000, 7 * DAY * 1000)
    assert settings.touch_ms == 60_000, "5 % of two hours is six minutes, and a minute the most"
    assert (settings.renew_ms, settings.renew_grace_ms) == (None, 60_000)
    assert settings.cookie == CookieSettings(
        name="__Host-session", secure=True, same_site="lax", path="/", domain=None, max_age=None
    )


def test_times_are_seconds_or_timedeltas() -> None:
    settings = Settings(
        idle_timeout=timedelta(minutes=10), absolute_timeout=3600.5, touch_every=0, renew_every=1, renew_grace=0
    )
    assert (settings.idle_ms, settings.absolute_ms) == (600_000, 3_600_500)
    assert (settings.touch_ms, settings.renew_ms, settings.renew_grace_ms) == (0, 1000, 0)
    assert Settings(absolute_timeout=None).absolute_ms is None


def test_a_session_in_use_is_touched_often_enough() -> None:
    assert Settings(idle_timeout=100).touch_ms == 5_000
    assert Settings(idle_timeout=30 * DAY, absolute_timeout=None).touch_ms == 60_000
    assert Settings(idle_timeout=0.001, absolute_timeout=1).touch_ms == 0


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("idle_timeout", {"idle_timeout": -1}, "out of range"),
    ("idle_timeout", {"idle_timeout": 0}, "out of range"),
    ("idle_timeout", {"idle_timeout": 0.0001}, "out of range"),
    ("idle_timeout", {"idle_timeout": math.nan}, "out of range"),
    ("idle_timeout", {"idle_timeout": math.inf}, "out of range"),
    ("idle_timeout", {"idle_timeout": timedelta.max}, "out of range"),
    ("idle_timeout", {"idle_timeout": 10**100}, "out of range"),
    ("idle_timeout", {"idle_timeout": "2h"}, "not a duration"),
    ("idle_timeout", {"idle_timeout": None}, "not a duration"),
    ("idle_timeout", {"idle_timeout": True}, "not a duration"),
    ("absolute_timeout", {"absolute_timeout": -1}, "out of range"),
    ("absolute_timeout", {"absolute_timeout": 60}, "shorter than idle_timeout"),
    ("absolute_timeout", {"idle_timeout": 61, "absolute_timeout": timedelta(seconds=60)}, "shorter than idle_timeout"),
    ("touch_every", {"touch_every": -1}, "out of range"),
    ("touch_every", {"touch_every": 2 * 3600}, "not shorter than idle_timeout"),
    ("touch_every", {"touch_every": "often"}, "not a duration"),
    ("renew_every", {"renew_every": 0}, "out of range"),
    ("renew_every", {"renew_every": "daily"}, "not a duration"),
    ("renew_grace", {"renew_grace": -1}, "out of range"),
    ("renew_grace", {"renew_grace": None}, "not a duration"),
    ("store_timeout", {"store_timeout": 0}, "out of range"),
    ("store_timeout", {"store_timeout": None}, "not a duration"),
    ("cookie", {"cookie": {"name": "session"}}, "not a CookieSettings"),
    ("cookie", {"cookie": None}, "not a CookieSettings"),
]

BAD_COOKIES: list[tuple[str, dict[str, Any], str]] = [
    ("cookie name", {"name": "a b"}, "not a cookie name"),
    ("cookie name", {"name": ""}, "not a cookie name"),
    ("cookie name", {"name": "a=b"}, "not a cookie name"),
    ("cookie name", {"name": "a;b"}, "not a cookie name"),
    ("cookie name", {"name": "séance"}, "not a cookie name"),
    ("cookie name", {"name": "a\r\nb"}, "not a cookie name"),
    ("cookie name", {"name": b"session"}, "not a cookie name"),
    ("cookie name", {"name": "__Host-s", "domain": "example.org"}, "browsers refuse __Host- with a domain"),
    ("cookie name", {"name": "__Host-s", "path": "/shop"}, "browsers refuse __Host- with a domain or a path"),
    ("cookie name", {"name": "__HOST-s", "path": "/shop"}, "browsers refuse __Host-"),
    ("cookie name", {"name": "__Host-s", "secure": False}, "browsers refuse this prefix without Secure"),
    ("cookie name", {"name": "__Secure-s", "secure": False}, "browsers refuse this prefix without Secure"),
    ("cookie name", {"name": "__sEcUrE-s", "secure": False}, "browsers refuse this prefix without Secure"),
    ("same_site", {"same_site": "Lax"}, "unknown"),
    ("same_site", {"same_site": None}, "unknown"),
    ("same_site", {"same_site": "none", "secure": False}, "browsers refuse it without Secure"),
    ("path", {"path": "shop"}, "not a cookie path"),
    ("path", {"path": ""}, "not a cookie path"),
    ("path", {"path": "/; Domain=evil.example"}, "not a cookie path"),
    ("path", {"path": "/;Domain=evil.example"}, "not a cookie path"),
    ("path", {"path": "/\r\nX: y"}, "not a cookie path"),
    ("path", {"path": None}, "not a cookie path"),
    ("domain", {"domain": ""}, "not a domain"),
    ("domain", {"domain": "example.org; Path=/x"}, "not a domain"),
    ("domain", {"domain": "example.org;Path=/x"}, "not a domain"),
    ("domain", {"domain": "example .org"}, "not a domain"),
    ("domain", {"domain": "bücher.example"}, "not a domain"),
    ("domain", {"domain": 7}, "not a domain"),
    ("max_age", {"max_age": 0}, "not a number of seconds that browsers take"),
    ("max_age", {"max_age": -1}, "not a number of seconds"),
    ("max_age", {"max_age": 401 * DAY}, "not a number of seconds"),
    ("max_age", {"max_age": "60"}, "not a number of seconds"),
    ("max_age", {"max_age": 60.5}, "not a number of seconds"),
    ("max_age", {"max_age": True}, "not a number of seconds"),
]


def refused(make: Any, setting: str, wrong: dict[str, Any], says: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureCookieWarning)
        with pytest.raises(ConfigurationError) as error:
            make(**wrong)
    told = str(error.value)
    assert error.value.setting == setting
    value = wrong.get(setting.rpartition(" ")[2])
    assert told.startswith(f"{setting}={value!r}: "), "names the setting and the value"
    assert says in told
    next_step = told.partition(". ")[2]
    assert next_step[:1].isupper(), "and the next step"
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(("setting", "wrong", "says"), BAD)
def test_a_setting_that_cannot_work_is_refused(setting: str, wrong: dict[str, Any], says: str) -> None:
    refused(Settings, setting, wrong, says)
    refused(Settings().but, setting, wrong, says)


@pytest.mark.parametrize(("setting", "wrong", "says"), BAD_COOKIES)
def test_a_cookie_that_browsers_would_not_take_is_refused(setting: str, wrong: dict[str, Any], says: str) -> None:
    refused(CookieSettings, setting, wrong, says)


def test_the_cookie_has_the_safest_name_that_its_other_settings_allow() -> None:
    assert CookieSettings().name == "__Host-session"
    assert CookieSettings(path="/shop").name == "__Secure-session"
    assert CookieSettings(domain="example.org").name == "__Secure-session"
    with pytest.warns(InsecureCookieWarning):
        assert CookieSettings(secure=False).name == "session"


def test_whatever_name_comes_by_itself_is_one_that_browsers_take() -> None:
    for path in ("/", "/shop"):
        for domain in (None, "example.org"):
            CookieSettings(path=path, domain=domain, name=CookieSettings(path=path, domain=domain).name)


def test_an_insecure_cookie_says_so_loudly_where_it_is_asked_for() -> None:
    with pytest.warns(InsecureCookieWarning, match="anybody on the network can read it") as told:
        CookieSettings(secure=False)
    assert told[0].filename == __file__


def test_a_secure_cookie_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CookieSettings(same_site="none")


@given(name=st.text(max_size=8), path=st.text(max_size=8), domain=st.text(max_size=8))
def test_nothing_breaks_out_of_the_cookie(name: str, path: str, domain: str) -> None:
    """A setting that comes from a file or an environment variable makes no header of its own."""
    try:
        cookie = Cookie(CookieSettings(name=name, path=path, domain=domain))
    except ConfigurationError:
        return
    for line in (cookie.write("v"), cookie.erase()):
        assert line.isascii()
        assert line.isprintable()
        attributes = [part.strip().partition("=")[0] for part in line.split(";")]
        assert attributes[0] == name
        assert set(attributes[1:]) <= {"Path", "Domain", "HttpOnly", "SameSite", "Secure", "Max-Age", "Expires"}
        assert len(attributes) == len(set(attributes))


def test_but_changes_some_and_keeps_the_rest() -> None:
    settings = AAL2.but(touch_every=5)
    assert (settings.idle_ms, settings.absolute_ms, settings.touch_ms) == (AAL2.idle_ms, AAL2.absolute_ms, 5000)
    assert AAL2.touch_ms == 60_000, "the preset stays as it is"
    with pytest.raises(ConfigurationError):
        settings.but(idle_timeout=3)
    with pytest.raises(TypeError):
        settings.but(ilde_timeout=3)


def test_the_presets_are_those_of_nist_sp_800_63b_4() -> None:
    minutes = [(preset.idle_ms // 60_000, (preset.absolute_ms or 0) // 60_000) for preset in (AAL1, AAL2, AAL3)]
    assert minutes[0][1] == 30 * 24 * 60
    assert minutes[1:] == [(60, 24 * 60), (15, 12 * 60)]


def test_settings_are_shown_as_they_were_given() -> None:
    assert "idle_timeout=7" in repr(Settings(idle_timeout=7))
    assert "_ms" not in repr(Settings())
