"""Memory by phase: what llama.cpp had planned by the end of a phase, beside what each source saw in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.memory_phases import PHASES, PhaseMemory, unpack
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

PLANNED = ("weights_bytes", "kv_bytes", "compute_bytes")
SIZES = (
    ("weights_bytes", "Planned weights"),
    ("kv_bytes", "Planned KV cache"),
    ("compute_bytes", "Planned compute"),
    ("vm_hwm_bytes", "VmHWM"),
    ("rss_bytes", "VmRSS at its end"),
    ("pss_bytes", "PSS at its end"),
    ("cgroup_peak_bytes", "cgroup peak so far"),
    ("phys_footprint_bytes", "footprint peak so far"),
    ("device_rise_bytes", "device rise"),
    ("available_fall_bytes", "MemAvailable fall"),
)
COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="phase", title="Phase"),
    *(Column(key=key, title=title, style=Style.BYTES_GB, unit="GB") for key, title in SIZES),
    Column(key="ceiling_bytes", title="Ceiling", style=Style.BYTES_GB, unit="GB"),
    Column(key="major_faults", title="Major faults", style=Style.COUNT),
    Column(key="vm_hwm_of", title="VmHWM is of", details=True),
    Column(key="runs", title="Runs", style=Style.COUNT, details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a phase of a cell that had the machine to itself."""
    rows = [row for runs in evidence.alone for row in _rows(evidence, runs)]
    absent = "no run that was alone kept a memory ledger, those of experiments that set limits aside"
    return make("memory_phases", "Memory by phase", COLUMNS, rows, note=NOTE, absent=absent)


def _rows(evidence: Evidence, runs: CellRuns) -> Iterator[Row]:
    found: dict[str, list[PhaseMemory]] = {}
    for run in runs.runs:
        for phase in unpack(run.phases):
            found.setdefault(phase.phase, []).append(phase)
    ceiling = max((run.memory.ceiling_bytes or 0 for run in runs.runs if run.memory), default=0)
    for name in sorted(found, key=_order):
        head = (evidence.setup_name(runs.cell) or None, runs.cell.experiment, evidence.names.cell(runs.cell), name)
        yield Row(values=(*head, *_sizes(found[name]), *_rest(found[name], ceiling)), marks=watermarks(runs.cell))


def _order(name: str) -> int:
    names = list(PHASES.values())
    return names.index(name) if name in names else len(names)


def _sizes(phases: Sequence[PhaseMemory]) -> tuple[Value, ...]:
    """The largest of all runs; a plan that is not allocated yet is no size, but a fall of nothing is one."""
    found = {key: _largest(phases, key) for key, _ in SIZES}
    return tuple(None if key in PLANNED and not size else size for key, size in found.items())


def _rest(phases: Sequence[PhaseMemory], ceiling: int) -> tuple[Value, ...]:
    own = "the phase" if all(phase.hwm_of_phase for phase in phases) else "the run so far"
    return ceiling or None, _largest(phases, "major_faults"), own, len(phases)


def _largest(phases: Sequence[PhaseMemory], field: str) -> int | None:
    return max((value for phase in phases if (value := getattr(phase, field)) is not None), default=None)


NOTE = (
    "Runs that were alone; the largest value of all runs. The plan is llama.cpp's own, of what is allocated by then. "
    "Each source stands by itself: resident pages hold the mapped file, unified memory holds the GPU's buffers, so "
    "nothing is added. Rise and fall are against the start of the run."
)
