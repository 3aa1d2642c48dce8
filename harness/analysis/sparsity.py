"""Whether a token costs what total bytes or what active bytes say: a family in which each varies alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from harness.analysis.cells import CellRuns
from harness.analysis.claims import Claim
from harness.analysis.evidence import Evidence
from harness.analysis.observation import Observation
from harness.analysis.runs import Setup
from harness.analysis.stats import Floats, interval_of_mean

MIN_MEMBERS = 3
MAX_CONDITION = 50.0  # of the centred design: above it total and active bytes vary together and can't be told apart


def total_over_active(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """Elasticity of time per token to total bytes, minus that to active bytes; one estimate a round."""
    families: dict[tuple[int, Setup, str], list[CellRuns]] = {}
    for runs in evidence.timed:
        model = runs.cell.model
        if (
            model.expert_count
            and claim.candidate in ("", model.name)
            and not runs.cell.settings.variant
            and runs.decode
        ):
            families.setdefault((runs.cell.dataset, runs.cell.setup, runs.cell.experiment), []).append(runs)
    for members in families.values():
        weights = _contrast(members)
        if weights is None:
            continue
        series = _series(members, weights)
        if series:
            ids = tuple(run_id for runs in members for run_id in runs.run_ids)
            cells = tuple(runs.cell for runs in members)
            remark = f"{len(members)} members of the family"
            yield Observation(interval=interval_of_mean(series), cells=cells, run_ids=ids, remark=remark)


def _contrast(members: Sequence[CellRuns]) -> Floats | None:
    """Weights that turn log times of all members into the difference of both elasticities (least squares)."""
    design = np.log([[r.cell.model.weight_bytes_total, r.cell.model.weight_bytes_active] for r in members])
    centred = design - design.mean(axis=0)
    if len(members) < MIN_MEMBERS or np.linalg.cond(centred) > MAX_CONDITION:
        return None
    contrast: Floats = np.array([1.0, -1.0]) @ np.linalg.pinv(centred)
    return contrast


def _series(members: Sequence[CellRuns], weights: Floats) -> list[Floats]:
    """The difference of elasticities in each round in which all members took a turn, one array a cohort."""
    columns = []
    for place, runs in enumerate(members):
        rows = runs.decode_rows
        order = [runs.run(number).schedule.order for number in rows["run"]]
        turns = pd.DataFrame({"order": order, "round": rows["round"].to_numpy()})
        turns[place] = np.log(rows["counted_ns"].to_numpy() / rows["counted_tokens"].to_numpy())
        columns.append(turns.groupby(["order", "round"])[place].mean())
    table = pd.concat(columns, axis=1, join="inner").sort_index()
    values = table.to_numpy() @ weights
    orders = table.index.get_level_values("order").to_numpy()
    return [values[orders == order] for order in np.unique(orders)]
