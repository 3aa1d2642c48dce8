"""Token ids to feed: random or repeated, drawn from the workload's seed so that every run sees the same."""

from __future__ import annotations

import random
from collections.abc import Iterator

from harness.records import Workload
from harness.terms import TokenSource

REPEATED_TOKEN = 17


def prompt(workload: Workload, vocabulary_size: int, count: int) -> list[int]:
    """The first `count` ids of the prompt."""
    if workload.source is TokenSource.REPEATED:
        return [REPEATED_TOKEN % vocabulary_size] * count
    draw = random.Random(f"{workload.seed}:prompt")  # noqa: S311 - token ids, no secret
    return [draw.randrange(vocabulary_size) for _ in range(count)]


def stream(workload: Workload, vocabulary_size: int, round_number: int) -> Iterator[tuple[int, ...]]:
    """Endless decode steps of one round, `batch_width` ids each; another round draws others."""
    draw = random.Random(f"{workload.seed}:{round_number}")  # noqa: S311 - token ids, no secret
    repeated = (REPEATED_TOKEN % vocabulary_size,) * workload.batch_width
    while True:
        if workload.source is TokenSource.REPEATED:
            yield repeated
        else:
            yield tuple(draw.randrange(vocabulary_size) for _ in range(workload.batch_width))
