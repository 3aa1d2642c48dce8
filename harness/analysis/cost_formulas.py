"""Formulas of claims about what the harness itself costs the machine: its sampler, and its waiting workers."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.claims import Claim
from harness.analysis.evidence import Evidence
from harness.analysis.observation import Observation
from harness.analysis.stats import Interval


def sampler_cost(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """Decode speed with the sampler over without, of each model."""
    for cost in evidence.sampler_costs:
        if claim.candidate in ("", cost.cell.model.name):
            remark = f"{cost.interval.n} pairs of {evidence.names.cell(cost.cell)}"
            yield Observation(interval=cost.interval, cells=(cost.cell,), run_ids=cost.run_ids, remark=remark)


def waiting_cpu(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """CPU time of waiting workers over the time they waited, of each cell; no spread, because it is a sum."""
    for runs in evidence.timed:
        share = runs.waiting_fraction
        if share is not None and claim.candidate in ("", runs.cell.model.name):
            interval = Interval(value=share, low=share, high=share, n=len(runs.numbers))
            remark = f"{len(runs.numbers)} workers of {evidence.names.cell(runs.cell)}"
            yield Observation(interval=interval, cells=(runs.cell,), run_ids=runs.run_ids, remark=remark)
