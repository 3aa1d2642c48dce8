"""Why the answer is what it is: what else this machine's records tell, one sentence each, none without its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from harness.analysis.attribution import Attribution, attribution
from harness.analysis.ceiling import Curve, Point, curves
from harness.analysis.evidence import Evidence
from harness.analysis.growth import Growth, growths
from harness.analysis.profile_formulas import MOE_BLOCK, plain_profiles
from harness.analysis.ratios import Ratio
from harness.analysis.roofline import Hypothesis, contrast
from harness.analysis.runs import Cell
from harness.analysis.stats import Interval
from harness.analysis.tables.roofline import rooflines
from harness.report.formats import percent, significant
from harness.terms import BurstKind, KvType, NodeCategory
from harness.units import NS_PER_MS, human_bytes, ms_text

PARTS = {
    "feed-forward": (*MOE_BLOCK, NodeCategory.DENSE_FFN),
    "attention and its cache": (NodeCategory.ATTENTION, NodeCategory.KV),
    "logits": (NodeCategory.HEAD,),
}
FAVOURS = {
    Hypothesis.ACTIVE: "a token pays for what it reads, not for what the file holds",
    Hypothesis.TOTAL: "a token pays for the whole file, not for what it reads alone",
    Hypothesis.UNDECIDED: "neither is favoured",
}


def reasons(evidence: Evidence, ratios: Sequence[Ratio]) -> tuple[str, ...]:
    """Sentences about one MoE model beside the dense one whose tokens read about as many bytes.

    Args:
        evidence: all of it.
        ratios: of that MoE model over dense models of one machine; at least one.
    """
    chosen = min(ratios, key=_unlikeness)
    found = (why(evidence, chosen) for why in REASONS)
    return tuple(sentence for sentence in found if sentence)


def _unlikeness(ratio: Ratio) -> float:
    active = [max(1, cell.model.weight_bytes_active) for cell in (ratio.candidate, ratio.baseline)]
    return abs(math.log(active[0] / active[1]))


def _bytes(evidence: Evidence, ratio: Ratio) -> str:
    found = {roof.cell: roof for roof in rooflines(evidence)}
    if ratio.candidate not in found or ratio.baseline not in found:
        return ""
    predicted = contrast(found[ratio.candidate], found[ratio.baseline], ratio.interval)
    if predicted.favoured not in FAVOURS:
        return ""
    name = evidence.names.model(ratio.baseline.model)
    return (
        f"Bytes: by what a token reads it would be {predicted.active_ratio:.2f} times as fast as {name}, by all that "
        f"its file holds {predicted.total_ratio:.2f} times. {ratio.interval.value:.2f} was measured: "
        f"{FAVOURS[predicted.favoured]}."
    )


def _time(evidence: Evidence, ratio: Ratio) -> str:
    one, other = (_profile(evidence, cell) for cell in (ratio.candidate, ratio.baseline))
    if one is None or other is None:
        return ""
    name = evidence.names.model(ratio.baseline.model)
    parts = [f"{word} {_ms(one, categories)} against {_ms(other, categories)} ms" for word, categories in PARTS.items()]
    whole = f"{_ms(one, tuple(NodeCategory))} against {_ms(other, tuple(NodeCategory))} ms"
    bounds = " Profiling changed too much for these to be more than bounds."
    loose = bounds if one.are_bounds or other.are_bounds else ""
    return f"Time: a token's nodes take {whole} in {name}; {', '.join(parts)}.{loose}"


def _profile(evidence: Evidence, cell: Cell) -> Attribution | None:
    """The plain profile of a cell's model on its machine."""
    for runs in plain_profiles(evidence, cell.model.name):
        same = (runs.cell.dataset, runs.cell.setup, runs.cell.model) == (cell.dataset, cell.setup, cell.model)
        if same and (found := attribution(runs)) is not None:
            return found
    return None


def _ms(found: Attribution, categories: Iterable[NodeCategory]) -> str:
    chosen = set(categories)
    return significant(sum(share.ns_per_token for share in found.shares if share.category in chosen) / NS_PER_MS)


def _routing(evidence: Evidence, ratio: Ratio) -> str:
    found = _profile(evidence, ratio.candidate)
    if found is None or found.routing_in_moe is None:
        return ""
    share = found.routing_in_moe
    return f"Routing: choosing experts takes {percent(share.value)} %{_bounds(share, percent)} of the MoE block's time."


def _growth(evidence: Evidence, ratio: Ratio) -> str:
    for family in growths(evidence):
        cell = family.cells[0]
        if _same_machine(cell, ratio.candidate) and cell.model.name == ratio.candidate.model.name:
            costs = [text for text in (_idle_cost(family), _active_cost(family)) if text]
            return f"By experiment, {len(family.cells)} models that differ in experts alone: {'; '.join(costs)}."
    return ""


def _idle_cost(family: Growth) -> str:
    slope = family.ns_per_total_gb
    if slope is None:
        return ""
    return f"a GB that a token does not read costs it {ms_text(slope.value)} ms{_bounds(slope, ms_text)}"


def _active_cost(family: Growth) -> str:
    slope = family.ns_per_active_gb
    if slope is None:
        return ""
    return f"a GB that a token reads costs it {ms_text(slope.value)} ms{_bounds(slope, ms_text)}"


def _context(evidence: Evidence, ratio: Ratio) -> str:
    one, other = (_deepest(evidence, cell) for cell in (ratio.candidate, ratio.baseline))
    if one is None or other is None or one.candidate.workload.depth_tokens != other.candidate.workload.depth_tokens:
        return ""
    depth, start = (cell.workload.depth_tokens for cell in (one.candidate, one.baseline))
    name = evidence.names.model(ratio.baseline.model)
    kept, others = (f"{percent(r.interval.value)} %{_bounds(r.interval, percent)}" for r in (one, other))
    there = _beside(evidence, one.candidate, other.candidate)
    return f"Context: at {depth:,} tokens it keeps {kept} of its speed at {start:,}, {name} {others}{there}."


def _beside(evidence: Evidence, cell: Cell, dense: Cell) -> str:
    """How the two compare at that depth, and what a token of each cache takes: the likely cause."""
    told = ""
    for ratio in evidence.ratios_of(cell):
        if ratio.baseline == dense and ratio.quantity is BurstKind.DECODE:
            told = f"; there it is {_two(ratio.interval.value)} times as fast{_bounds(ratio.interval, _two)}"
    one, other = (_cache_bytes_per_token(evidence, of) for of in (cell, dense))
    if one and other:
        told += f". Its cache takes {human_bytes(one)} a token, the other's {human_bytes(other)}"
    return told


def _cache_bytes_per_token(evidence: Evidence, cell: Cell) -> float | None:
    """By llama.cpp's own size of the cache."""
    runs = (run for found in evidence.timed if found.cell == cell for run in found.runs)
    sizes = [run.memory.kv_bytes for run in runs if run.memory is not None]
    return sizes[0] / cell.settings.context_tokens if sizes and cell.settings.context_tokens else None


def _two(value: float) -> str:
    return f"{value:.2f}"


def _deepest(evidence: Evidence, cell: Cell) -> Ratio | None:
    """A model's speed at its greatest depth over that at its smallest, nothing else being varied."""
    found = [
        ratio
        for ratio in evidence.ratios
        if ratio.quantity is BurstKind.DECODE
        and ratio.candidate.model == ratio.baseline.model == cell.model
        and _same_machine(ratio.candidate, cell)
        and ratio.candidate.workload.kv_type == ratio.baseline.workload.kv_type == KvType.F16
        and ratio.candidate.workload.depth_tokens > ratio.baseline.workload.depth_tokens
    ]
    return max(found, key=lambda ratio: ratio.candidate.workload.depth_tokens, default=None)


def _memory(evidence: Evidence, ratio: Ratio) -> str:
    one, other = (_least(evidence, cell) for cell in (ratio.candidate, ratio.baseline))
    if one is None or other is None:
        return ""
    name = evidence.names.model(ratio.baseline.model)
    (curve, smallest), (_, others) = one, other
    below = next((point for point in curve.points if 0 < point.limit_bytes < smallest.limit_bytes), None)
    then = "" if below is None else f" With {_gb(below)} {_what_is_left(curve, below)}."
    return f"Memory: it keeps its speed down to {_gb(smallest)}, {name} down to {_gb(others)}.{then}"


def _least(evidence: Evidence, cell: Cell) -> tuple[Curve, Point] | None:
    """Of all ways to load a model, the one that keeps its speed with the least memory, and that limit."""
    found = [
        (curve, curve.smallest)
        for curve in curves(evidence)
        if curve.model == cell.model and _same_machine(curve.cell, cell) and curve.smallest is not None
    ]
    return min(found, key=lambda pair: pair[1].limit_bytes, default=None)


def _what_is_left(curve: Curve, point: Point) -> str:
    share = curve.share(point)
    if point.out_of_memory:
        return "it is killed"
    return "it waits for the disk" if share is None else f"{percent(share)} % of it are left"


def _gb(point: Point) -> str:
    return f"{point.limit_bytes / 1e9:.3g} GB"


def _bounds(interval: Interval, write: Callable[[float], str]) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f" ({write(interval.low)} to {write(interval.high)})"


def _same_machine(one: Cell, other: Cell) -> bool:
    """Whether natively or in a container."""
    return (one.dataset, one.setup.fingerprint) == (other.dataset, other.setup.fingerprint)


REASONS = (_bytes, _time, _routing, _growth, _context, _memory)
