"""Temperature: the hottest sensor of each cell, and where it started."""

from __future__ import annotations

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.analysis.thermal import Peak

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment"),
    Column(key="kind", title="Runs of", details=True),
    Column(key="model", title="Model"),
    Column(key="peak_celsius", title="Peak", style=Style.FIXED1, unit="°C"),
    Column(key="first_celsius", title="Start of that run", style=Style.FIXED1, unit="°C"),
    Column(key="channel", title="Sensor"),
    Column(key="source", title="Read by", details=True),
    Column(key="runs", title="Runs", style=Style.COUNT),
)


def table(evidence: Evidence) -> Table:
    """One row a cell with a temperature sensor."""
    rows = [
        Row(values=_values(evidence, runs, max(seen, key=lambda peak: peak.peak_celsius)), marks=watermarks(runs.cell))
        for runs in evidence.cells
        if (seen := [peak for run in runs.runs for peak in run.peaks])
    ]
    absent = "no temperature sensor was read"
    return make("temperature", "Temperature", COLUMNS, rows, note=NOTE, absent=absent)


def _values(evidence: Evidence, runs: CellRuns, hottest: Peak) -> tuple[Value, ...]:
    return (
        evidence.setup_name(runs.cell) or None,
        runs.cell.experiment,
        runs.kind.value,
        evidence.names.cell(runs.cell),
        hottest.peak_celsius,
        hottest.first_celsius,
        hottest.channel,
        hottest.source,
        len(runs.numbers),
    )


NOTE = "Workers that take turns share their temperature: only runs that were alone tell models apart."
