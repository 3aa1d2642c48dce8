"""Sparsity: a family of models in which experts and active experts vary one at a time."""

from __future__ import annotations

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.analysis.tables.relative import RELATIVE_COLUMNS, relative

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="expert_count", title="Experts", style=Style.COUNT),
    Column(key="expert_used_count", title="Used", style=Style.COUNT),
    Column(key="weight_bytes_total", title="All weights", style=Style.BYTES_GB, unit="GB"),
    Column(key="weight_bytes_active", title="Read a token", style=Style.BYTES_GB, unit="GB"),
    Column(key="decode_tokens_per_s", title="Decode", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="effective_bytes_per_s", title="Active bytes moved", style=Style.BYTES_GB, unit="GB/s"),
    *RELATIVE_COLUMNS,
)


def table(evidence: Evidence) -> Table:
    """One row a cell of an experiment that has a model with another number of experts."""
    families = {
        (runs.cell.dataset, runs.cell.experiment) for runs in evidence.timed if "experts=" in runs.cell.model.variant
    }
    rows = [
        Row(values=_values(evidence, runs), marks=watermarks(runs.cell))
        for runs in evidence.timed
        if runs.decode and (runs.cell.dataset, runs.cell.experiment) in families
    ]
    absent = "no experiment varied the number of experts"
    return make("sparsity", "Sparsity", COLUMNS, rows, note=NOTE, absent=absent)


def _values(evidence: Evidence, runs: CellRuns) -> tuple[Value, ...]:
    model = runs.cell.model
    speed = runs.decode.tokens_per_s.value if runs.decode else None
    return (
        evidence.setup_name(runs.cell) or None,
        evidence.names.cell(runs.cell),
        model.expert_count or None,
        model.expert_used_count or None,
        model.weight_bytes_total or None,
        model.weight_bytes_active or None,
        speed,
        speed * model.weight_bytes_active if speed and model.weight_bytes_active else None,
        *relative(evidence, runs.cell),
    )


NOTE = (
    "If a token cost what its active bytes cost, active bytes moved would be equal in all rows. Claims C6 "
    "and B5 are judged "
    "from this family. Relative to the plain model, decode, paired."
)
