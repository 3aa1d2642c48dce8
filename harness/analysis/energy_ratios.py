"""Joules per generated token of one cell over those of another, where one channel saw both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.cells import SPEED_KINDS, CellRuns
from harness.analysis.energy import CellEnergy, ChannelId, EnergyFigure, cell_energy, energy_ratio
from harness.analysis.ratios import comparisons
from harness.analysis.runs import Cell, watermarks
from harness.analysis.stats import Interval
from harness.records import Struct
from harness.terms import BurstKind, RunKind, TaintKind


class EnergyRatio(Struct, frozen=True):
    """Gross joules per generated token, candidate over baseline: above 1 the candidate costs more."""

    candidate: Cell
    baseline: Cell
    channel: ChannelId
    interval: Interval
    candidate_j_per_token: float
    baseline_j_per_token: float
    run_ids: tuple[str, ...]

    @property
    def watermarks(self) -> tuple[str, ...]:
        """Of both sides."""
        return tuple(dict.fromkeys(watermarks(self.candidate) + watermarks(self.baseline)))


def energies(cells: Sequence[CellRuns]) -> dict[CellRuns, CellEnergy]:
    """Energy of each cell that was timed and had power readings."""
    found = {}
    for runs in cells:
        powers = [
            run.power.unpack(run.run_id, drifted=any(taint.kind is TaintKind.IDLE_DRIFT for taint in run.taints))
            for run in runs.runs
            if run.power is not None
        ]
        if powers and runs.kind in SPEED_KINDS:
            found[runs] = cell_energy(powers)
    return found


def energy_ratios(found: Mapping[CellRuns, CellEnergy]) -> tuple[EnergyRatio, ...]:
    """All ratios that groups and channels allow."""
    groups: dict[tuple[int, object, str, str, RunKind], list[CellRuns]] = {}
    for runs in found:
        key = (runs.cell.dataset, runs.cell.setup, runs.cell.experiment, runs.cell.group, runs.kind)
        groups.setdefault(key, []).append(runs)
    return tuple(
        ratio
        for members in groups.values()
        for candidate, baseline in comparisons(members)
        for ratio in _of_channels(candidate, baseline, found)
    )


def _of_channels(
    candidate: CellRuns, baseline: CellRuns, found: Mapping[CellRuns, CellEnergy]
) -> Iterator[EnergyRatio]:
    below = {figure.channel: figure for figure in found[baseline].of_kind(BurstKind.DECODE)}
    for figure in found[candidate].of_kind(BurstKind.DECODE):
        other = below.get(figure.channel)
        if other is not None:
            yield from _ratio(candidate.cell, baseline.cell, figure, other)


def _ratio(candidate: Cell, baseline: Cell, above: EnergyFigure, below: EnergyFigure) -> Iterator[EnergyRatio]:
    interval = energy_ratio(above, below)
    if not isinstance(interval, str):
        yield EnergyRatio(
            candidate=candidate,
            baseline=baseline,
            channel=above.channel,
            interval=interval,
            candidate_j_per_token=above.gross_j_per_token.value,
            baseline_j_per_token=below.gross_j_per_token.value,
            run_ids=above.run_ids + below.run_ids,
        )
