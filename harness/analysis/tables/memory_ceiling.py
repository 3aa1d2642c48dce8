"""Memory ceiling: what a limit does to a model, until it no longer runs; failed and faulting runs are the result."""

from __future__ import annotations

from harness.analysis.ceiling import Curve, Point, curves
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="way", title="Weights are"),
    Column(key="memory_limit_bytes", title="Limit", style=Style.BYTES_GB, unit="GB"),
    Column(key="size_bytes", title="File", style=Style.BYTES_GB, unit="GB"),
    Column(key="endings", title="Runs ended"),
    Column(key="decode_tokens_per_s", title="Decode", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="share_of_unlimited", title="Of unlimited speed", style=Style.PERCENT, unit="%"),
    Column(key="major_faults", title="Major faults", style=Style.COUNT),
    Column(key="message", title="Last words", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a cell of an experiment that sets limits, failures included."""
    rows = [
        Row(values=_values(evidence, curve, point), marks=watermarks(point.cell))
        for curve in curves(evidence)
        for point in curve.points
    ]
    return make("memory_ceiling", "Memory ceiling", COLUMNS, rows, note=NOTE, absent=ABSENT)


def _values(evidence: Evidence, curve: Curve, point: Point) -> tuple[Value, ...]:
    return (
        evidence.setup_name(point.cell) or None,
        evidence.names.model(point.cell.model),
        curve.way,
        point.limit_bytes or None,
        point.cell.model.size_bytes,
        point.endings,
        point.tokens_per_s,
        curve.share(point) if point.limit_bytes else None,
        point.speed.major_faults if point.speed else None,
        point.last_words,
    )


ABSENT = "no experiment set a memory limit (suite memory-ceiling, --env container)"
NOTE = (
    "Each run in a container with that much memory and no swap; where no limit stands, none was set. Runs that waited "
    "for the disk count here, and a run killed for memory is a result: its speed is 0 %."
)
