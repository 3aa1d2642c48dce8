"""Cross-check: the same cells through llama-bench of the same commit."""

from __future__ import annotations

from harness.analysis import crosscheck as checking
from harness.analysis.evidence import Evidence
from harness.analysis.tables.base import Column, Row, Style, Table, make
from harness.crosscheck_file import Crosscheck, CrosscheckCell
from harness.terms import Weights

COLUMNS = (
    Column(key="model", title="Model"),
    Column(key="threads", title="Threads", style=Style.COUNT, details=True),
    Column(key="depth_tokens", title="Depth", style=Style.COUNT, unit="tokens", details=True),
    Column(key="harness_tokens_per_s", title="This harness", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="llama_bench_tokens_per_s", title="llama-bench", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="ratio", title="Ratio", style=Style.RATIO),
    Column(key="low", title="95 % from", style=Style.RATIO),
    Column(key="high", title="to", style=Style.RATIO),
    Column(key="pairs", title="Pairs", style=Style.COUNT),
    Column(key="processes", title="Processes", style=Style.COUNT, details=True),
    Column(key="cut_repetitions", title="Cut", style=Style.COUNT, details=True),
    Column(key="agreement", title="Numbers of both are"),
    Column(key="incomplete", title="Why rounds are missing", details=True),
)
NOTE = (
    "This harness over llama-bench in decode tokens per second, both from one commit of llama.cpp, turn by turn on the "
    "same file with the same threads and depth. Comparable with outside numbers only where the whole interval lies "
    "within 2 % of 1. Repetitions that a suspension of llama-bench cut are left out, and its first after loading."
)


def table(evidence: Evidence) -> Table:
    """One row a model that was checked."""
    rows = [_row(check, cell) for check in evidence.crosschecks for cell in check.cells]
    absent = "./artifact crosscheck was not run on this dataset"
    return make("crosscheck", "Cross-check", COLUMNS, rows, note=NOTE, absent=absent)


def _row(check: Crosscheck, cell: CrosscheckCell) -> Row:
    interval = checking.ratio(cell)
    ours, theirs = checking.tokens_per_s(cell)
    label = f"{cell.model.name} {cell.model.variant}".strip()
    values = (
        label,
        cell.threads,
        cell.depth_tokens,
        ours,
        theirs,
        interval.value if interval else None,
        interval.low if interval else None,
        interval.high if interval else None,
        interval.n if interval else 0,
        interval.cohorts if interval else 0,
        checking.cut_repetitions(cell),
        checking.agreement(check, interval).value,
        cell.incomplete or None,
    )
    marks = ("fake engine",) if check.synthetic else ()
    return Row(values=values, marks=(*marks, *(("proxy",) if cell.model.weights is Weights.PROXY else ())))
