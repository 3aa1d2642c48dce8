"""The reversed-order control: whole processes in a fixed order, and reversed; does the order make the ratio?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.ratios import Ratio, comparisons, speedups_by_order
from harness.analysis.runs import Cell
from harness.analysis.stats import Floats, Interval, geometric_interval, t_975
from harness.records import Struct
from harness.terms import BurstKind, RunKind

MIN_BLOCKS = 3  # in each order


class OrderControl(Struct, frozen=True):
    """One pair of models in both orders."""

    candidate: Cell
    baseline: Cell
    first: Interval  # ratio of speeds where the candidate ran before the baseline
    second: Interval  # where it ran after
    effect: Interval  # the one over the other: 1 where the order does not matter
    rounds: Ratio | None  # the same pair in rounds
    run_ids: tuple[str, ...]

    @property
    def finding(self) -> str:
        """Whether the order was seen to matter."""
        return "order matters" if self.effect.excludes(1.0) else "no order effect detected"


def order_controls(evidence: Evidence) -> Iterator[OrderControl]:
    """Pairs of a MoE with a dense model, each alone on the machine, that ran in both orders often enough."""
    groups: dict[tuple[int, object, str, str], list[CellRuns]] = {}
    for runs in evidence.of_kind(RunKind.SOLO):
        key = (runs.cell.dataset, runs.cell.setup, runs.cell.experiment, runs.cell.group)
        groups.setdefault(key, []).append(runs)
    for members in groups.values():
        for candidate, baseline in comparisons(members):
            found = _control(evidence, candidate, baseline)
            if found is not None:
                yield found


def _control(evidence: Evidence, candidate: CellRuns, baseline: CellRuns) -> OrderControl | None:
    first, second = speedups_by_order(candidate, baseline, BurstKind.DECODE)
    if min(first.size, second.size) < MIN_BLOCKS or baseline.cell.model.expert_count:
        return None
    return OrderControl(
        candidate=candidate.cell,
        baseline=baseline.cell,
        first=geometric_interval([first]),
        second=geometric_interval([second]),
        effect=effect_of_order(first, second),
        rounds=_in_rounds(evidence, candidate.cell, baseline.cell),
        run_ids=candidate.run_ids + baseline.run_ids,
    )


def effect_of_order(first: Floats, second: Floats) -> Interval:
    """Ratio of geometric means, with Welch's interval on the logarithms."""
    one, other = np.log(first), np.log(second)
    difference = float(one.mean() - other.mean())
    variances = [float(values.var(ddof=1)) / values.size for values in (one, other)]
    error = math.sqrt(sum(variances))
    if not error:
        return Interval(value=math.exp(difference), low=math.exp(difference), high=math.exp(difference), n=one.size)
    parts = zip(variances, (one.size, other.size), strict=True)
    freedom = sum(variances) ** 2 / sum(variance**2 / (size - 1) for variance, size in parts)
    margin = t_975(freedom) * error
    low, high = math.exp(difference - margin), math.exp(difference + margin)
    return Interval(value=math.exp(difference), low=low, high=high, n=one.size + other.size)


def _in_rounds(evidence: Evidence, candidate: Cell, baseline: Cell) -> Ratio | None:
    """The ratio of the same models on the same machine whose bursts took turns."""
    wanted = [(cell.dataset, cell.setup, cell.model) for cell in (candidate, baseline)]
    for ratio in evidence.ratios:
        sides = [(cell.dataset, cell.setup, cell.model) for cell in (ratio.candidate, ratio.baseline)]
        if sides == wanted and ratio.quantity is BurstKind.DECODE and not ratio.candidate.settings.variant:
            return ratio
    return None
