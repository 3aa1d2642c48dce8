"""Runs pooled into cells, and what each cell's bursts say of speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from harness.analysis.bursts import Bursts
from harness.analysis.load import Loaded
from harness.analysis.runs import Cell, Run
from harness.analysis.stats import (
    Floats,
    Interval,
    coefficient_of_variation,
    drift,
    geometric_interval,
    percentile,
    rate_per_s,
)
from harness.records import Struct
from harness.terms import BurstKind, RunKind, TaintKind
from harness.units import NS_PER_S

SPEED_KINDS = (RunKind.ROUNDS, RunKind.SOLO)
HEADLINE = "headline"  # the experiment that speaks for a machine
WAITED_ENOUGH_NS = 5 * NS_PER_S  # in all: less than that tells nothing of a waiting worker


class Percentiles(Struct, frozen=True):
    """Percentiles in nanoseconds; null where n is too small for the rank."""

    n: int
    p50_ns: float | None
    p95_ns: float | None
    p99_ns: float | None


class Speed(Struct, frozen=True):
    """What the bursts of one kind say of a cell."""

    tokens_per_s: Interval
    bursts: int
    overhead_fraction: float  # harness's own time outside llama.cpp's calls and sampling, of all windows
    overhead_worst_fraction: float  # of the worst window
    interrupted_worst_fraction: float | None  # worst window: time between the calls in which the thread had no CPU
    variation: float | None  # coefficient of variation of time per token between bursts
    worst_over_median: float
    drift: float | None  # relative change of time per token over the session
    major_faults: int
    involuntary_per_burst: float
    foreign_fraction: float | None  # CPU time of everyone else over window time
    sampling_ns_per_token: float | None  # null where no arg-max was taken


class CellRuns:
    """The counted runs of one cell and kind, in the order of the plan."""

    def __init__(self, cell: Cell, kind: RunKind, numbers: Sequence[int], loaded: Loaded) -> None:
        self.cell = cell
        self.kind = kind
        self.numbers = tuple(numbers)
        self._loaded = loaded

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs themselves."""
        return tuple(self._loaded.runs[number] for number in self.numbers)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Their ids, in the order of the plan."""
        return tuple(run.run_id for run in self.runs)

    @property
    def bursts(self) -> Bursts:
        """Where the bursts of these runs lie."""
        return self._loaded.bursts

    @cached_property
    def decode_rows(self) -> pd.DataFrame:
        """Decode bursts with counted tokens."""
        return _counted(self.bursts.of(self.numbers, BurstKind.DECODE))

    @cached_property
    def prefill_rows(self) -> pd.DataFrame:
        """Prefill bursts."""
        return _counted(self.bursts.of(self.numbers, BurstKind.PREFILL))

    @cached_property
    def unwatched_rows(self) -> pd.DataFrame:
        """Decode bursts with the sampler paused."""
        return _counted(self.bursts.of(self.numbers, BurstKind.UNWATCHED))

    @cached_property
    def waiting_fraction(self) -> float | None:
        """CPU time that workers took while others were at work, over that time; null where nobody waited for long."""
        rows = self.bursts.every(self.numbers)
        waits = rows.loc[rows["waited_ns"] >= 0, ["waited_ns", "waited_cpu_ns"]].sum()
        if self.kind is not RunKind.ROUNDS or waits["waited_ns"] < WAITED_ENOUGH_NS:
            return None
        return float(waits["waited_cpu_ns"] / waits["waited_ns"])

    @cached_property
    def decode(self) -> Speed | None:
        """Decode speed; null without a counted decode burst."""
        return self._speed(self.decode_rows)

    @cached_property
    def prefill(self) -> Speed | None:
        """Prefill speed; null without a prefill burst."""
        return self._speed(self.prefill_rows)

    @cached_property
    def token_percentiles(self) -> Percentiles:
        """Of the decode calls of counted tokens."""
        return _percentiles(self.bursts.tokens_of(self.decode_rows).astype(np.float64))

    @cached_property
    def first_token_percentiles(self) -> Percentiles:
        """Of the time to the first token: a prefill window from start to end."""
        return _percentiles(self.prefill_rows["window_ns"].to_numpy(dtype=np.float64))

    def run(self, number: int) -> Run:
        """The run that a row of the bursts names."""
        return self._loaded.runs[number]

    def series(self, rows: pd.DataFrame) -> list[Floats]:
        """Time per token of each burst, one array a cohort of processes (of all solo runs together)."""
        per_token = time_per_token(rows)
        if self.kind is not RunKind.ROUNDS:
            return [per_token]
        codes: dict[tuple[int, str], int] = {}
        cohorts = [codes.setdefault((run.schedule.order, run.schedule.cohort), len(codes)) for run in self.runs]
        of_row = np.array(cohorts)[np.searchsorted(self.numbers, rows["run"].to_numpy())]
        order = np.argsort(of_row, kind="stable")
        borders = np.flatnonzero(np.diff(of_row[order])) + 1
        return np.split(per_token[order], borders) if per_token.size else []

    def _speed(self, rows: pd.DataFrame) -> Speed | None:
        if rows.empty:
            return None
        counted_tokens = int(rows["counted_tokens"].sum())
        rate = rate_per_s(counted_tokens, int(rows["counted_ns"].sum()))
        if rate is None:
            return None
        window = rows["window_ns"].to_numpy(dtype=np.float64)
        own, interrupted = outside_calls_ns(rows)
        per_token = time_per_token(rows)
        samplings = int(rows["samplings"].sum())
        foreign = rows.loc[rows["foreign_cpu_ns"] >= 0, ["foreign_cpu_ns", "window_ns"]].sum()
        return Speed(
            tokens_per_s=_about(rate, geometric_interval(self.series(rows))),
            bursts=len(rows),
            overhead_fraction=float(own.sum() / max(window.sum(), 1)),
            overhead_worst_fraction=float((own / np.maximum(window, 1)).max()),
            interrupted_worst_fraction=_worst(interrupted / np.maximum(window, 1)),
            variation=coefficient_of_variation(per_token),
            worst_over_median=float(per_token.max() / np.median(per_token)),
            drift=drift(per_token),
            major_faults=int(rows["major_faults"].sum()),
            involuntary_per_burst=float(rows["involuntary_switches"].mean()),
            foreign_fraction=float(foreign["foreign_cpu_ns"] / foreign["window_ns"]) if foreign["window_ns"] else None,
            sampling_ns_per_token=float(rows["sampling_ns"].sum() / samplings) if samplings else None,
        )


def outside_calls_ns(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    """Time of each window outside the engine's calls and arg-max: the harness's own, and what the system took from it.

    The harness's own is its thread's CPU time; the rest (a preemption between two calls) is a neighbour's doing. Where
    the CPU time is not known everything counts as its own and the rest is NaN.
    """
    window = rows["window_ns"].to_numpy(dtype=np.float64)
    outside = np.maximum(window - rows["engine_ns"].to_numpy() - rows["sampling_ns"].to_numpy(), 0)
    cpu = rows["harness_cpu_ns"].to_numpy(dtype=np.float64)
    known = cpu >= 0
    own = np.where(known, np.minimum(cpu, outside), outside)
    return own, np.where(known, outside - own, np.nan)


def _worst(shares: Floats) -> float | None:
    known = shares[~np.isnan(shares)]
    return float(known.max()) if known.size else None


def time_per_token(rows: pd.DataFrame) -> Floats:
    """Nanoseconds per counted token of each burst."""
    values: Floats = rows["counted_ns"].to_numpy(dtype=np.float64) / rows["counted_tokens"].to_numpy()
    return values


def _counted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["counted_tokens"] > 0) & (rows["counted_ns"] > 0)]


def _percentiles(values_ns: Floats) -> Percentiles:
    return Percentiles(
        n=values_ns.size,
        p50_ns=percentile(values_ns, 50),
        p95_ns=percentile(values_ns, 95),
        p99_ns=percentile(values_ns, 99),
    )


def _about(rate: float, per_token: Interval) -> Interval:
    """The interval of time per token, inverted and set about the total rate."""
    low, high = per_token.low, per_token.high
    return Interval(
        value=rate,
        low=None if high is None else rate * per_token.value / high,
        high=None if low is None else rate * per_token.value / low,
        n=per_token.n,
        cohorts=per_token.cohorts,
        block_length=per_token.block_length,
        lag1=per_token.lag1,
    )


def counted(run: Run) -> bool:
    """Whether a run counts in its kind: who else used the machine does not change what a router selects."""
    if run.kind is RunKind.ROUTING:
        return run.counts_but_for(TaintKind.OUTPUT_DIFFERS)
    return run.counts


def experiment_shown(experiments: Sequence[str]) -> str:
    """The one that speaks for a machine: the headline where it was run, else the first."""
    return HEADLINE if HEADLINE in experiments else next(iter(experiments), "")


def pool(loaded: Loaded, counts: Callable[[Run], bool] = counted) -> tuple[CellRuns, ...]:
    """Runs that count, by cell and kind; experiments in the order of the plan, MoE first, then by active bytes."""
    numbers: dict[tuple[Cell, RunKind], list[int]] = {}
    experiments: dict[str, int] = {HEADLINE: -1}
    for number, run in enumerate(loaded.runs):
        experiments.setdefault(run.cell.experiment, len(experiments))
        if counts(run):
            numbers.setdefault((run.cell, run.kind), []).append(number)
    pooled = [CellRuns(*key, members, loaded) for key, members in numbers.items()]
    return tuple(
        sorted(pooled, key=lambda runs: (runs.cell.dataset, experiments[runs.cell.experiment], *_rank(runs.cell)))
    )


def _rank(cell: Cell) -> tuple[bool, int, str, str, int, str]:
    model = cell.model
    return (
        not model.expert_count,
        model.weight_bytes_active or model.parameters_active,
        model.name,
        model.variant,
        cell.workload.depth_tokens,
        cell.settings.variant,
    )
