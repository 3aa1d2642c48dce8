"""Ratios of speed from pairs: bursts of one round of one cohort, or runs of one block.

A ratio is candidate over baseline in tokens per second, so above 1 the candidate is faster. It is the geometric mean
over pairs, with an interval that respects the order of rounds and the processes behind them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import numpy as np
import pandas as pd

from harness.analysis.cells import CellRuns, Speed
from harness.analysis.runs import Cell, watermarks
from harness.analysis.stats import MIN_PAIRS, Floats, Interval, geometric_interval
from harness.records import Struct
from harness.terms import BurstKind, RunKind


class Pairing(StrEnum):
    """What makes two measurements a pair."""

    ROUNDS = "rounds"
    BLOCKS = "blocks"
    MATCHED = "matched runs"  # two datasets: the same block, prompt and round of both
    UNPAIRED = "unpaired"  # two datasets without runs that match


KEYS = {  # what two turns have in common that are a pair
    Pairing.ROUNDS: ["order", "cohort", "round"],
    Pairing.BLOCKS: ["block", "prompt"],
    Pairing.MATCHED: ["block", "prompt", "round"],
}


class Finding(StrEnum):
    """What an interval allows to say."""

    FASTER = "faster"
    SLOWER = "slower"
    NO_DIFFERENCE = "no difference detected"
    TOO_FEW = "too few pairs"


class Ratio(Struct, frozen=True):
    """Candidate over baseline."""

    candidate: Cell
    baseline: Cell
    quantity: BurstKind  # decode or prefill speed
    pairing: Pairing
    interval: Interval
    candidate_tokens_per_s: float
    baseline_tokens_per_s: float
    candidate_bursts: int
    baseline_bursts: int
    order_effect: Interval | None  # log ratio when the candidate went first, minus when the baseline did
    run_ids: tuple[str, ...]

    @property
    def finding(self) -> Finding:
        """Faster or slower only where the interval excludes 1."""
        if self.interval.low is None:
            return Finding.TOO_FEW
        if not self.interval.excludes(1.0):
            return Finding.NO_DIFFERENCE
        return Finding.FASTER if self.interval.value > 1 else Finding.SLOWER

    @property
    def detectable(self) -> float | None:
        """Smallest relative difference that this interval would have told from none."""
        return self.interval.half_width_relative

    @property
    def watermarks(self) -> tuple[str, ...]:
        """Watermarks of both sides."""
        return tuple(dict.fromkeys(watermarks(self.candidate) + watermarks(self.baseline)))


def ratios(cells: Iterable[CellRuns]) -> tuple[Ratio, ...]:
    """All ratios that the groups of the study allow, in the order of the plan; a group is never left."""
    groups: dict[tuple[int, object, str, str, RunKind], list[CellRuns]] = {}
    for runs in cells:
        key = (runs.cell.dataset, runs.cell.setup, runs.cell.experiment, runs.cell.group, runs.kind)
        groups.setdefault(key, []).append(runs)
    found = []
    for members in groups.values():
        for candidate, baseline in comparisons(members):
            for quantity in (BurstKind.DECODE, BurstKind.PREFILL):
                ratio = paired_ratio(candidate, baseline, quantity)
                if ratio is not None:
                    found.append(ratio)
    return tuple(found)


def comparisons(members: Sequence[CellRuns]) -> Iterator[tuple[CellRuns, CellRuns]]:
    """Every MoE model against every dense one with the same work, and variants of one model against its plainest."""
    for candidate in members:
        for baseline in members:
            if candidate.cell.model.expert_count and not baseline.cell.model.expert_count:
                if _same_work(candidate.cell, baseline.cell):
                    yield candidate, baseline
            elif candidate is not baseline and baseline is _plainest(candidate, members):
                yield candidate, baseline


def _same_work(one: Cell, other: Cell) -> bool:
    same_variant = one.model.variant == other.model.variant or "" in (one.model.variant, other.model.variant)
    return one.workload == other.workload and one.settings == other.settings and same_variant


def _plainest(runs: CellRuns, members: Sequence[CellRuns]) -> CellRuns:
    """Of all cells of the same model, the one without variant, of the study's file type, with the shortest context."""
    same = [member for member in members if member.cell.model.name == runs.cell.model.name]
    return min(same, key=lambda member: _distance(member.cell))


def _distance(cell: Cell) -> tuple[bool, bool, bool, bool, int, int, int]:
    return (
        bool(cell.settings.variant),
        bool(cell.model.variant),
        cell.model.weights != "released",
        cell.model.file_type != "Q4_K_M",
        cell.workload.depth_tokens,
        cell.workload.batch_width,
        cell.settings.threads,
    )


def paired_ratio(candidate: CellRuns, baseline: CellRuns, quantity: BurstKind) -> Ratio | None:
    """The ratio of two cells of one group; null when no pair was measured."""
    sides = _turns(candidate, quantity), _turns(baseline, quantity)
    pairing = Pairing.ROUNDS
    pairs = _pairs(*sides, pairing)
    if pairs.empty or candidate.kind is not RunKind.ROUNDS:
        pairing = Pairing.BLOCKS
        pairs = _pairs(*sides, pairing)
    if pairs.empty:
        return None
    speedups = pairs["ns_baseline"].to_numpy() / pairs["ns_candidate"].to_numpy()
    cohorts = _by(["order", "cohort"], pairs, speedups) if pairing is Pairing.ROUNDS else [speedups]
    interval = geometric_interval(cohorts)
    return _ratio(candidate, baseline, quantity, pairing, interval, _order_effect(pairs, speedups))


def speedups_by_order(candidate: CellRuns, baseline: CellRuns, quantity: BurstKind) -> tuple[Floats, Floats]:
    """Speedups of the blocks in which the candidate ran first, and of those in which it ran after the baseline."""
    pairs = _pairs(_turns(candidate, quantity), _turns(baseline, quantity), Pairing.BLOCKS)
    speedups: Floats = pairs["ns_baseline"].to_numpy() / pairs["ns_candidate"].to_numpy()
    first = (pairs["place_candidate"] < pairs["place_baseline"]).to_numpy()
    return speedups[first], speedups[~first]


def matched_ratio(candidate: CellRuns, baseline: CellRuns, quantity: BurstKind) -> Ratio | None:
    """The ratio of two cells of two datasets, burst by burst of the same block, prompt and round.

    Nothing was alternated between the datasets; matching takes out what the plan itself varies, and the processes of
    both sides stand behind the interval. Null with too few pairs for an interval.
    """
    pairs = _pairs(_turns(candidate, quantity), _turns(baseline, quantity), Pairing.MATCHED)
    if len(pairs) < MIN_PAIRS:
        return None
    speedups = pairs["ns_baseline"].to_numpy() / pairs["ns_candidate"].to_numpy()
    interval = geometric_interval(_by(["block", "prompt"], pairs, speedups))
    return _ratio(candidate, baseline, quantity, Pairing.MATCHED, interval, None)


def unpaired_ratio(candidate: CellRuns, baseline: CellRuns, quantity: BurstKind) -> Ratio | None:
    """The ratio of two cells that were measured apart (two datasets): intervals of both sides are joined."""
    sides = [_speed(runs, quantity) for runs in (candidate, baseline)]
    if sides[0] is None or sides[1] is None:
        return None
    one, other = sides[0].tokens_per_s, sides[1].tokens_per_s
    value = one.value / other.value
    low = high = None
    if one.half_width_relative is not None and other.half_width_relative is not None:
        spread = math.hypot(one.half_width_relative, other.half_width_relative)
        low, high = value * math.exp(-spread), value * math.exp(spread)
    interval = Interval(value=value, low=low, high=high, n=min(one.n, other.n), cohorts=min(one.cohorts, other.cohorts))
    return _ratio(candidate, baseline, quantity, Pairing.UNPAIRED, interval, None)


def _ratio(
    candidate: CellRuns,
    baseline: CellRuns,
    quantity: BurstKind,
    pairing: Pairing,
    interval: Interval,
    order_effect: Interval | None,
) -> Ratio:
    one, other = _speed(candidate, quantity), _speed(baseline, quantity)
    if one is None or other is None:
        raise ValueError(f"a pair without {quantity.value} bursts")
    return Ratio(
        candidate=candidate.cell,
        baseline=baseline.cell,
        quantity=quantity,
        pairing=pairing,
        interval=interval,
        candidate_tokens_per_s=one.tokens_per_s.value,
        baseline_tokens_per_s=other.tokens_per_s.value,
        candidate_bursts=one.bursts,
        baseline_bursts=other.bursts,
        order_effect=order_effect,
        run_ids=candidate.run_ids + baseline.run_ids,
    )


def _speed(runs: CellRuns, quantity: BurstKind) -> Speed | None:
    return runs.decode if quantity is BurstKind.DECODE else runs.prefill


def _rows(runs: CellRuns, quantity: BurstKind) -> pd.DataFrame:
    return runs.decode_rows if quantity is BurstKind.DECODE else runs.prefill_rows


def _turns(runs: CellRuns, quantity: BurstKind) -> pd.DataFrame:
    """Time and place of each burst, with what may pair it: round of a cohort, or block and prompt."""
    rows = _rows(runs, quantity)
    owners = [runs.run(number) for number in rows["run"]]
    return pd.DataFrame(
        {
            "order": [run.schedule.order for run in owners],
            "cohort": [run.schedule.cohort for run in owners],
            "block": [run.schedule.block for run in owners],
            "prompt": [run.prompt_id for run in owners],
            "round": rows["round"].to_numpy(),
            "position": rows["position"].to_numpy(),
            "tokens": rows["counted_tokens"].to_numpy(),
            "ns": rows["counted_ns"].to_numpy(),
        }
    )


def _pairs(candidate: pd.DataFrame, baseline: pd.DataFrame, pairing: Pairing) -> pd.DataFrame:
    """One row a pair: time per token of both sides, and who came first."""
    keys = KEYS[pairing]
    place = "order" if pairing is Pairing.BLOCKS else "position"
    sides = []
    for turns, suffix in ((candidate, "_candidate"), (baseline, "_baseline")):
        sums = turns.groupby(keys, sort=True).agg(tokens=("tokens", "sum"), ns=("ns", "sum"), place=(place, "min"))
        sums["ns"] = sums["ns"] / sums["tokens"]
        sides.append(sums.add_suffix(suffix))
    return sides[0].join(sides[1], how="inner").reset_index()


def _by(processes: list[str], pairs: pd.DataFrame, values: Floats) -> list[Floats]:
    """Values of each pair of processes by themselves, in the order of the rounds."""
    codes = pairs.groupby(processes, sort=True).ngroup().to_numpy()
    return np.split(values, np.flatnonzero(np.diff(codes)) + 1)


def _order_effect(pairs: pd.DataFrame, speedups: Floats) -> Interval | None:
    """How much the log ratio differs between pairs in which the candidate came first and the others."""
    first = (pairs["place_candidate"] < pairs["place_baseline"]).to_numpy()
    one, other = np.log(speedups[first]), np.log(speedups[~first])
    if min(one.size, other.size) < 3:
        return None
    value = float(one.mean() - other.mean())
    error = 1.96 * math.sqrt(one.var(ddof=1) / one.size + other.var(ddof=1) / other.size)
    return Interval(value=value, low=value - error, high=value + error, n=speedups.size)
