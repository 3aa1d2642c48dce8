"""Memory: what llama.cpp planned and what each source saw, never summed across sources."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.runs import PeakMemory, watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

SOURCES = (
    ("vm_hwm_bytes", "VmHWM"),
    ("cgroup_peak_bytes", "cgroup peak"),
    ("phys_footprint_bytes", "footprint"),
    ("device_rise_bytes", "device rise"),
    ("available_fall_bytes", "MemAvailable fall"),
)
COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="weights_bytes", title="Weights", style=Style.BYTES_GB, unit="GB"),
    Column(key="kv_bytes", title="KV cache", style=Style.BYTES_GB, unit="GB"),
    Column(key="compute_bytes", title="Compute", style=Style.BYTES_GB, unit="GB"),
    *(Column(key=f"peak_{key}", title=f"Peak {title}", style=Style.BYTES_GB, unit="GB") for key, title in SOURCES),
    Column(key="ceiling_bytes", title="Ceiling", style=Style.BYTES_GB, unit="GB"),
    Column(key="load_ns", title="Load", style=Style.NS_AS_S, unit="s"),
    Column(key="major_faults", title="Major faults", style=Style.COUNT, details=True),
    Column(key="runs", title="Runs", style=Style.COUNT),
)


def table(evidence: Evidence) -> Table:
    """One row a cell that had the machine to itself."""
    rows = [
        Row(values=_values(evidence, runs), marks=watermarks(runs.cell))
        for runs in evidence.alone
        if any(run.memory for run in runs.runs)
    ]
    return make("memory", "Memory", COLUMNS, rows, note=NOTE, absent=ABSENT)


def _values(evidence: Evidence, runs: CellRuns) -> tuple[Value, ...]:
    ledgers = [run.memory for run in runs.runs if run.memory]
    loads = sorted(run.load_ns for run in runs.runs if run.load_ns is not None)
    return (
        evidence.setup_name(runs.cell) or None,
        runs.cell.experiment,
        evidence.names.cell(runs.cell),
        _largest(ledgers, "weights_bytes"),
        _largest(ledgers, "kv_bytes"),
        _largest(ledgers, "compute_bytes"),
        *(_largest(ledgers, key) for key, _ in SOURCES),
        _largest(ledgers, "ceiling_bytes"),
        loads[len(loads) // 2] if loads else None,
        _largest(ledgers, "major_faults"),
        len(runs.numbers),
    )


def _largest(ledgers: Sequence[PeakMemory], field: str) -> int | None:
    return max((value for ledger in ledgers if (value := getattr(ledger, field)) is not None), default=None)


ABSENT = "no run that was alone kept a memory ledger, those of experiments that set limits aside"
NOTE = (
    "From runs that were alone on the machine; the largest value of all runs, and the median load time. "
    "Weights, KV and compute "
    "are llama.cpp's own plan. Each peak is one source by itself: they overlap and are never added."
)
