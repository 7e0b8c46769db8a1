"""Commands, and their bytes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import hiredis

Command: TypeAlias = tuple[str | int, ...]


class Packed:
    """Commands of which there are the bytes alone, where these can be had for less than by packing each command.

    A connection needs no more. For whoever looks at the commands, to find their keys or to hand them to another client, they
    are read out of the bytes again.

    Args:
        data: the bytes. All texts in them are UTF-8.
        count: how many commands.
    """

    __slots__ = ("_commands", "_count", "data")

    def __init__(self, data: bytes, count: int) -> None:
        self.data = data
        self._count = count
        self._commands: list[Command] | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Command]:
        if self._commands is None:
            reader = hiredis.Reader(encoding="utf-8")
            reader.feed(self.data)
            self._commands = [tuple(reader.gets()) for _ in range(self._count)]
        return iter(self._commands)


Commands: TypeAlias = list[Command] | Packed


def together(first: Commands, second: Commands) -> Commands:
    """Some commands and then others, packed if all of them are."""
    if isinstance(first, Packed) and isinstance(second, Packed):
        return Packed(first.data + second.data, len(first) + len(second))
    return [*first, *second]


def pack(commands: Commands) -> bytes:
    """The commands as the server reads them."""
    if isinstance(commands, Packed):
        return commands.data
    return _pack(commands[0]) if len(commands) == 1 else b"".join(map(_pack, commands))


_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]
