"""The claims as a table, for CSV and LaTeX; HTML and Markdown show them as a list too."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.claims import ClaimVerdict
from harness.analysis.tables.base import Column, Row, Style, Table, make

COLUMNS = (
    Column(key="id", title="Claim"),
    Column(key="sentence", title="Sentence", details=True),
    Column(key="verdict", title="Verdict"),
    Column(key="published", title="Published", style=Style.SIGNIFICANT3),
    Column(key="value", title="Seen", style=Style.SIGNIFICANT3),
    Column(key="low", title="95 % from", style=Style.SIGNIFICANT3),
    Column(key="high", title="to", style=Style.SIGNIFICANT3),
    Column(key="tolerance_low", title="Tolerance from", style=Style.SIGNIFICANT3),
    Column(key="tolerance_high", title="to", style=Style.SIGNIFICANT3),
    Column(key="n", title="n", style=Style.COUNT),
    Column(key="setup", title="Machine", details=True),
    Column(key="reason", title="Reason", details=True),
    Column(key="run_ids", title="Run ids", details=True),
)


def claims_table(verdicts: Sequence[ClaimVerdict]) -> Table:
    """One row a claim."""
    rows = [
        Row(
            values=(
                verdict.id,
                verdict.sentence,
                verdict.verdict.words,
                verdict.published,
                verdict.value,
                verdict.low,
                verdict.high,
                verdict.tolerance_low,
                verdict.tolerance_high,
                verdict.n or None,
                verdict.setup or None,
                verdict.reason,
                " ".join(verdict.run_ids) or None,
            ),
            marks=verdict.watermarks,
        )
        for verdict in verdicts
    ]
    return make("claims", "Claims", COLUMNS, rows, note="Reasons, tolerances and run ids stand with each claim above.")
