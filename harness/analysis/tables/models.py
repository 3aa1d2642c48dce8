"""Models: what was run, how large it is, and how much of it a token reads."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, make
from harness.records import ModelRef
from harness.terms import RunKind

COLUMNS = (
    Column(key="model", title="Model"),
    Column(key="weights", title="Weights"),
    Column(key="file_type", title="Type"),
    Column(key="parameters_total", title="Parameters", style=Style.BILLIONS, unit="B"),
    Column(key="parameters_active", title="Active a token", style=Style.BILLIONS, unit="B"),
    Column(key="experts", title="Experts used / all"),
    Column(key="size_bytes", title="File", style=Style.BYTES_GB, unit="GB"),
    Column(key="weight_bytes_active", title="Read a token", style=Style.BYTES_GB, unit="GB"),
    Column(key="licence", title="Licence", details=True),
    Column(key="sha256", title="SHA-256", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a file of weights that any run used."""
    rows: dict[ModelRef, Row] = {}
    for run in evidence.runs:
        if run.kind is not RunKind.BANDWIDTH and run.cell.model not in rows:
            rows[run.cell.model] = Row(values=_values(evidence, run.cell.model), marks=watermarks(run.cell))
    ordered = [rows[model] for model in sorted(rows, key=_order)]
    return make("models", "Models", COLUMNS, ordered, absent="no run named a model", note=NOTE)


def _order(model: ModelRef) -> tuple[bool, int, str, str, str]:
    """MoE first, then by size."""
    return not model.expert_count, model.size_bytes, model.name, model.variant, model.sha256


def _values(evidence: Evidence, model: ModelRef) -> tuple[str | int | None, ...]:
    return (
        evidence.names.model(model),
        model.weights.value,
        model.file_type,
        model.parameters_total,
        model.parameters_active,
        f"{model.expert_used_count} / {model.expert_count}" if model.expert_count else "dense",
        model.size_bytes,
        model.weight_bytes_active or None,
        model.licence or None,
        model.sha256,
    )


NOTE = (
    "Active: what one generated token reads. A proxy has the real model's shapes and quantization types "
    "and random values: "
    "it shows speed and memory, not text."
)
