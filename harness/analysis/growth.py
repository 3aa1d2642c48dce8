"""How much a token's time grows per GB of weights: a family of models in rounds, fitted once a round.

Least squares of nanoseconds a token on total and active bytes, as far as each varies within the family; the estimates
of the rounds are then averaged with an interval that respects their order. A round is one moment of the machine, so
what it is slow or fast at as a whole cancels from the slopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from harness.analysis.cells import CellRuns, time_per_token
from harness.analysis.evidence import Evidence
from harness.analysis.runs import Cell, Setup
from harness.analysis.stats import Floats, Interval, interval_of_mean
from harness.records import Struct
from harness.terms import RunKind
from harness.units import BYTES_PER_GB

MAX_CONDITION = 50.0  # above it total and active bytes vary together and can't be told apart
SAME_SPREAD = 0.02  # bytes within 2 % of one another do not vary: no slope is fitted on them


class Growth(Struct, frozen=True):
    """One family: models of one name, one dataset, setup and experiment, of which total or active bytes vary."""

    cells: tuple[Cell, ...]
    mean_ns: float  # per token, over the family
    ns_per_total_gb: Interval | None  # at fixed active bytes; null where total does not vary
    ns_per_active_gb: Interval | None  # at fixed total bytes; null where active does not vary
    total_gb: tuple[float, float]  # least and most
    active_gb: tuple[float, float]
    rounds: int
    run_ids: tuple[str, ...]

    @property
    def fraction_per_total_gb(self) -> float | None:
        """Growth per GB of total bytes, as a fraction of the family's mean time."""
        return None if self.ns_per_total_gb is None else self.ns_per_total_gb.value / self.mean_ns


def growths(evidence: Evidence) -> tuple[Growth, ...]:
    """All families whose members took turns, in the order of the plan."""
    families: dict[tuple[int, Setup, str, str], list[CellRuns]] = {}
    for runs in evidence.of_kind(RunKind.ROUNDS):
        cell = runs.cell
        if runs.decode is not None and cell.model.weight_bytes_total and not cell.settings.variant:
            families.setdefault((cell.dataset, cell.setup, cell.experiment, cell.model.name), []).append(runs)
    return tuple(found for members in families.values() if (found := growth(members)) is not None)


def growth(members: Sequence[CellRuns]) -> Growth | None:
    """The slopes of one family; null with no more members than slopes, without common rounds, or without variation."""
    gigabytes = np.array(
        [[runs.cell.model.weight_bytes_total, runs.cell.model.weight_bytes_active] for runs in members],
        dtype=np.float64,
    )
    gigabytes /= BYTES_PER_GB
    varying = [place for place in (0, 1) if np.ptp(gigabytes[:, place]) > SAME_SPREAD * gigabytes[:, place].mean()]
    if len(members) <= len(varying) or not varying:
        return None
    centred = gigabytes[:, varying] - gigabytes[:, varying].mean(axis=0)
    if np.linalg.cond(centred / centred.std(axis=0)) > MAX_CONDITION:
        return None
    table = _rounds(members)
    if table.empty:
        return None
    slopes = dict(zip(varying, _slopes(table, centred), strict=True))
    return Growth(
        cells=tuple(runs.cell for runs in members),
        mean_ns=float(table.to_numpy().mean()),
        ns_per_total_gb=slopes.get(0),
        ns_per_active_gb=slopes.get(1),
        total_gb=(float(gigabytes[:, 0].min()), float(gigabytes[:, 0].max())),
        active_gb=(float(gigabytes[:, 1].min()), float(gigabytes[:, 1].max())),
        rounds=len(table),
        run_ids=tuple(run_id for runs in members for run_id in runs.run_ids),
    )


def _rounds(members: Sequence[CellRuns]) -> pd.DataFrame:
    """Nanoseconds a token: a row a round in which every member took a turn, a column a member."""
    columns = []
    for place, runs in enumerate(members):
        rows = runs.decode_rows
        orders = [runs.run(number).schedule.order for number in rows["run"]]
        turns = pd.DataFrame({"order": orders, "round": rows["round"].to_numpy(), place: time_per_token(rows)})
        columns.append(turns.groupby(["order", "round"])[place].mean())
    return pd.concat(columns, axis=1, join="inner").sort_index()


def _slopes(table: pd.DataFrame, centred: Floats) -> Iterator[Interval]:
    """One interval a varying quantity."""
    estimates = table.to_numpy() @ np.linalg.pinv(centred).T
    orders = table.index.get_level_values("order").to_numpy()
    for place in range(centred.shape[1]):
        yield interval_of_mean([estimates[orders == order, place] for order in np.unique(orders)])
