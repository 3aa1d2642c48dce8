"""Devices: the machines, and how fast all cores together read memory."""

from __future__ import annotations

from statistics import median

from harness.analysis.evidence import Evidence
from harness.analysis.names import told
from harness.analysis.runs import Run, Setup
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="device", title="Profile"),
    Column(key="cpu", title="CPU"),
    Column(key="cores", title="Cores", style=Style.COUNT),
    Column(key="accelerator", title="Accelerator"),
    Column(key="memory_bytes", title="Memory", style=Style.BYTES_GB, unit="GB"),
    Column(key="power_mode", title="Power mode"),
    Column(key="threads", title="Threads used"),
    Column(key="read_bandwidth_bytes_per_s", title="Read bandwidth", style=Style.BYTES_GB, unit="GB/s"),
    Column(key="bandwidth_passes", title="Passes", style=Style.COUNT, details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a dataset and setup."""
    rows = [_row(evidence, dataset, setup) for dataset, setup in evidence.setups]
    return make("devices", "Devices", COLUMNS, rows, note=NOTE)


def _row(evidence: Evidence, dataset: int, setup: Setup) -> Row:
    runs = [run for run in evidence.runs if (run.cell.dataset, run.cell.setup) == (dataset, setup)]
    host = evidence.hosts[setup.fingerprint]
    rates = bandwidths(runs)
    values: tuple[Value, ...] = (
        evidence.setup_name(runs[0].cell) or None,
        setup.device.value,
        host.cpu_model or host.machine,
        host.cores,
        told(host.accelerator) or None,
        host.memory_bytes,
        told(setup.power_mode) or None,
        ", ".join(map(str, sorted({run.cell.settings.threads for run in runs}))),
        median(rates) if rates else None,
        len(rates) or None,
    )
    return Row(values=values, marks=() if setup.origin == "measured" else (setup.origin.value,))


def bandwidths(runs: list[Run]) -> list[float]:
    """Bytes per second of each pass with the most threads, of runs that count."""
    samples = [sample for run in runs if run.counts for sample in run.bandwidth if sample.duration_ns > 0]
    most = max((sample.threads for sample in samples), default=0)
    return [sample.read_bytes / sample.duration_ns * 1e9 for sample in samples if sample.threads == most]


NOTE = (
    "Read bandwidth: the median pass of all threads over memory that no cache holds; empty where it was not measured."
)
