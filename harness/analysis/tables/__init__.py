"""Tables of the report: one module each; to add one, write it and name it in `MODULES`."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.tables import excluded, latency, memory, models, provenance, quality, ratios, throughput
from harness.analysis.tables.base import Table, TableModule

MODULES: tuple[TableModule, ...] = (
    models,
    throughput,
    ratios,
    latency,
    memory,
    quality,
    provenance,
    excluded,
)


def tables(evidence: Evidence) -> tuple[Table, ...]:
    """All tables in the order of the report."""
    return tuple(module.table(evidence) for module in MODULES)
