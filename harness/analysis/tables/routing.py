"""Routing: which experts the routers select, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.records import RoutingTrace
from harness.terms import RunKind

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="source", title="Tokens"),
    Column(key="rows", title="Tokens seen", style=Style.COUNT),
    Column(key="layers", title="Layers", style=Style.COUNT),
    Column(key="experts", title="Experts used / all"),
    Column(key="effective_experts", title="Effective experts", style=Style.FIXED1),
    Column(key="busiest_over_even", title="Busiest / even", style=Style.FIXED2),
    Column(key="kept_fraction", title="Kept from token to token", style=Style.PERCENT, unit="%"),
)


def table(evidence: Evidence) -> Table:
    """One row a traced cell."""
    rows = []
    for runs in evidence.of_kind(RunKind.ROUTING):
        traces = [run.routing for run in runs.runs if run.routing is not None and run.routing.selected]
        if traces:
            name = evidence.names.cell(runs.cell)
            head = (evidence.setup_name(runs.cell) or None, name, runs.cell.workload.source.value)
            rows.append(Row(values=(*head, *_facts(traces)), marks=watermarks(runs.cell)))
    return make("routing", "Routing", COLUMNS, rows, note=NOTE, absent="no run traced the routers")


def _facts(traces: Sequence[RoutingTrace]) -> tuple[Value, ...]:
    first = traces[0]
    counts = sum((_counts(trace) for trace in traces), start=np.zeros((len(first.layer_numbers), first.expert_count)))
    shares = counts / counts.sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
    return (
        sum(len(trace.selected) for trace in traces),
        len(first.layer_numbers),
        f"{first.expert_used_count} / {first.expert_count}",
        float(np.exp(entropy).mean()),
        float(shares.max(axis=1).mean() * first.expert_count),
        _kept(traces),
    )


def _counts(trace: RoutingTrace) -> NDArray[np.float64]:
    """How often each expert of each layer was selected."""
    selected = np.array(trace.selected)
    counts = np.zeros((len(trace.layer_numbers), trace.expert_count))
    for layer in range(counts.shape[0]):
        counts[layer] = np.bincount(selected[:, layer].ravel(), minlength=trace.expert_count)
    return counts


def _kept(traces: Sequence[RoutingTrace]) -> float | None:
    """Share of a token's experts that the token before it in the same burst had selected too."""
    kept = total = 0
    for trace in traces:
        if trace.batch_width != 1:
            continue
        start = 0
        for steps in trace.burst_steps:
            selected = np.array(trace.selected[start : start + steps])
            start += steps
            if steps > 1:
                same = selected[1:, :, :, None] == selected[:-1, :, None, :]
                kept += int(same.any(axis=3).sum())
                total += selected[1:].size
    return kept / total if total else None


NOTE = (
    "Effective experts: exponential of the entropy of use, mean over layers; all experts evenly used "
    "would give their number. "
    "A proxy's router is random: only released weights show the real skew."
)
