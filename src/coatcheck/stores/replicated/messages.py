"""What servers say to each other: a head that each receiver gets for himself, and a body that may go to all."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

import msgspec
from msgspec import Struct

from coatcheck.stores.replicated.replica import Claim, Listing, News

PROTOCOL = 1


class Stage(IntEnum):
    """How far a server is: whether others may take what he has for all there is."""

    STARTING = 0
    """He has heard of nobody who serves."""
    JOINING = 1
    """He takes over what somebody has who serves, and has not got all of it."""
    SERVING = 2


class Head(Struct, frozen=True, array_like=True, gc=False):
    """Who speaks, and what he knows of the receiver.

    Attributes:
        protocol: `PROTOCOL`.
        address: the speaker's, as it stands in the list of peers.
        node: his name for this start of his process.
        number: of this message, one more than that of the one before to the same receiver.
        clock: his logical clock.
        stage: how far he is.
        group: how many servers he is in step with, himself included and the receiver left out.
        heard: the node, and its message up to which nothing was missed; `("", 0)` if nothing was heard yet.
        synced: whether he has all that the receiver has told, and all that it had before.
        waits: whether his commits wait for the receiver.
    """

    protocol: int
    address: str
    node: str
    number: int
    clock: int
    stage: Stage
    group: int
    heard: tuple[str, int]
    synced: bool
    waits: bool


class Tell(Struct, frozen=True, array_like=True, tag="tell"):
    """What happened, and who is about to change what under `require_unchanged`."""

    news: list[News]
    claims: list[Claim] = []


class Compare(Struct, frozen=True, array_like=True, tag="compare"):
    """What do you have that I have not? Here is what I have; and, at first, the settings in which we must be the same."""

    digests: list[int]
    settings: dict[str, int | float | str] = {}


class Differ(Struct, frozen=True, array_like=True, tag="differ"):
    """We differ in these buckets."""

    buckets: list[int]


class ListBucket(Struct, frozen=True, array_like=True, tag="list"):
    """What is in this bucket?"""

    bucket: int


class Listed(Struct, frozen=True, array_like=True, tag="listed"):
    """This is in the bucket."""

    bucket: int
    listing: Listing


class Fetch(Struct, frozen=True, array_like=True, tag="fetch"):
    """Give me these sessions."""

    session_ids: list[str]


class Given(Struct, frozen=True, array_like=True, tag="given"):
    """Here they are: the first `count` of those that were asked for. The rest did not fit."""

    news: list[News]
    count: int


class Ask(Struct, frozen=True, array_like=True, tag="ask"):
    """What do you have of this session, if it is not what I have? Its fingerprint is `mark`, 0 for nothing."""

    number: int
    session_id: str
    mark: int


class Answer(Struct, frozen=True, array_like=True, tag="answer"):
    """This, and no more."""

    number: int
    news: list[News]


Body: TypeAlias = Tell | Compare | Differ | ListBucket | Listed | Fetch | Given | Ask | Answer | None
"""`None`: nothing but the head, a sign of life."""

encode = msgspec.msgpack.Encoder().encode
decode_head = msgspec.msgpack.Decoder(Head).decode
decode_body = msgspec.msgpack.Decoder(Body).decode
