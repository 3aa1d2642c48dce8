"""Timed windows: a prefill burst and a decode burst, nothing but the engine's calls between the clock readings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import thread_time_ns

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
    steps = _Steps((), 0, 0, None, ())
    return _burst(turn, BurstKind.PREFILL, (start_ns, end_ns), len(tokens), steps, (before, counters()))


def decode_window(
    engine: Engine, turn: Turn, first: Sequence[int], tokens: Iterator[Sequence[int]] | None, count: int
) -> tuple[Burst, tuple[int, ...]]:
    """Decode `count` steps from where the cache stands.

    Args:
        engine: the cache already holds the depth.
        turn: whose kind, round and place go into the burst.
        first: ids of the first step, one a sequence.
        tokens: ids of the further steps; None feeds back the arg-max (greedy text).
        count: steps.

    Returns:
        The burst, and every arg-max: of all steps of a text, of the last step when the tokens are given.
    """
    given = None if tokens is None else [first, *itertools.islice(tokens, count - 1)]
    before = counters()
    start_ns = now_ns()
    steps = _greedy(engine, first, count) if given is None else _fed(engine, given)
    window = (start_ns, now_ns())
    return _burst(turn, turn.kind, window, count, steps, (before, counters())), steps.chosen


@dataclass(frozen=True)
class _Steps:
    """What the steps of a window took."""

    token_ns: tuple[int, ...]
    sampling_ns: int
    samplings: int
    harness_cpu_ns: int | None  # of this thread, between the engine's calls
    chosen: tuple[int, ...]


def _fed(engine: Engine, given: Sequence[Sequence[int]]) -> _Steps:
    """Given tokens: nothing needs the arg-max, which would cost more than all else between the calls; one is timed."""
    token_ns, cpu_ns, left_ns = [0] * len(given), 0, thread_time_ns()
    for index, ids in enumerate(given):
        engine.place(ids)
        cpu_ns += thread_time_ns() - left_ns
        start_ns = now_ns()
        engine.step()
        token_ns[index] = now_ns() - start_ns
        left_ns = thread_time_ns()
    start_ns = now_ns()
    chosen = engine.argmax()
    return _Steps(tuple(token_ns), now_ns() - start_ns, 1, cpu_ns, (chosen,))


def _greedy(engine: Engine, first: Sequence[int], count: int) -> _Steps:
    """Each step is fed the arg-max of the one before."""
    token_ns, chosen = [0] * count, [0] * count
    sampling_ns, cpu_ns, ids, left_ns = 0, 0, first, thread_time_ns()
    for index in range(count):
        engine.place(ids)
        cpu_ns += thread_time_ns() - left_ns
        start_ns = now_ns()
        engine.step()
        decoded_ns = now_ns()
        chosen[index] = engine.argmax()
        sampling_ns += now_ns() - decoded_ns
        left_ns = thread_time_ns()
        token_ns[index] = decoded_ns - start_ns
        ids = (chosen[index],) * engine.width
    return _Steps(tuple(token_ns), sampling_ns, count, cpu_ns, tuple(chosen))


def _burst(
    turn: Turn,
    kind: BurstKind,
    window: tuple[int, int],
    tokens: int,
    steps: _Steps,
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
        engine_ns=sum(steps.token_ns) if steps.token_ns else window[1] - window[0],
        token_ns=steps.token_ns,
        sampling_ns=steps.sampling_ns,
        samplings=steps.samplings,
        harness_cpu_ns=steps.harness_cpu_ns,
        cpu_ns=used.cpu_ns,
        major_faults=used.major_faults,
        minor_faults=used.minor_faults,
        voluntary_switches=used.voluntary_switches,
        involuntary_switches=used.involuntary_switches,
        foreign_cpu_ns=used.foreign_cpu_ns,
        steal_ns=used.steal_ns,
    )
