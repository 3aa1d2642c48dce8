"""Tables of the report: one module each; to add one, write it and name it in `MODULES`."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.tables import (
    attribution,
    compare,
    context_length,
    crosscheck,
    devices,
    energy,
    energy_ratios,
    excluded,
    expert_cache,
    growth,
    latency,
    memory,
    memory_ceiling,
    memory_needed,
    memory_phases,
    models,
    order_control,
    provenance,
    proxy_validity,
    quality,
    quantization,
    ratios,
    roofline,
    router_overhead,
    router_width,
    routing,
    rules,
    sampler_cost,
    sparsity,
    temperature,
    throughput,
)
from harness.analysis.tables.base import Table, TableModule

MODULES: tuple[TableModule, ...] = (
    models,
    devices,
    throughput,
    ratios,
    compare,
    latency,
    memory,
    memory_phases,
    energy,
    energy_ratios,
    temperature,
    router_overhead,
    router_width,
    attribution,
    roofline,
    context_length,
    quantization,
    sparsity,
    growth,
    routing,
    expert_cache,
    memory_ceiling,
    memory_needed,
    proxy_validity,
    quality,
    sampler_cost,
    crosscheck,
    order_control,
    rules,
    provenance,
    excluded,
)


def tables(evidence: Evidence) -> tuple[Table, ...]:
    """All tables in the order of the report."""
    return tuple(module.table(evidence) for module in MODULES)
