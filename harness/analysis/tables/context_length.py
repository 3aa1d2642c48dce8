"""Context: decode speed as the KV cache fills."""

from __future__ import annotations

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.analysis.tables.relative import RELATIVE_COLUMNS, relative

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="depth_tokens", title="KV cache holds", style=Style.COUNT, unit="tokens"),
    Column(key="kv_type", title="KV type"),
    Column(key="decode_tokens_per_s", title="Decode", style=Style.SIGNIFICANT3, unit="tokens/s"),
    *RELATIVE_COLUMNS,
)


def table(evidence: Evidence) -> Table:
    """One row a cell of an experiment that varies the depth."""
    rows = [
        Row(values=_values(evidence, runs), marks=watermarks(runs.cell))
        for runs in evidence.timed
        if runs.decode and "depth_tokens=" in runs.cell.settings.variant
    ]
    return make("context", "Context", COLUMNS, rows, note=NOTE, absent="no experiment varied the depth of the KV cache")


def _values(evidence: Evidence, runs: CellRuns) -> tuple[Value, ...]:
    return (
        evidence.setup_name(runs.cell) or None,
        evidence.names.model(runs.cell.model),
        runs.cell.workload.depth_tokens,
        runs.cell.workload.kv_type.value,
        runs.decode.tokens_per_s.value if runs.decode else None,
        *relative(evidence, runs.cell),
    )


NOTE = "Relative to the same model at the smallest depth, paired."
