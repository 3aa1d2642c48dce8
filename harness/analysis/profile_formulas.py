"""Formulas over node profiles: routing's share, and its part of the gap to a dense model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.cells import CellRuns
from harness.analysis.claims import Claim
from harness.analysis.evidence import Evidence
from harness.analysis.observation import Observation
from harness.analysis.stats import Floats, Interval, interval_of_mean
from harness.records import NodeProfile
from harness.terms import NodeCategory, RunKind
from harness.units import ms_text

EVERYTHING = tuple(NodeCategory)
ROUTING = (NodeCategory.ROUTER,)
MOE_BLOCK = (
    NodeCategory.ROUTER,
    NodeCategory.EXPERT_GATE,
    NodeCategory.EXPERT_UP,
    NodeCategory.EXPERT_ACTIVATION,
    NodeCategory.EXPERT_DOWN,
    NodeCategory.COMBINE,
    NodeCategory.SHARED_EXPERT,
)


def net_ns(profile: NodeProfile, categories: Iterable[NodeCategory]) -> Floats:
    """Time of some categories in each profiled token, without what the callbacks themselves cost."""
    empty = float(np.median(profile.empty_ns)) if profile.empty_ns else 0.0
    total = np.zeros(len(profile.total_ns))
    for category in categories:
        if category in profile.category_ns:
            cost = empty * profile.category_stretches.get(category, 0)
            total += np.maximum(np.array(profile.category_ns[category], dtype=np.float64) - cost, 0)
    return total


def burst_means(profile: NodeProfile, per_token: Floats) -> Floats:
    """Mean a burst: tokens of one burst are not independent."""
    borders = np.cumsum(profile.burst_tokens)[:-1]
    return np.array([part.mean() for part in np.split(per_token, borders) if part.size])


def counted_rounds(profile: NodeProfile) -> list[int]:
    """The round of each value of `burst_means`."""
    return [number for number, tokens in zip(profile.rounds, profile.burst_tokens, strict=True) if tokens]


def profiles(runs: CellRuns) -> list[NodeProfile]:
    """Profiles of a cell that timed any token."""
    return [run.profile for run in runs.runs if run.profile is not None and run.profile.total_ns]


def plain_profiles(evidence: Evidence, name: str) -> Iterator[CellRuns]:
    """Of unvaried models with unvaried settings: what a suite varies (width, cut by nodes) is no part of a claim."""
    for runs in evidence.of_kind(RunKind.PROFILE):
        varied = runs.cell.model.variant or runs.cell.settings.variant
        if name in ("", runs.cell.model.name) and not varied and profiles(runs):
            yield runs


def routing_share(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """Router over all of the MoE block, decode."""
    for runs in plain_profiles(evidence, claim.candidate):
        series = [
            burst_means(profile, net_ns(profile, ROUTING)) / burst_means(profile, net_ns(profile, MOE_BLOCK))
            for profile in profiles(runs)
            if net_ns(profile, MOE_BLOCK).min() > 0
        ]
        if series:
            yield _observation(interval_of_mean(series), (runs,), "by bursts")


def routing_of_gap(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """Routing's part of what a token of the candidate takes longer than one of the baseline; needs such a gap."""
    for candidate, baseline in _beside(evidence, claim):
        pairs = _pairs(candidate, baseline)
        gap = interval_of_mean([pair.extra_ns for pair in pairs])
        if gap.low is not None and gap.high is not None and gap.low > 0:
            mean_ns = float(np.concatenate([pair.routing_ns for pair in pairs]).mean())
            part = Interval(value=mean_ns / gap.value, low=mean_ns / gap.high, high=mean_ns / gap.low, n=gap.n)
            yield _observation(part, (candidate, baseline), "of node times")
        else:
            yield _no_gap(evidence, gap, candidate, baseline)


def _no_gap(evidence: Evidence, gap: Interval, candidate: CellRuns, baseline: CellRuns) -> Observation:
    bounds = "" if gap.low is None or gap.high is None else f" ({ms_text(gap.low)} to {ms_text(gap.high)})"
    one, other = (evidence.names.cell(runs.cell) for runs in (candidate, baseline))
    seen = f"node times of {one} less those of {other} are {ms_text(gap.value)} ms a token{bounds}"
    return _observation(None, (candidate, baseline), faults=(f"no gap to explain: {seen}",))


def _beside(evidence: Evidence, claim: Claim) -> Iterator[tuple[CellRuns, CellRuns]]:
    """Profiles of both models on one machine."""
    for candidate in plain_profiles(evidence, claim.candidate):
        for baseline in plain_profiles(evidence, claim.baseline):
            if (candidate.cell.dataset, candidate.cell.setup) == (baseline.cell.dataset, baseline.cell.setup):
                yield candidate, baseline


@dataclass(frozen=True)
class _Pairs:
    """Bursts of two models that belong together: one value a burst, nanoseconds a token."""

    routing_ns: Floats  # of the candidate
    extra_ns: Floats  # what all nodes of the candidate take longer


def _pairs(candidate: CellRuns, baseline: CellRuns) -> list[_Pairs]:
    """One a cohort, over rounds that both took part in; where they never met, over bursts in the order they came."""
    slow, routing = _by_round(candidate, EVERYTHING), _by_round(candidate, ROUTING)
    fast = _by_round(baseline, EVERYTHING)
    met: dict[str, list[tuple[str, int]]] = {}
    for key in sorted(slow.keys() & fast.keys()):
        met.setdefault(key[0], []).append(key)
    if met:
        return [
            _Pairs(np.array([routing[key] for key in keys]), np.array([slow[key] - fast[key] for key in keys]))
            for keys in met.values()
        ]
    above, of_routing, below = (np.array(list(values.values())) for values in (slow, routing, fast))
    count = min(above.size, below.size)
    return [_Pairs(of_routing[:count], above[:count] - below[:count])]


def _by_round(runs: CellRuns, categories: Iterable[NodeCategory]) -> dict[tuple[str, int], float]:
    """Nanoseconds a token of some categories, by cohort and round."""
    wanted = tuple(categories)
    return {
        (run.schedule.cohort, number): float(mean)
        for run in runs.runs
        if run.profile is not None and run.profile.total_ns
        for number, mean in zip(
            counted_rounds(run.profile), burst_means(run.profile, net_ns(run.profile, wanted)), strict=True
        )
    }


def _observation(
    interval: Interval | None, runs: Sequence[CellRuns], remark: str = "", faults: tuple[str, ...] = ()
) -> Observation:
    ids = tuple(run_id for cell_runs in runs for run_id in cell_runs.run_ids)
    cells = tuple(one.cell for one in runs)
    return Observation(interval=interval, cells=cells, run_ids=ids, remark=remark, faults=faults)
