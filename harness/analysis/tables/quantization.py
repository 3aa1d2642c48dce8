"""Quantization: one model in several file types."""

from __future__ import annotations

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.analysis.tables.relative import RELATIVE_COLUMNS, relative

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="file_type", title="Type"),
    Column(key="size_bytes", title="File", style=Style.BYTES_GB, unit="GB"),
    Column(key="weight_bytes_active", title="Read a token", style=Style.BYTES_GB, unit="GB"),
    Column(key="decode_tokens_per_s", title="Decode", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="prefill_tokens_per_s", title="Prefill", style=Style.SIGNIFICANT3, unit="tokens/s"),
    *RELATIVE_COLUMNS,
)


def table(evidence: Evidence) -> Table:
    """One row a cell of an experiment in which a model has more than one file type."""
    types: dict[tuple[int, str, str], set[str]] = {}
    for runs in evidence.timed:
        types.setdefault(_place(runs), set()).add(runs.cell.model.file_type)
    rows = [
        Row(values=_values(evidence, runs), marks=watermarks(runs.cell))
        for runs in evidence.timed
        if len(types[_place(runs)]) > 1
    ]
    absent = "no experiment ran one model in several file types"
    return make("quantization", "Quantization", COLUMNS, rows, note=NOTE, absent=absent)


def _place(runs: CellRuns) -> tuple[int, str, str]:
    return runs.cell.dataset, runs.cell.experiment, runs.cell.model.name


def _values(evidence: Evidence, runs: CellRuns) -> tuple[Value, ...]:
    model = runs.cell.model
    return (
        evidence.setup_name(runs.cell) or None,
        evidence.names.cell(runs.cell),
        model.file_type,
        model.size_bytes,
        model.weight_bytes_active or None,
        runs.decode.tokens_per_s.value if runs.decode else None,
        runs.prefill.tokens_per_s.value if runs.prefill else None,
        *relative(evidence, runs.cell),
    )


NOTE = "Relative to Q4_K_M of the same model, decode, paired."
