"""Rules of measurement: what was checked, and what did not keep to them."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.rules import checks
from harness.analysis.tables.base import Column, Row, Style, Table, make

SHOWN_IDS = 8
COLUMNS = (
    Column(key="rule", title="Rule"),
    Column(key="checked", title="Checked", style=Style.COUNT),
    Column(key="broken", title="Broken", style=Style.COUNT),
    Column(key="detail", title="By"),
    Column(key="run_ids", title="Run ids", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a rule, kept ones too."""
    rows = [
        Row(
            values=(
                check.rule,
                check.checked,
                check.broken,
                check.detail or None,
                " ".join(check.run_ids[:SHOWN_IDS]) + (" ..." if len(check.run_ids) > SHOWN_IDS else "") or None,
            )
        )
        for check in checks(evidence)
    ]
    return make("rules", "Rules of measurement", COLUMNS, rows, note=NOTE)


NOTE = (
    "A broken rule is no fault of the data, but what a reader should know of them. One in twenty order effects shows "
    "by chance alone."
)
