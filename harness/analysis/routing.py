"""What the routers select: evenness, coverage, what adjacent tokens share, and what a cache of experts would hold.

Beside each number stands what a router that selects at random, evenly and independently would give.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.analysis.stats import Floats, Interval, interval_of_mean
from harness.records import RoutingTrace, Struct

WINDOWS = (1, 2, 4, 8, 16, 32)
CACHE_PARTS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of a layer's experts

Selected = NDArray[np.int64]  # [steps, layers, experts used]


class Unique(Struct, frozen=True):
    """Different experts that a layer needs for some successive tokens."""

    window_tokens: int
    experts: float
    at_random: float


class CacheHits(Struct, frozen=True):
    """A least-recently-used cache of experts in each layer, counted over the second half of each trace."""

    experts_held: int
    hit_rate: float
    at_random: float


class Routing(Struct, frozen=True):
    """Of one or more traces of the same model."""

    expert_count: int
    expert_used_count: int
    layer_numbers: tuple[int, ...]
    rows: int
    selections: tuple[tuple[int, ...], ...]  # layer -> expert -> how often
    entropy_bits: tuple[float, ...]  # one a layer; log2(expert_count) when even
    coverage: tuple[float, ...]  # one a layer: experts selected at least once, of all
    overlap: Interval | None  # part of a token's experts that the token before had selected too
    overlap_at_random: float
    unique: tuple[Unique, ...]
    unique_per_step: float  # experts a layer needs for one step of all sequences
    cache: tuple[CacheHits, ...]

    @property
    def entropy_fraction(self) -> float:
        """Mean entropy over that of an even router."""
        return float(np.mean(self.entropy_bits) / np.log2(self.expert_count)) if self.expert_count > 1 else 1.0


def routing(traces: Sequence[RoutingTrace]) -> Routing | None:
    """Facts of traces that agree in experts and layers; null without a row."""
    kept = [trace for trace in traces if trace.selected]
    if not kept:
        return None
    first = kept[0]
    count, used = first.expert_count, first.expert_used_count
    selections = sum((_selections(trace) for trace in kept), start=np.zeros((len(first.layer_numbers), count), int))
    sequences = [sequence for trace in kept for sequence in _sequences(trace)]
    return Routing(
        expert_count=count,
        expert_used_count=used,
        layer_numbers=first.layer_numbers,
        rows=sum(len(trace.selected) for trace in kept),
        selections=tuple(tuple(int(n) for n in row) for row in selections),
        entropy_bits=tuple(float(bits) for bits in _entropy_bits(selections)),
        coverage=tuple(float(part) for part in (selections > 0).mean(axis=1)),
        overlap=_overlap(sequences),
        overlap_at_random=used / count,
        unique=tuple(_unique(sequences, count, used)),
        unique_per_step=_unique_per_step(kept),
        cache=tuple(_cache(kept)),
    )


def _array(trace: RoutingTrace) -> Selected:
    return np.array(trace.selected, dtype=np.int64)


def _selections(trace: RoutingTrace) -> NDArray[np.int64]:
    selected = _array(trace)
    columns = [
        np.bincount(selected[:, place].ravel(), minlength=trace.expert_count) for place in range(selected.shape[1])
    ]
    return np.array(columns)


def _entropy_bits(selections: NDArray[np.int64]) -> Floats:
    shares = selections / np.maximum(selections.sum(axis=1, keepdims=True), 1)
    bits: Floats = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=1)
    return bits


def _bursts(trace: RoutingTrace) -> Iterator[Selected]:
    """Rows of each burst as [steps, width, layers, used]."""
    selected, start = _array(trace), 0
    for steps in trace.burst_steps:
        rows = selected[start : start + steps * trace.batch_width]
        start += rows.shape[0]
        yield rows.reshape(steps, trace.batch_width, *rows.shape[1:])


def _sequences(trace: RoutingTrace) -> Iterator[Selected]:
    """Each sequence of each burst by itself: only its tokens follow one another."""
    for burst in _bursts(trace):
        for place in range(trace.batch_width):
            yield burst[:, place]


def _overlap(sequences: Sequence[Selected]) -> Interval | None:
    series = []
    for selected in sequences:
        if selected.shape[0] > 1:
            same = (selected[1:, :, :, None] == selected[:-1, :, None, :]).any(axis=3)
            series.append(same.mean(axis=(1, 2)))
    return interval_of_mean(series) if series else None


def _held(selected: Selected, count: int) -> NDArray[np.bool_]:
    """[steps, layers, experts]: whether an expert is among the selected."""
    held = np.zeros((*selected.shape[:2], count), dtype=bool)
    np.put_along_axis(held, selected, True, axis=2)
    return held


def _unique(sequences: Sequence[Selected], count: int, used: int) -> Iterator[Unique]:
    """Windows that fit into a burst."""
    for window in WINDOWS:
        found = []
        for selected in sequences:
            if selected.shape[0] < window:
                continue
            running = np.cumsum(_held(selected, count), axis=0)
            before = np.concatenate([np.zeros_like(running[:1]), running[:-window]])
            found.append(((running[window - 1 :] - before) > 0).sum(axis=2).ravel())
        if found:
            at_random = count * (1 - (1 - used / count) ** window)
            yield Unique(window_tokens=window, experts=float(np.concatenate(found).mean()), at_random=at_random)


def _unique_per_step(traces: Sequence[RoutingTrace]) -> float:
    found = []
    for trace in traces:
        for burst in _bursts(trace):
            steps, width, layers, used = burst.shape
            together = burst.transpose(0, 2, 1, 3).reshape(steps, layers, width * used)
            found.append(_held(together, trace.expert_count).sum(axis=2).ravel())
    return float(np.concatenate(found).mean())


def _cache(traces: Sequence[RoutingTrace]) -> Iterator[CacheHits]:
    count, used = traces[0].expert_count, traces[0].expert_used_count
    sizes = sorted({max(1, round(part * count)) for part in CACHE_PARTS})
    for size in sizes:
        if size < used:
            continue  # smaller than what one token needs
        hits, asked = (sum(column) for column in zip(*(_lru(trace, size) for trace in traces), strict=True))
        if asked:
            yield CacheHits(experts_held=size, hit_rate=hits / asked, at_random=size / count)


def _lru(trace: RoutingTrace, size: int) -> tuple[int, int]:
    """(hits, selections) of the second half of a trace; the first half fills the cache."""
    hits = asked = 0
    half = len(trace.selected) // 2
    for place in range(len(trace.layer_numbers)):
        held: OrderedDict[int, None] = OrderedDict()
        for number, row in enumerate(trace.selected):
            for expert in row[place]:
                known = expert in held
                held[expert] = None
                held.move_to_end(expert)
                if len(held) > size:
                    held.popitem(last=False)
                if number >= half:
                    asked += 1
                    hits += known
    return hits, asked
