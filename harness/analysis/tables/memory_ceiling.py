"""Memory ceiling: what a limit does to a model, until it no longer runs; failed and faulting runs are the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.runs import Cell, Run, watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="memory_limit_bytes", title="Limit", style=Style.BYTES_GB, unit="GB"),
    Column(key="size_bytes", title="File", style=Style.BYTES_GB, unit="GB"),
    Column(key="endings", title="Runs ended"),
    Column(key="decode_tokens_per_s", title="Decode", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="major_faults", title="Major faults", style=Style.COUNT),
    Column(key="message", title="Last words", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a cell of an experiment that sets limits, taints and failures included."""
    limited = {run.cell.experiment for run in evidence.runs if run.cell.settings.memory_limit_bytes}
    by_cell: dict[Cell, list[int]] = {}
    for number, run in enumerate(evidence.runs):
        if run.cell.experiment in limited:
            by_cell.setdefault(run.cell, []).append(number)
    rows = [
        Row(values=_values(evidence, cell, numbers), marks=watermarks(cell))
        for cell, numbers in sorted(by_cell.items(), key=lambda item: _order(item[0]))
    ]
    absent = "no experiment set a memory limit (it needs containers)"
    return make("memory_ceiling", "Memory ceiling", COLUMNS, rows, note=NOTE, absent=absent)


def _order(cell: Cell) -> tuple[int, str, bool, int]:
    limit = cell.settings.memory_limit_bytes
    return cell.dataset, cell.model.name, bool(limit), -limit


def _values(evidence: Evidence, cell: Cell, numbers: Sequence[int]) -> tuple[Value, ...]:
    runs = [evidence.runs[number] for number in numbers]
    measured = CellRuns(cell, runs[0].kind, numbers, evidence.loaded).decode
    endings = Counter(run.termination.ending.value for run in runs)
    return (
        evidence.setup_name(cell) or None,
        evidence.names.model(cell.model),
        cell.settings.memory_limit_bytes or None,
        cell.model.size_bytes,
        ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items())),
        measured.tokens_per_s.value if measured else None,
        measured.major_faults if measured else None,
        _last_words(runs),
    )


def _last_words(runs: Sequence[Run]) -> str | None:
    return next((run.termination.message for run in runs if run.termination.message), None)


NOTE = (
    "Every run of the experiment is here, also those that other tables leave out: faults and failures are its result."
)
