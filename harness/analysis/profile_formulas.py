"""Formulas over node profiles: routing's share, and its part of the gap to a dense model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from harness.analysis.cells import CellRuns
from harness.analysis.claims import Claim
from harness.analysis.evidence import Evidence
from harness.analysis.observation import Observation
from harness.analysis.stats import Floats, Interval, interval_of_mean
from harness.records import NodeProfile
from harness.terms import NodeCategory, RunKind
from harness.units import ms_text

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
        routing_ns = _means(candidate, ROUTING)
        gap = _gap_ns(candidate, baseline)
        if gap.low is not None and gap.high is not None and gap.low > 0:
            mean_ns = float(routing_ns[: gap.n].mean())
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


def _gap_ns(candidate: CellRuns, baseline: CellRuns) -> Interval:
    """What a token of the candidate takes longer, over pairs of bursts."""
    slow, fast = (_means(runs, tuple(NodeCategory)) for runs in (candidate, baseline))
    pairs = min(slow.size, fast.size)
    return interval_of_mean([slow[:pairs] - fast[:pairs]])


def _means(runs: CellRuns, categories: Iterable[NodeCategory]) -> Floats:
    return np.concatenate([burst_means(profile, net_ns(profile, categories)) for profile in profiles(runs)])


def _observation(
    interval: Interval | None, runs: Sequence[CellRuns], remark: str = "", faults: tuple[str, ...] = ()
) -> Observation:
    ids = tuple(run_id for cell_runs in runs for run_id in cell_runs.run_ids)
    cells = tuple(one.cell for one in runs)
    return Observation(interval=interval, cells=cells, run_ids=ids, remark=remark, faults=faults)
