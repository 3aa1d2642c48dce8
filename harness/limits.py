"""What a line of records from a stranger may hold at most: bounded memory, and numbers that every column takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

LINE_BYTES = 256_000_000  # routing traces, the longest records, take some megabytes
_LARGEST = 2**62
_ANY_DIGIT = bytes.maketrans(b"0123456789", b"0" * 10)
_LONG_NUMBER = b"0" * 19  # once every digit is a nought: seven times as fast as a pattern, and lines are many


class TooLongError(ValueError):
    """A line beyond the limit; the message names its number."""


class Lines(Protocol):
    """An open file, compressed or not."""

    def readline(self, size: int = -1, /) -> bytes:
        """At most so many bytes of the next line; empty at the end."""


def numbered(stream: Lines, limit_bytes: int = LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; a line that never ends is not read to its end.

    Raises:
        TooLongError: a line is longer than the limit.
    """
    number = 1
    while line := stream.readline(limit_bytes + 1):
        if len(line) > limit_bytes:
            raise TooLongError(f"line {number} is longer than {limit_bytes / 1e6:.0f} MB")
        yield number, line
        number += 1


def holds_huge_number(line: bytes) -> bool:
    """Whether a whole number in the JSON would not fit into a signed 64-bit column, with a bit to spare."""
    return _LONG_NUMBER in line.translate(_ANY_DIGIT) and _is_huge(msgspec.json.decode(line))


def _is_huge(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_is_huge, value.values()))
    if isinstance(value, list):
        return any(map(_is_huge, value))
    return isinstance(value, int) and abs(value) > _LARGEST
