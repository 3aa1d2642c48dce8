"""crosscheck.json of a dataset: the same cells through this harness and through llama-bench, raw values only."""

from __future__ import annotations

import msgspec

from harness.protocol import WorkerFacts
from harness.records import ModelRef, Struct

CROSSCHECK = "crosscheck.json"
CROSSCHECK_SCHEMA = 1


class CrosscheckRound(Struct, frozen=True):
    """One turn of each side, next to each other in time."""

    round: int
    harness_first: bool
    token_ns: tuple[int, ...]  # the harness: each decode call of its bursts that counts
    repetition_ns: tuple[int, ...]  # llama-bench: each repetition as it printed it
    suspended_ns: int  # how long llama-bench stood suspended before this turn; 0: it had not begun


class CrosscheckCell(Struct, frozen=True):
    """One model; each block is one process of either side, alive together."""

    model: ModelRef
    threads: int
    depth_tokens: int
    decode_tokens: int  # that count of a burst, and of a repetition
    settle_tokens: int  # 0; in older files so many first tokens of `token_ns` were kept, and don't count
    blocks: tuple[tuple[CrosscheckRound, ...], ...]
    harness_loaded_first: tuple[bool, ...] = ()  # of each block; empty in older files, where it always did
    incomplete: str = ""  # why rounds are missing


class BenchFacts(Struct, frozen=True):
    """What llama-bench tells of itself."""

    sha256: str
    build_commit: str
    backends: str
    cpu_info: str


class Crosscheck(Struct, frozen=True):
    """The whole file."""

    schema: int
    synthetic: bool  # made with the fake engine
    taken_at_utc: str
    harness: WorkerFacts | None
    bench: BenchFacts | None
    cells: tuple[CrosscheckCell, ...]


def encode(crosscheck: Crosscheck) -> bytes:
    """As JSON, a line a field."""
    return msgspec.json.format(msgspec.json.encode(crosscheck), indent=1) + b"\n"


def decode(data: bytes) -> Crosscheck:
    """Back into structs.

    Raises:
        ValueError: not this file, or another version of it.
    """
    try:
        found = msgspec.json.decode(data, type=Crosscheck)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a cross-check: {error}") from None
    if found.schema != CROSSCHECK_SCHEMA:
        raise ValueError(f"schema version {found.schema!r}, this bundle reads {CROSSCHECK_SCHEMA}")
    return found
