"""Roofline: decode speed beside what the machine's bandwidth allows, under active and under total bytes."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.attribution import Attribution, attribution
from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.roofline import Roofline, bandwidth, roofline
from harness.analysis.runs import Cell, watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.terms import RunKind

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="bandwidth_bytes_per_s", title="Bandwidth", style=Style.BYTES_GB, unit="GB/s"),
    Column(key="active_bytes", title="Active", style=Style.BYTES_GB, unit="GB/token"),
    Column(key="total_bytes", title="Total", style=Style.BYTES_GB, unit="GB"),
    Column(key="kv_bytes", title="KV cache", style=Style.BYTES_GB, unit="GB/token", details=True),
    Column(key="decode_tokens_per_s", title="Decode", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="active_tokens_per_s", title="Bound by active bytes", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="total_tokens_per_s", title="Bound by total bytes", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="of_bound", title="Of the active bound", style=Style.PERCENT, unit="%"),
    Column(key="favoured", title="Data favour"),
    Column(key="remark", title="Remark"),
)


def table(evidence: Evidence) -> Table:
    """One row a timed cell of a machine whose bandwidth was measured."""
    rows = [Row(values=_values(evidence, found), marks=watermarks(found.cell)) for found in rooflines(evidence)]
    return make("roofline", "Roofline", COLUMNS, rows, note=NOTE, absent="no run measured the memory's bandwidth")


def rooflines(evidence: Evidence) -> Iterator[Roofline]:
    """Of all timed cells whose machine's bandwidth is known, in the order of the plan."""
    divided = (attribution(runs) for runs in evidence.of_kind(RunKind.PROFILE))
    profiled = [one for one in divided if one is not None]
    for runs in evidence.timed:
        found = _roofline(evidence, runs, profiled)
        if found is not None:
            yield found


def _roofline(evidence: Evidence, runs: CellRuns, profiled: list[Attribution]) -> Roofline | None:
    machine = bandwidth(evidence.of_kind(RunKind.BANDWIDTH), runs.cell)
    if machine is None:
        return None
    return roofline(runs, machine, next((one for one in profiled if _same_step(one.cell, runs.cell)), None))


def _same_step(one: Cell, other: Cell) -> bool:
    """Whether two cells compute the same decode step, so that a profile of one tells the bytes of the other."""
    places = ((one.dataset, one.setup, one.model), (other.dataset, other.setup, other.model))
    works = [(w.depth_tokens, w.kv_type, w.batch_width) for w in (one.workload, other.workload)]
    return places[0] == places[1] and works[0] == works[1] and one.settings == other.settings


def _values(evidence: Evidence, found: Roofline) -> tuple[Value, ...]:
    return (
        evidence.setup_name(found.cell) or None,
        found.cell.experiment,
        evidence.names.cell(found.cell),
        found.bandwidth.bytes_per_s.value,
        found.touched.weights_active,
        found.touched.weights_total,
        found.touched.kv or None,
        found.measured_tokens_per_s.value,
        found.active_tokens_per_s,
        found.total_tokens_per_s,
        found.of_bound,
        found.favoured.value,
        _remark(found),
    )


def _remark(found: Roofline) -> Value:
    if found.exceeds_bound:
        return "faster than its bytes can be read: the bandwidth or the bytes are wrong"
    return "too fast to have read all bytes" if found.refutes_total else None


NOTE = (
    "Bandwidth: all threads reading a working set far over the last cache, by the CPU. A token that reads its weights "
    "and its KV cache once cannot be faster than the bound. The data favour the bound that is nearer on a logarithmic "
    "scale."
)
