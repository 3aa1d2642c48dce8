"""What a table is, for every format alike: columns with units, rows of raw values, a note."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from harness.analysis.evidence import Evidence
from harness.records import Struct

NOT_MEASUREMENTS = ("excluded", "compare")  # tables that may be empty for good reasons
Value = str | int | float | None


class Style(StrEnum):
    """How a number is written for people; CSV always holds the full value."""

    TEXT = "text"
    COUNT = "count"  # 1,234
    FIXED1 = "fixed1"
    FIXED2 = "fixed2"
    SIGNIFICANT3 = "significant3"
    RATIO = "ratio"  # 0.973
    PERCENT = "percent"  # of a fraction
    BYTES_GB = "bytes_gb"
    BILLIONS = "billions"
    NS_AS_MS = "ns_as_ms"
    NS_AS_S = "ns_as_s"


class Column(Struct, frozen=True):
    """`key` names the CSV column and ends in its unit; `title` and `unit` are for people."""

    key: str
    title: str
    style: Style = Style.TEXT
    unit: str = ""
    details: bool = False  # left out where space is short (LaTeX, Markdown)


class Row(Struct, frozen=True):
    """One value a column; `marks` are the watermarks of what stands behind it."""

    values: tuple[Value, ...]
    marks: tuple[str, ...] = ()


class Table(Struct, frozen=True):
    """A table that may be empty: then `absent` says why in one line."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    absent: str = ""

    @property
    def why_empty(self) -> str:
        """The line that stands in the place of rows."""
        return self.absent if self.id in NOT_MEASUREMENTS else f"not measured: {self.absent}"


class TableModule(Protocol):
    """A module of this package: one table from the evidence."""

    def table(self, evidence: Evidence) -> Table:
        """The table; with rows, or with the reason why there are none."""


def make(
    id_: str, title: str, columns: Sequence[Column], rows: Sequence[Row], *, note: str = "", absent: str = ""
) -> Table:
    """A table whose columns without any value are left out, unless there are no rows at all."""
    kept = [i for i, column in enumerate(columns) if not rows or any(row.values[i] is not None for row in rows)]
    return Table(
        id=id_,
        title=title,
        columns=tuple(columns[i] for i in kept),
        rows=tuple(Row(values=tuple(row.values[i] for i in kept), marks=row.marks) for row in rows),
        note=note if rows or id_ in NOT_MEASUREMENTS else "",
        absent="" if rows else absent,
    )
