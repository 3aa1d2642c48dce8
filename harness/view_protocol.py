"""What the study says to a process that looks at another machine for it, and what that one says: one JSON line each."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from harness.records import Struct


class KeptState(StrEnum):
    """Whether a file is where it belongs."""

    HERE = "here"
    MISSING = "missing"
    WRONG = "wrong"  # what was brought is not what was promised; it has been removed


class Look(Struct, frozen=True, tag="look"):
    """Read every file that one of these patterns names."""

    patterns: tuple[str, ...]


class Keep(Struct, frozen=True, tag="keep"):
    """Say whether a file lies in a folder; hash what was brought under its partial name, and give it its own."""

    folder: str
    name: str
    size_bytes: int
    sha256: str


class Sight(Struct, frozen=True, tag="sight"):
    """What was seen, and when on that machine's monotonic clock."""

    now_ns: int
    files: dict[str, str]
    cores: int
    memory_available_bytes: int


class Kept(Struct, frozen=True, tag="kept"):
    """What became of a file."""

    state: KeptState
    found_sha256: str = ""


Question = Look | Keep
Answer = Sight | Kept


def partial(name: str) -> str:
    """What a file is called until its hash is known to be right."""
    return f"{name}.part"


def encode(message: Question | Answer) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode_question(line: bytes) -> Question:
    """A line to the process; msgspec.DecodeError when it is none."""
    question: Question = msgspec.json.decode(line, type=Question)
    return question


def decode_answer(line: bytes) -> Answer:
    """A line from the process; msgspec.DecodeError when it is none."""
    said: Answer = msgspec.json.decode(line, type=Answer)
    return said
