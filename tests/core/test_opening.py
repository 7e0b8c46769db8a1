"""From a URL to a store, and in words why not."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck import SessionManager, open_store, open_sync_store
from coatcheck.errors import ConfigurationError
from coatcheck.stores import opening
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.stores.opening import without_password

SECRETS = ("hunter2", "s3cret")


def test_a_url_opens_the_store_of_its_scheme() -> None:
    assert isinstance(open_store("memory://"), AsyncMemoryStore)
    assert isinstance(open_sync_store("memory://"), MemoryStore)
    assert isinstance(SessionManager("memory://").store, AsyncMemoryStore)


@pytest.mark.parametrize(
    "url", ["memory", "", "localhost:6379", "/var/run/redis.sock", "memory:", None, 7, b"memory://"]
)
def test_what_is_no_url_is_refused_with_an_example(url: Any) -> None:
    for opened in (open_store, open_sync_store):
        with pytest.raises(ConfigurationError, match=r"not a store URL.*memory://"):
            opened(url)


@pytest.mark.parametrize(
    "url", ["rediss3://localhost", "http://user:hunter2@localhost/?token=s3cret", "://x", "r edis://x"]
)
def test_an_unknown_scheme_is_refused_with_those_that_are_known(url: str) -> None:
    for opened in (open_store, open_sync_store):
        with pytest.raises(ConfigurationError, match=r"no store for the scheme.*Known: .*memory://") as refused:
            opened(url)
        assert not any(secret in str(refused.value) for secret in SECRETS)


def install(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, "coatcheck.stores") for name, value in entries]
    monkeypatch.setattr(opening, "entry_points", lambda group: [each for each in found if each.group == group])


class TheirStore(AsyncMemoryStore):
    """A store of another package."""

    url = ""

    @classmethod
    def from_url(cls, url: str) -> TheirStore:
        store = cls()
        store.url = url
        return store


def test_another_package_adds_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("theirs", f"{__name__}:TheirStore.from_url"))
    store = open_store("THEIRS://somewhere?a=b")
    assert isinstance(store, TheirStore)
    assert store.url == "THEIRS://somewhere?a=b"
    with pytest.raises(ConfigurationError, match="Known: theirs://"):
        open_store("memory://")


def test_without_any_entry_point_the_message_asks_the_right_question(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(ConfigurationError, match="is coatcheck installed"):
        open_store("memory://")


def test_a_missing_extra_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: EntryPoint) -> Any:
        raise ModuleNotFoundError("No module named 'redis'", name="redis")

    monkeypatch.setattr(EntryPoint, "load", load)
    with pytest.raises(ConfigurationError) as refused:
        open_store("redis://user:hunter2@localhost:6379/0?password=s3cret")
    assert "pip install 'coatcheck[redis]'" in str(refused.value)
    assert not any(secret in str(refused.value) for secret in SECRETS)
    assert refused.value.__suppress_context__


def test_a_module_that_misses_something_else_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("theirs", "a_package_that_is_not_there:Store"))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        open_store("theirs://")


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@localhost:6379/0",
        "redis://:hunter2@localhost",
        "redis://:hunter2@localhost/?x=1",
        "redis://localhost?password=hunter2",
        "redis://localhost/0?password=hunter2&db=1",
        "redis://localhost#hunter2",
        "redis://:hun/ter2hunter2@localhost/0",
        "redis://:hunter2?hunter2@localhost/0",
        "redis://:hunter2#hunter2@localhost/0",
        "redis://:hunter2@hunter2@localhost/0",
        "redis://user:hunter2:hunter2@localhost/0",
        "unix://user:hunter2@/run/redis.sock?db=1",
        "redis://[::1]:6379/0?password=hunter2",
        "user:hunter2@localhost",
        "redis:user:hunter2@localhost",
        "redis://hunter2@localhost",
        "redis://localhost/0?x=a@hunter2",
    ],
)
def test_a_password_is_shown_nowhere(url: str) -> None:
    assert "hunter2" not in without_password(url)
    assert "ter2" not in without_password(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:hunter2@localhost:6379/0", "redis://user:***@localhost:6379/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("memory://", "memory://"),
    ],
)
def test_the_rest_of_a_url_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@given(st.text("abc:/@?#.[]=&%*", max_size=20))
@example("")
def test_whatever_is_shown_of_a_url_holds_nothing_of_what_may_be_a_password(rest: str) -> None:
    for url in (f"redis://user:hunter2{rest}@localhost/0", f"redis://localhost/0?password={rest}hunter2"):
        assert "hunter2" not in without_password(url)
