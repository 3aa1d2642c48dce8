"""Memory needed: the smallest limit under which a model still has 90 % of its speed."""

from __future__ import annotations

from harness.analysis.ceiling import ENOUGH, Curve, curves
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="way", title="Weights are"),
    Column(key="size_bytes", title="File", style=Style.BYTES_GB, unit="GB"),
    Column(key="unlimited_tokens_per_s", title="Decode, no limit", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="smallest_limit_bytes", title="Smallest limit for 90 %", style=Style.BYTES_GB, unit="GB"),
    Column(key="smallest_over_size", title="Limit over file", style=Style.RATIO),
    Column(key="out_of_memory_bytes", title="Killed for memory at", style=Style.BYTES_GB, unit="GB"),
)


def table(evidence: Evidence) -> Table:
    """One row a model and way of loading."""
    rows = [
        Row(values=_values(evidence, curve), marks=watermarks(curve.cell))
        for curve in curves(evidence)
        if curve.unlimited is not None
    ]
    title = f"Smallest memory for {ENOUGH:.0%} of the speed"
    return make("memory_needed", title, COLUMNS, rows, note=NOTE, absent=ABSENT)


def _values(evidence: Evidence, curve: Curve) -> tuple[Value, ...]:
    smallest, killed = curve.smallest, curve.killed_at
    return (
        evidence.setup_name(curve.cell) or None,
        evidence.names.model(curve.model),
        curve.way,
        curve.model.size_bytes,
        curve.unlimited,
        smallest.limit_bytes if smallest else None,
        smallest.limit_bytes / curve.model.size_bytes if smallest else None,
        killed.limit_bytes if killed else None,
    )


ABSENT = "no experiment ran a model with and without a memory limit (suite memory-ceiling, --env container)"
NOTE = (
    "Of the limits that were tried: the smallest that kept the speed, every larger one having kept it too. Empty: none "
    "of them did. Speed that was lost without one major fault in decode was not lost to the limit. The limit counts "
    "everything that the process holds: weights, cache, the interpreter, file pages."
)
