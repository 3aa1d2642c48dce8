"""Where a decode step's time goes: shares of categories, whether they add up, and what profiling itself changed.

Profiled and unprofiled bursts of one round are a pair: the same weights, the same tokens, moments apart. Node times are
net: each timed stretch bears one callback and synchronisation, whose cost nodes that compute nothing show.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from harness.analysis.cells import CellRuns, time_per_token
from harness.analysis.profile_formulas import (
    EVERYTHING,
    MOE_BLOCK,
    ROUTING,
    burst_means,
    counted_rounds,
    net_ns,
    profiles,
)
from harness.analysis.runs import Cell, Run
from harness.analysis.stats import Floats, Interval, geometric_interval, interval_of_mean
from harness.records import NodeProfile, Struct
from harness.terms import BurstKind, NodeCategory, ProfileMode, RunKind

ADDITIVITY_LIMIT = 0.05  # beyond either limit the shares are bounds
PERTURBATION_LIMIT = 0.10


class Share(Struct, frozen=True):
    """One category of a decode step."""

    category: NodeCategory
    ns_per_token: float  # net
    share: Interval  # of all node times; over categories the values sum to 1
    low_bound: float  # of the unprofiled token, were all that does not add up this category's
    high_bound: float
    weight_bytes: int
    kv_bytes: int
    activation_bytes: int


class Attribution(Struct, frozen=True):
    """A decode step of one cell, divided."""

    cell: Cell
    modes: tuple[ProfileMode, ...]
    tokens: int
    unprofiled_ns: float  # per token
    node_ns: float  # per token, net, all categories
    shares: tuple[Share, ...]
    additivity: Interval | None  # net node times over the unprofiled token, by rounds
    perturbation: Interval | None  # profiled over unprofiled token, by rounds
    routing_in_moe: Interval | None  # router over the MoE block; null for dense models
    empty_ns: float  # cost of one stretch
    stretches: int
    unknown_nodes: tuple[str, ...]
    run_ids: tuple[str, ...]

    @property
    def are_bounds(self) -> bool:
        """Whether profiling changed too much, or too little adds up, for the shares to be taken as they are."""
        checks = ((self.additivity, ADDITIVITY_LIMIT), (self.perturbation, PERTURBATION_LIMIT))
        return any(found is None or abs(found.value - 1) > limit for found, limit in checks)


def attribution(runs: CellRuns) -> Attribution | None:
    """The division of a cell's decode step; null when nothing was profiled, or nothing unprofiled stands beside it."""
    found = profiles(runs)
    if runs.kind is not RunKind.PROFILE or not found or runs.decode_rows.empty:
        return None
    rows = runs.decode_rows
    unprofiled_ns = float(rows["counted_ns"].sum() / rows["counted_tokens"].sum())
    pairs = _pairs(runs)
    node_ns = sum(_mean_ns(found, category) for category in _present(found))
    gap_ns = _unexplained_ns(pairs, unprofiled_ns, node_ns)
    return Attribution(
        cell=runs.cell,
        modes=tuple(sorted({profile.mode for profile in found})),
        tokens=sum(len(profile.total_ns) for profile in found),
        unprofiled_ns=unprofiled_ns,
        node_ns=node_ns,
        shares=tuple(_share(found, category, unprofiled_ns, gap_ns) for category in _present(found)),
        additivity=_ratio(pairs, "node_ns"),
        perturbation=_ratio(pairs, "profiled_ns"),
        routing_in_moe=share_of(found, ROUTING, MOE_BLOCK),
        empty_ns=float(np.mean([np.median(p.empty_ns) if p.empty_ns else 0.0 for p in found])),
        stretches=max(sum(profile.category_stretches.values()) for profile in found),
        unknown_nodes=tuple(sorted({name for profile in found for name in profile.unknown_nodes})),
        run_ids=runs.run_ids,
    )


def share_of(
    found: Iterable[NodeProfile], part: Iterable[NodeCategory], whole: Iterable[NodeCategory]
) -> Interval | None:
    """Share of some categories in others, by bursts; null where the whole took no time."""
    parts, wholes = tuple(part), tuple(whole)
    series = [
        burst_means(profile, net_ns(profile, parts)) / burst_means(profile, net_ns(profile, wholes))
        for profile in found
        if profile.total_ns and net_ns(profile, wholes).min() > 0
    ]
    return interval_of_mean(series) if series else None


def _present(found: Iterable[NodeProfile]) -> tuple[NodeCategory, ...]:
    seen = {category for profile in found for category in profile.category_ns}
    return tuple(category for category in NodeCategory if category in seen)


def _mean_ns(found: list[NodeProfile], category: NodeCategory) -> float:
    return float(np.concatenate([net_ns(profile, (category,)) for profile in found]).mean())


def _share(found: list[NodeProfile], category: NodeCategory, unprofiled_ns: float, gap_ns: float) -> Share:
    ns_per_token = _mean_ns(found, category)
    total_ns = sum(_mean_ns(found, other) for other in _present(found))
    interval = share_of(found, (category,), EVERYTHING)
    value = ns_per_token / total_ns if total_ns else 0.0
    traffic = next((p.traffic[category] for p in found if category in p.traffic), None)
    return Share(
        category=category,
        ns_per_token=ns_per_token,
        share=_at(value, interval),
        low_bound=max(0.0, (ns_per_token - gap_ns) / unprofiled_ns),
        high_bound=min(1.0, (ns_per_token + gap_ns) / unprofiled_ns),
        weight_bytes=traffic.weight_bytes if traffic else 0,
        kv_bytes=traffic.kv_bytes if traffic else 0,
        activation_bytes=traffic.activation_bytes if traffic else 0,
    )


def _at(value: float, interval: Interval | None) -> Interval:
    """The interval moved to the share by total time, so that the values of all categories sum to 1."""
    if interval is None:
        return Interval(value=value, low=None, high=None, n=0)
    shift = value - interval.value
    low, high = (None if bound is None else max(0.0, bound + shift) for bound in (interval.low, interval.high))
    return Interval(value=value, low=low, high=high, n=interval.n, cohorts=interval.cohorts, lag1=interval.lag1)


def _pairs(runs: CellRuns) -> pd.DataFrame:
    """Per run and round: nanoseconds a token unprofiled, profiled, and of all nodes; NaN where a turn is missing."""
    profiled = runs.bursts.of(runs.numbers, BurstKind.PROFILE)
    profiled = profiled[profiled["counted_tokens"] > 0]
    tables = [_per_round(runs.decode_rows, "plain_ns"), _per_round(profiled, "profiled_ns"), _node_rounds(runs)]
    return pd.concat(tables, axis=1).sort_index()


def _per_round(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    table = pd.DataFrame({"run": rows["run"].to_numpy(), "round": rows["round"].to_numpy(), name: time_per_token(rows)})
    return table.groupby(["run", "round"]).mean()


def _node_rounds(runs: CellRuns) -> pd.DataFrame:
    parts = [_node_rows(number, run) for number, run in zip(runs.numbers, runs.runs, strict=True)]
    return pd.concat(parts).groupby(["run", "round"]).mean()


def _node_rows(number: int, run: Run) -> pd.DataFrame:
    profile = run.profile
    if profile is None or not profile.total_ns:
        return pd.DataFrame({"run": [], "round": [], "node_ns": []}, dtype=np.int64)
    means = burst_means(profile, net_ns(profile, EVERYTHING))
    return pd.DataFrame({"run": number, "round": counted_rounds(profile), "node_ns": means})


def _ratio(pairs: pd.DataFrame, column: str) -> Interval | None:
    """Geometric mean of a column over the unprofiled time, one series a run."""
    ratios = (pairs[column] / pairs["plain_ns"]).dropna()
    if ratios.empty:
        return None
    series: list[Floats] = [part.to_numpy(dtype=np.float64) for _, part in ratios.groupby(level="run")]
    return geometric_interval(series)


def _unexplained_ns(pairs: pd.DataFrame, unprofiled_ns: float, node_ns: float) -> float:
    """Nanoseconds a token that may belong to any category: what does not add up, or what profiling added."""
    added_ns = (pairs["profiled_ns"] - pairs["plain_ns"]).dropna()
    return max(abs(unprofiled_ns - node_ns), float(added_ns.mean()) if added_ns.size else 0.0)
