"""Values come back as what they were, and nothing that stands in the store can do harm."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck.codec import COUNTER_RANGE, JSONCodec
from coatcheck.errors import UnstorableValue
from tests.core.tools import exactly

codec = JSONCodec()


def encode(value: object) -> str:
    return codec.encode("4vGkq0cWm2n8Zx1B", "cart", value)


def decode(text: str) -> Any:
    return codec.decode("4vGkq0cWm2n8Zx1B", "cart", text)


# A zone comes back as its offset; Python itself cannot read offsets of less than a second back.
zones = st.none() | st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
hashable = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**1000), 2**1000),
        st.integers(-(2**63), 2**64),
        st.floats(allow_nan=False),
        st.text(st.characters(codec="utf-8")),
        st.sampled_from(("@date", "@", "@dict", "@@", '"@x"')),
        st.binary(),
        st.datetimes(timezones=zones),
        st.dates(),
        st.times(timezones=zones),
        st.timedeltas(),
        st.decimals(allow_nan=False),
        st.uuids(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
values = st.recursive(
    hashable | st.floats() | st.decimals(allow_nan=True),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(hashable, max_size=4),
        st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=4),
        st.dictionaries(st.sampled_from(("@date", "@dict", "@set", "@", "plain")), inner, max_size=2),
        st.dictionaries(hashable, inner, max_size=4),
    ),
    max_leaves=8,
)


@given(values)
@example({"@date": "2026-11-23"})
@example({"@date": {"@date": "2026-11-23"}})
@example([{"@dict": [[1, 2]]}, {"@unknown": None}, "@date", {"a": "@date", "@date": "b"}])
@example({1: "int", "1": "str", 1.5: "float", None: "none", (1, 2): {3}, frozenset(): b""})
@example(datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=1))))
@example({True: 1})
@example(-0.0)
@example(2**64)
def test_every_value_comes_back_as_what_it_was(value: object) -> None:
    assert exactly(decode(encode(value))) == exactly(value)


@given(values)
def test_the_text_is_one_line_of_json_that_any_language_reads(value: object) -> None:
    text = encode(value)
    json.loads(text)
    assert "\n" not in text
    assert "\x00" not in text
    text.encode("utf-8")


@given(values)
def test_the_same_value_has_the_same_text(value: object) -> None:
    """Or what a handler merely looked at would be written back."""
    assert encode(decode(encode(value))) == encode(value)


def test_people_can_read_what_is_stored() -> None:
    assert encode("Garimoo") == '"Garimoo"'
    assert encode("10 €, 名前, 🧥") == '"10 €, 名前, 🧥"'
    assert encode(2) == "2"
    assert encode([1, None, True, {"a": 1.5}]) == '[1,null,true,{"a":1.5}]'
    assert encode(date(2026, 11, 23)) == '{"@date":"2026-11-23"}'
    assert encode(Decimal("1.10")) == '{"@decimal":"1.10"}'
    assert encode((1, 2)) == '{"@tuple":[1,2]}'


@given(st.integers(COUNTER_RANGE.start, COUNTER_RANGE.stop - 1))
@example(COUNTER_RANGE.start)
@example(COUNTER_RANGE.stop - 1)
@example(0)
def test_an_integer_is_stored_as_hincrby_wants_it(number: int) -> None:
    assert encode(number) == str(number)
    assert decode(str(number)) == number


def test_equal_sets_have_equal_texts_in_whatever_order_they_were_filled() -> None:
    names = [f"name {n}" for n in range(50)]
    assert encode(set(names)) == encode({*names[25:], *names[:25]})
    assert encode(frozenset({1, "1", (1,)})) == encode(frozenset({(1,), "1", 1}))


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Shouting(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper() + "!"


class Metres(float):
    pass


class Moment(datetime):
    pass


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Colour.RED, "red"),
        (Shouting("hush"), "hush"),
        (Size.LARGE, 3),
        (Metres(1.5), 1.5),
        (Metres("inf"), math.inf),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, {"x": [1]}), {"x": [1]}),
        (Point(1, 2), (1, 2)),
        (Moment(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)),
        ({Colour.RED: Size.LARGE}, {"red": 3}),
        ([Point(Colour.RED, {Size.LARGE})], [("red", {3})]),
    ],
)
def test_a_subclass_comes_back_as_its_base(value: object, base: object) -> None:
    assert exactly(decode(encode(value))) == exactly(base)


def test_of_a_time_zone_its_offset_comes_back() -> None:
    summer = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert decode(encode(summer)) == summer
    assert decode(encode(summer)).utcoffset() == timedelta(hours=2)
    with pytest.raises(UnstorableValue, match="no fixed offset"):  # a time of day in Berlin is no fixed time
        encode(time(12, tzinfo=ZoneInfo("Europe/Berlin")))


class Wallet:
    """Somebody's, and no business of a log's."""

    def __repr__(self) -> str:
        return "four thousand"


ITSELF: list[object] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Wallet(), "Wallet"),
        ([1, {"deep": (2, Wallet())}], "Wallet"),
        ({Wallet(): 1}, "Wallet"),
        ({Wallet()}, "Wallet"),
        (Wallet, "type"),
        (bytearray(b"four thousand"), "bytearray"),
        (1 + 2j, "complex"),
        (range(3), "range"),
        (iter([]), "list_iterator"),
        (print, "builtin_function_or_method"),
        ("half a pair: \ud83e four thousand", "surrogate"),
        ({"\ud83e": 1}, "surrogate"),
        ({1: ["\ud83e"]}, "surrogate"),
        (ITSELF, "contains itself"),
        pytest.param(10**5000, "2000 bits", id="five thousand digits"),
        ([-(10**4299)], "2000 bits"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_field_and_type_without_its_value(value: object, says: str) -> None:
    with pytest.raises(UnstorableValue) as refused:
        encode(value)
    assert refused.value.field == "cart"
    assert "'cart'" in str(refused.value)
    assert says in str(refused.value)
    assert "Store str, int" in str(refused.value)
    assert "thousand" not in str(refused.value)
    assert refused.value.__context__ is None  # which would quote it


_tags = st.sampled_from(
    ("bytes", "datetime", "date", "time", "timedelta", "decimal", "uuid", "tuple", "set", "frozenset", "float", "dict",
     "list", "class", "pickle", "")
)  # fmt: skip
_planted = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(("nan", "2026-11-23", "1e9999999", "////", "x")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.builds(lambda tag, content: {f"@{tag}": content}, _tags, inner),
    ),
    max_leaves=8,
)


@given(
    st.one_of(
        st.text(),
        st.text(st.characters()),  # lone surrogates are what undecodable bytes look like
        st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
        _planted.map(json.dumps),
    )
)
@example('{"@float":"x"}')
@example('{"@timedelta":[99999999999999999999,0,0]}')
@example('{"@decimal":"sNaN"}')
@example('{"@set":[[1]]}')
@example('{"@dict":[[{"@dict":[]},1]]}')
@example("9" * 5000)
@example("[" * 100_000)
@example('{"@tuple":' * 5000 + "[]" + "}" * 5000)
def test_a_text_of_any_kind_is_a_value_or_a_value_error(text: str) -> None:
    try:
        value = decode(text)
    except ValueError as error:
        assert type(error) is ValueError  # noqa: PT017
        assert str(error)  # noqa: PT017
    else:
        encode(value)


@pytest.mark.parametrize(
    "text",
    [
        '"four thousand',
        "four thousand",
        '{"@datetime":"four thousand"}',
        '{"@decimal":"four thousand"}',
        '{"@uuid":"four thousand"}',
        '{"@float":"four thousand"}',
        '{"@bytes":"four thousand"}',
        '{"@timedelta":["four thousand",0,0]}',
        '{"@four thousand":1}',
        '{"four thousand":',
        '"\ud800 four thousand"',
    ],
)
def test_what_cannot_be_read_is_not_quoted(text: str) -> None:
    with pytest.raises(ValueError) as unreadable:
        decode(text)
    assert "thousand" not in str(unreadable.value)
    assert unreadable.value.__context__ is None  # which would quote it


@pytest.mark.parametrize(
    "text",
    [
        "(dp0\nVa\np1\nI1\ns.",  # pickles, as text
        "gASVHAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAJscy4u",
        '{"@class":"os.system","@args":["true"]}',
        '{"py/object":"os.system"}',
        "!!python/object/apply:os.system [true]",
        "__import__('os').system('true')",
    ],
)
def test_a_planted_object_is_inert(text: str) -> None:
    """CVE-2013-7489, CVE-2021-33026."""
    try:
        value = decode(text)
    except ValueError:
        return
    assert type(value) is dict
    assert all(type(item) in (str, list) for item in value.values())


def test_a_uuid_is_a_uuid() -> None:
    assert decode('{"@uuid":"12345678-1234-5678-1234-567812345678"}') == UUID("12345678-1234-5678-1234-567812345678")
