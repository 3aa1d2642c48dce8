"""Provenance: on what, with what and when the runs were made."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.names import machine, told
from harness.analysis.runs import Run, Setup
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="host", title="Host"),
    Column(key="system", title="System"),
    Column(key="environment", title="Environment"),
    Column(key="engine", title="Engine"),
    Column(key="origin", title="Origin"),
    Column(key="power_mode", title="Power mode"),
    Column(key="llama_cpp_commit", title="llama.cpp"),
    Column(key="build_flags", title="Build flags", details=True),
    Column(key="compiler", title="Compiler", details=True),
    Column(key="image_digest", title="Image", details=True),
    Column(key="bundle", title="Bundle"),
    Column(key="lock_sha256", title="Lock", details=True),
    Column(key="fingerprint", title="Host fingerprint", details=True),
    Column(key="first_utc", title="First run (UTC)"),
    Column(key="last_utc", title="Last run (UTC)"),
    Column(key="runs", title="Runs", style=Style.COUNT),
    Column(key="digest", title="Dataset digest", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a dataset and setup: runs of different rows are never pooled."""
    by_setup: dict[tuple[int, Setup], list[Run]] = {}
    for run in evidence.runs:
        by_setup.setdefault((run.cell.dataset, run.cell.setup), []).append(run)
    rows = [
        Row(values=_values(evidence, dataset, setup, runs), marks=_marks(setup))
        for (dataset, setup), runs in by_setup.items()
    ]
    return make("provenance", "Provenance", COLUMNS, rows, note=NOTE)


def _marks(setup: Setup) -> tuple[str, ...]:
    return () if setup.origin == "measured" else (setup.origin.value,)


def _values(evidence: Evidence, dataset: int, setup: Setup, runs: list[Run]) -> tuple[Value, ...]:
    host = evidence.hosts[setup.fingerprint]
    provenance = [run.provenance for run in runs]
    taken = [run.taken_at_utc for run in runs if run.taken_at_utc]
    return (
        evidence.setup_name(runs[0].cell) or None,
        machine(host),
        f"{host.system} {host.kernel} {host.machine}",
        setup.environment.value,
        setup.engine.value,
        setup.origin.value,
        told(setup.power_mode) or None,
        setup.llama_cpp_commit[:12],
        setup.build_flags or None,
        _joined({p.compiler for p in provenance}),
        _joined({p.image_digest for p in provenance}),
        _joined({f"{p.bundle_version} {p.git_commit[:9]}{' (modified)' if p.git_dirty else ''}" for p in provenance}),
        _joined({p.lock_sha256[:12] for p in provenance}),
        setup.fingerprint,
        min(taken, default=None),
        max(taken, default=None),
        len(runs),
        evidence.datasets[dataset].digest,
    )


def _joined(values: set[str]) -> str | None:
    return "; ".join(sorted(values - {""})) or None


NOTE = (
    "Runs are pooled only where schema, llama.cpp commit, build flags, model hash, environment, host "
    "fingerprint, power mode "
    "and settings agree."
)
