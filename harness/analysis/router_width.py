"""The profiler put to the test: what a wider router costs by the clock, against what its share of node times says.

Two models that differ only in how many experts exist take turns, unprofiled. The router's work grows with that number,
every other category stays as it is; so the share that the profiler gave the router of the narrow one predicts how much
slower the wide one is.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.attribution import Attribution, attribution, predicted_slowdown
from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.ratios import paired_ratio
from harness.analysis.runs import Cell
from harness.analysis.stats import Interval
from harness.records import Struct
from harness.terms import BurstKind, NodeCategory, RunKind

SMALLEST_GROWTH = 4.0  # below it a router's cost drowns in the noise of a token


class RouterWidth(Struct, frozen=True):
    """One pair; slowdowns are time per token of the wide model over that of the narrow one."""

    wide: Cell
    narrow: Cell
    growth: float  # times as many experts to choose from
    router_share: Interval  # of all node times of the narrow model
    predicted: float
    measured: Interval
    run_ids: tuple[str, ...]

    @property
    def agreement(self) -> float:
        """Measured extra time over predicted extra time."""
        return (self.measured.value - 1) / (self.predicted - 1)


def router_widths(evidence: Evidence) -> Iterator[RouterWidth]:
    """Every pair of which the narrow model was profiled too."""
    profiled = [found for runs in evidence.of_kind(RunKind.PROFILE) if (found := attribution(runs)) is not None]
    members = [runs for runs in evidence.of_kind(RunKind.ROUNDS) if runs.cell.model.expert_count]
    for narrow in members:
        own = next((found for found in profiled if _same_machine_and_model(found.cell, narrow.cell)), None)
        if own is None:
            continue
        for wide in members:
            if _differ_in_experts_only(wide.cell, narrow.cell):
                found = _compare(wide, narrow, own)
                if found is not None:
                    yield found


def _compare(wide: CellRuns, narrow: CellRuns, profile: Attribution) -> RouterWidth | None:
    router = next((part for part in profile.shares if part.category is NodeCategory.ROUTER), None)
    ratio = paired_ratio(narrow, wide, BurstKind.DECODE)  # of speeds: the time of the wide over that of the narrow
    if router is None or ratio is None:
        return None
    growth = wide.cell.model.expert_count / narrow.cell.model.expert_count
    return RouterWidth(
        wide=wide.cell,
        narrow=narrow.cell,
        growth=growth,
        router_share=router.share,
        predicted=predicted_slowdown(profile, {NodeCategory.ROUTER: growth}),
        measured=ratio.interval,
        run_ids=ratio.run_ids + profile.run_ids,
    )


def _same_machine_and_model(one: Cell, other: Cell) -> bool:
    return (one.dataset, one.setup, one.model) == (other.dataset, other.setup, other.model)


def _differ_in_experts_only(wide: Cell, narrow: Cell) -> bool:
    one, other = wide.model, narrow.model
    return (
        (wide.dataset, wide.setup, wide.experiment) == (narrow.dataset, narrow.setup, narrow.experiment)
        and (wide.workload, wide.settings) == (narrow.workload, narrow.settings)
        and (one.name, one.file_type) == (other.name, other.file_type)
        and one.expert_used_count == other.expert_used_count
        and _without_experts(one.variant) == _without_experts(other.variant)
        and one.expert_count >= SMALLEST_GROWTH * other.expert_count
    )


def _without_experts(variant: str) -> frozenset[str]:
    return frozenset(part for part in variant.split(",") if part and not part.startswith("experts="))
