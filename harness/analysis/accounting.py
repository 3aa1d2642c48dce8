"""No silent subset: every planned run is counted, or left out with a reason."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.evidence import Evidence
from harness.analysis.load import Dataset
from harness.analysis.names import pretty
from harness.analysis.runs import Run
from harness.records import Struct
from harness.terms import Ending

NO_REASON = "no record and no reason"


class LeftOut(Struct, frozen=True):
    """Runs left out for one reason."""

    reason: str
    detail: str  # in words, of the first of them
    run_ids: tuple[str, ...]
    models: tuple[str, ...]


class Account(Struct, frozen=True):
    """What became of the planned runs of one dataset."""

    dataset: int
    planned: int | None  # null for a bare JSONL file: the plan is not known
    recorded: int
    counted: int
    left_out: tuple[LeftOut, ...]
    superseded: int


def accounts(evidence: Evidence) -> tuple[Account, ...]:
    """One account a dataset; planned (or recorded) = counted + left out."""
    return tuple(_account(dataset) for dataset in evidence.datasets)


def _account(dataset: Dataset) -> Account:
    reasons: dict[str, list[tuple[str, str, str]]] = {}
    for reason, *facts in (*_excluded(dataset), *_not_recorded(dataset)):
        reasons.setdefault(reason, []).append((facts[0], facts[1], facts[2]))
    left_out = [
        LeftOut(
            reason=reason,
            detail=found[0][2],
            run_ids=tuple(run_id for run_id, _, _ in found),
            models=tuple(dict.fromkeys(pretty(model) for _, model, _ in found)),
        )
        for reason, found in sorted(reasons.items())
    ]
    return Account(
        dataset=dataset.index,
        planned=_planned(dataset),
        recorded=len(dataset.runs),
        counted=sum(run.counts for run in dataset.runs),
        left_out=tuple(left_out),
        superseded=dataset.superseded,
    )


def _planned(dataset: Dataset) -> int | None:
    """Planned runs, and recorded ones that no plan names (they are counted too)."""
    if dataset.plan is None:
        return None
    return len({run.run_id for run in dataset.plan.planned} | {run.run_id for run in dataset.runs})


def _excluded(dataset: Dataset) -> Iterator[tuple[str, str, str, str]]:
    """Reason, run id, model and words of recorded runs that do not count."""
    for run in dataset.runs:
        if not run.counts:
            reason, detail = why_excluded(run)
            yield reason, run.run_id, run.cell.model.name, detail


def why_excluded(run: Run) -> tuple[str, str]:
    """Reason in a word, and in words."""
    if run.termination.ending is not Ending.OK:
        return f"ended: {run.termination.ending.value}", run.termination.message
    kinds = dict.fromkeys(taint.kind.value for taint in run.taints)
    return f"tainted: {', '.join(kinds)}", run.taints[0].detail


def _not_recorded(dataset: Dataset) -> Iterator[tuple[str, str, str, str]]:
    """Planned runs without a record."""
    if dataset.plan is None:
        return
    recorded = {run.run_id for run in dataset.runs}
    for planned in dataset.plan.planned:
        if planned.run_id not in recorded:
            reason = dataset.plan.not_run.get(planned.run_id)
            yield f"not run: {reason}" if reason else NO_REASON, planned.run_id, planned.model, reason or ""
