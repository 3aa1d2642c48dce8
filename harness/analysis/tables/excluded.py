"""Excluded runs: planned = counted + left out, each with its reason."""

from __future__ import annotations

from harness.analysis.accounting import Account, accounts
from harness.analysis.evidence import Evidence
from harness.analysis.tables.base import Column, Row, Style, Table, make

COLUMNS = (
    Column(key="dataset", title="Dataset"),
    Column(key="reason", title="Reason"),
    Column(key="runs", title="Runs", style=Style.COUNT),
    Column(key="models", title="Models"),
    Column(key="detail", title="In words"),
    Column(key="run_ids", title="Run ids"),
)


def table(evidence: Evidence) -> Table:
    """One row a dataset and reason; the note holds the sums."""
    found = accounts(evidence)
    rows = [Row(values=values) for account in found for values in _rows(evidence, account)]
    note = " ".join([*map(_sums, found), NOTE])
    return make("excluded", "Excluded runs", COLUMNS, rows, note=note, absent="nothing was left out")


def _rows(evidence: Evidence, account: Account) -> list[tuple[str | int | None, ...]]:
    several = len(evidence.datasets) > 1
    return [
        (
            str(account.dataset + 1) if several else None,
            group.reason,
            len(group.run_ids),
            ", ".join(group.models),
            group.detail,
            " ".join(group.run_ids[:8]) + (" ..." if len(group.run_ids) > 8 else ""),
        )
        for group in account.left_out
    ]


def _sums(account: Account) -> str:
    left_out = sum(len(group.run_ids) for group in account.left_out)
    planned = "runs" if account.planned is None else f"planned runs ({account.recorded:,} recorded)"
    total = account.recorded if account.planned is None else account.planned
    again = f" {account.superseded:,} failed or disturbed attempts were repeated." if account.superseded else ""
    return f"{total:,} {planned} = {account.counted:,} counted + {left_out:,} left out.{again}"


NOTE = (
    "A taint leaves a run out of speed and energy; what it says of memory and routing still counts. "
    "`./artifact reproduce --retry` with the same --suite and --out measures failed and disturbed runs once more."
)
