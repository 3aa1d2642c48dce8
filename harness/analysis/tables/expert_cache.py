"""Expert cache: how many experts successive tokens need, and how often a cache of some would hold them."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.routing import Routing, routing
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.terms import RunKind

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="source", title="Tokens"),
    Column(key="overlap", title="Kept from token to token", style=Style.PERCENT, unit="%"),
    Column(key="overlap_at_random", title="At random", style=Style.PERCENT, unit="%"),
    Column(key="unique_window_tokens", title="Window", style=Style.COUNT, unit="tokens"),
    Column(key="unique_experts", title="Different experts in it", style=Style.FIXED1),
    Column(key="unique_at_random", title="At random", style=Style.FIXED1),
    Column(key="cache_experts", title="Cache", style=Style.COUNT, unit="experts a layer"),
    Column(key="cache_hit_rate", title="Hits", style=Style.PERCENT, unit="%"),
    Column(key="cache_at_random", title="At random", style=Style.PERCENT, unit="%"),
)


def table(evidence: Evidence) -> Table:
    """For each traced cell a row a window or cache size, whichever are more."""
    rows = []
    for runs in evidence.of_kind(RunKind.ROUTING):
        found = routing([run.routing for run in runs.runs if run.routing is not None])
        if found is None:
            continue
        name = evidence.names.cell(runs.cell)
        head = (evidence.setup_name(runs.cell) or None, name, runs.cell.workload.source.value)
        for place in range(max(len(found.unique), len(found.cache))):
            rows.append(Row(values=(*head, *_values(found, place)), marks=watermarks(runs.cell)))
    return make("expert_cache", "Expert cache", COLUMNS, rows, note=NOTE, absent="no run traced the routers")


def _values(found: Routing, place: int) -> tuple[Value, ...]:
    overlap = (found.overlap.value, found.overlap_at_random) if place == 0 and found.overlap else (None, None)
    unique = found.unique[place] if place < len(found.unique) else None
    cache = found.cache[place] if place < len(found.cache) else None
    return (
        *overlap,
        *((unique.window_tokens, unique.experts, unique.at_random) if unique else (None, None, None)),
        *((cache.experts_held, cache.hit_rate, cache.at_random) if cache else (None, None, None)),
    )


NOTE = (
    "Means over layers. Cache: least recently used, one a layer, counted over the second half of each trace. "
    "At random: what a router gives that selects evenly and independently."
)
