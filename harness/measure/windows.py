"""Timed windows: a prefill burst and a decode burst, nothing but the engine's calls between the clock readings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.clock import now_ns
from harness.measure.engine import Engine
from harness.measure.telemetry.counters import Counters, counters, spent
from harness.protocol import Turn
from harness.records import Burst
from harness.terms import BurstKind


def prefill_window(engine: Engine, turn: Turn, tokens: Sequence[int]) -> Burst:
    """Clear the cache, then time the prompt."""
    engine.truncate(0)
    before = counters()
    start_ns = now_ns()
    engine.prefill(tokens)
    end_ns = now_ns()
    return _burst(turn, BurstKind.PREFILL, (start_ns, end_ns), len(tokens), (), 0, (before, counters()))


def decode_window(
    engine: Engine, turn: Turn, first: Sequence[int], tokens: Iterator[Sequence[int]] | None, count: int
) -> tuple[Burst, list[int]]:
    """Decode `count` steps from where the cache stands.

    Args:
        engine: the cache already holds the depth.
        turn: whose kind, round and place go into the burst.
        first: ids of the first step, one a sequence.
        tokens: ids of the further steps; None feeds back the arg-max (greedy text).
        count: steps.

    Returns:
        The burst, and the arg-max of every step.
    """
    token_ns, chosen, sampling_ns = [0] * count, [0] * count, 0
    fed = first
    before = counters()
    window_start_ns = mark_ns = now_ns()
    for step in range(count):
        engine.decode(fed)
        decoded_ns = now_ns()
        chosen[step] = engine.argmax()
        sampled_ns = now_ns()
        token_ns[step] = decoded_ns - mark_ns
        sampling_ns += sampled_ns - decoded_ns
        fed = (chosen[step],) * engine.width if tokens is None else next(tokens)
        mark_ns = now_ns()
    window = (window_start_ns, now_ns())
    return _burst(turn, turn.kind, window, count, tuple(token_ns), sampling_ns, (before, counters())), chosen


def _burst(
    turn: Turn,
    kind: BurstKind,
    window: tuple[int, int],
    tokens: int,
    token_ns: tuple[int, ...],
    sampling_ns: int,
    read: tuple[Counters, Counters],
) -> Burst:
    used = spent(*read)
    return Burst(
        kind=kind,
        round=turn.round,
        position=turn.position,
        start_ns=window[0],
        end_ns=window[1],
        tokens=tokens,
        engine_ns=sum(token_ns) if token_ns else window[1] - window[0],
        token_ns=token_ns,
        sampling_ns=sampling_ns,
        cpu_ns=used.cpu_ns,
        major_faults=used.major_faults,
        minor_faults=used.minor_faults,
        voluntary_switches=used.voluntary_switches,
        involuntary_switches=used.involuntary_switches,
        foreign_cpu_ns=used.foreign_cpu_ns,
        steal_ns=used.steal_ns,
    )
