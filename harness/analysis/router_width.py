"""The profiler put to the test: what a wider router costs by the clock, against what the shares of node times say.

Two models that differ only in how many experts exist take turns, unprofiled. Both were profiled too. What lies outside
the MoE block takes as long in both: time x (1 - share of the block) is the same, so the two shares alone predict how
much slower the wide model is, whatever the machine's speed was while each was profiled. Within the block not only the
router grows: each multiplication by selected experts walks over all that exist. What the router's own shares predict is
therefore given beside it, as the part that the router has in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.analysis.attribution import share_of
from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.profile_formulas import MOE_BLOCK, ROUTING, profiles
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
    narrow_share: Interval  # of the MoE block in all node times
    wide_share: Interval
    router_alone: float  # the slowdown if nothing but the router had grown
    measured: Interval
    run_ids: tuple[str, ...]

    @property
    def predicted(self) -> float:
        """The slowdown that the two shares imply."""
        return _slowdown(self.narrow_share, self.wide_share)

    @property
    def agreement(self) -> float:
        """Measured extra time over predicted extra time."""
        return (self.measured.value - 1) / (self.predicted - 1)


def router_widths(evidence: Evidence) -> Iterator[RouterWidth]:
    """Every pair of which both were profiled."""
    profiled = [runs for runs in evidence.of_kind(RunKind.PROFILE) if profiles(runs)]
    members = [runs for runs in evidence.of_kind(RunKind.ROUNDS) if runs.cell.model.expert_count]
    for narrow in members:
        for wide in members:
            if _differ_in_experts_only(wide.cell, narrow.cell):
                found = _compare(wide, narrow, profiled)
                if found is not None:
                    yield found


def _compare(wide: CellRuns, narrow: CellRuns, profiled: Sequence[CellRuns]) -> RouterWidth | None:
    own = [next((p for p in profiled if _same_model(p.cell, runs.cell)), None) for runs in (wide, narrow)]
    ratio = paired_ratio(narrow, wide, BurstKind.DECODE)  # of speeds: the time of the wide over that of the narrow
    if own[0] is None or own[1] is None or ratio is None:
        return None
    block_wide, block_narrow = (share_of(profiles(runs), MOE_BLOCK, NodeCategory) for runs in (own[0], own[1]))
    router_wide, router_narrow = (share_of(profiles(runs), ROUTING, NodeCategory) for runs in (own[0], own[1]))
    if block_wide is None or block_narrow is None or router_wide is None or router_narrow is None:
        return None
    return RouterWidth(
        wide=wide.cell,
        narrow=narrow.cell,
        growth=wide.cell.model.expert_count / narrow.cell.model.expert_count,
        narrow_share=block_narrow,
        wide_share=block_wide,
        router_alone=_slowdown(router_narrow, router_wide),
        measured=ratio.interval,
        run_ids=ratio.run_ids + own[0].run_ids + own[1].run_ids,
    )


def _slowdown(narrow_share: Interval, wide_share: Interval) -> float:
    """Time of the wide model over that of the narrow one, if all outside these shares takes as long in both."""
    return (1 - narrow_share.value) / (1 - wide_share.value)


def _same_model(one: Cell, other: Cell) -> bool:
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
