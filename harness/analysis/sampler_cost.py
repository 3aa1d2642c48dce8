"""What watching costs: decode speed with the sampler at work over decode speed with it paused, within one process.

Both bursts of a pair are of one round of one worker, in random order: neither another process's page placement nor a
drift of the machine stands between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from harness.analysis.cells import CellRuns, time_per_token
from harness.analysis.runs import Cell
from harness.analysis.stats import Interval, geometric_interval, rate_per_s
from harness.records import Struct


class SamplerCost(Struct, frozen=True):
    """One cell; below 1 the sampler takes speed away."""

    cell: Cell
    interval: Interval
    watched_tokens_per_s: float
    unwatched_tokens_per_s: float
    run_ids: tuple[str, ...]


def sampler_costs(cells: Iterable[CellRuns]) -> tuple[SamplerCost, ...]:
    """Of every cell that decoded both ways."""
    return tuple(cost for runs in cells for cost in _cost(runs))


def _cost(runs: CellRuns) -> Iterator[SamplerCost]:
    watched, unwatched = runs.decode_rows, runs.unwatched_rows
    pairs = _by_round(watched).to_frame("watched").join(_by_round(unwatched).to_frame("unwatched"), how="inner")
    if pairs.empty:
        return
    speeds = pairs["unwatched"] / pairs["watched"]
    series = [group.to_numpy() for _, group in speeds.groupby(level="run", sort=True)]
    yield SamplerCost(
        cell=runs.cell,
        interval=geometric_interval(series),
        watched_tokens_per_s=_rate(watched),
        unwatched_tokens_per_s=_rate(unwatched),
        run_ids=runs.run_ids,
    )


def _by_round(rows: pd.DataFrame) -> pd.Series[float]:
    index = pd.MultiIndex.from_frame(rows[["run", "round"]])
    return pd.Series(time_per_token(rows), index=index)


def _rate(rows: pd.DataFrame) -> float:
    return rate_per_s(int(rows["counted_tokens"].sum()), int(rows["counted_ns"].sum())) or 0.0
