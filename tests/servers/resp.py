"""Where one message of the Redis protocol ends. Enough to take a stream apart and to send it on byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

_LINES = b"+-:_#,("  # a line and nothing more: simple string, error, integer, null, boolean, double, big number
_BULKS = b"$=!"  # a length, and so many bytes: string, verbatim string, long error
_LISTS = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}  # a count of messages or pairs of them


def end_of_message(data: bytes | bytearray, start: int = 0) -> int | None:
    """The position after the message that begins at `start`; `None` if it is not all there yet."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, at = data[start], line_end + 2
    if kind in _LINES:
        return at
    count = int(data[start + 1 : line_end])
    if kind in _BULKS:
        if count < 0:
            return at
        return at + count + 2 if len(data) >= at + count + 2 else None
    position: int | None = at
    messages = max(count, 0) * _LISTS[kind]
    if kind == ord("|"):
        messages += 1  # attributes stand before the message that they belong to
    for _ in range(messages):
        if position is None:
            break
        position = end_of_message(data, position)
    return position


def take_messages(buffer: bytearray) -> Iterator[bytes]:
    """The complete messages at the start of `buffer`, which are removed from it."""
    while buffer:
        end = end_of_message(buffer)
        if end is None:
            return
        message = bytes(buffer[:end])
        del buffer[:end]
        yield message


def arguments(request: bytes) -> list[bytes]:
    """The words of a command as clients send it: an array of bulk strings."""
    words = []
    at = request.index(b"\r\n") + 2
    for _ in range(int(request[1 : at - 2])):
        line_end = request.index(b"\r\n", at)
        length = int(request[at + 1 : line_end])
        words.append(request[line_end + 2 : line_end + 2 + length])
        at = line_end + 4 + length
    return words
