"""Everything that a report shows, computed once and written in every format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from harness.analysis import compare
from harness.analysis.accounting import Account, accounts
from harness.analysis.claims import Claim, ClaimVerdict, Origin, Verdict
from harness.analysis.evidence import Evidence
from harness.analysis.figures import Drawn, draw
from harness.analysis.figures.base import Figure, Missing
from harness.analysis.judge import judge
from harness.analysis.svg import DARK, LIGHT
from harness.analysis.tables import tables
from harness.analysis.tables.base import Table
from harness.report.answer import Answer, answers
from harness.report.claims_table import claims_table

TITLE = "Mixture-of-Experts on this machine"
PAPER = "arXiv 2606.21428"


class Context:
    """The properties that templates may name; StrictUndefined refuses any other."""

    title = TITLE
    paper = PAPER
    hues = (LIGHT, DARK)

    def __init__(self, evidence: Evidence, claims: Mapping[str, Claim]) -> None:
        self._evidence = evidence
        self._claims = claims

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """The answer, one a machine."""
        return answers(self._evidence)

    @cached_property
    def comparisons(self) -> tuple[str, ...]:
        """One sentence a cell that two datasets have in common; empty for one dataset."""
        return compare.lines(self._evidence)

    @cached_property
    def verdicts(self) -> tuple[ClaimVerdict, ...]:
        """One a claim."""
        return judge(self._evidence, self._claims)

    @property
    def paper_verdicts(self) -> tuple[ClaimVerdict, ...]:
        """Claims of the paper."""
        return tuple(verdict for verdict in self.verdicts if verdict.origin is Origin.PAPER)

    @property
    def bundle_verdicts(self) -> tuple[ClaimVerdict, ...]:
        """This bundle's own claims."""
        return tuple(verdict for verdict in self.verdicts if verdict.origin is Origin.BUNDLE)

    @property
    def verdict_counts(self) -> tuple[tuple[str, int], ...]:
        """How many claims of the paper have each verdict; verdicts without any are left out."""
        found = [verdict.verdict for verdict in self.paper_verdicts]
        return tuple((kind.words, found.count(kind)) for kind in Verdict if kind in found)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """All tables, the claims among them."""
        made = list(tables(self._evidence))
        place = next(i for i, table in enumerate(made) if table.id == "provenance")
        return (*made[:place], claims_table(self.verdicts), *made[place:])

    @cached_property
    def _drawn(self) -> Drawn:
        return draw(self._evidence)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All figures that the data allow."""
        return self._drawn.figures

    @property
    def missing_figures(self) -> tuple[Missing, ...]:
        """The others, with the reason."""
        return self._drawn.missing

    @cached_property
    def accounts(self) -> tuple[Account, ...]:
        """Planned, counted and left out, one a dataset."""
        return accounts(self._evidence)

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Watermarks of any table row: named once at the top."""
        return tuple(dict.fromkeys(mark for table in self.tables for row in table.rows for mark in row.marks))

    @property
    def left_out(self) -> tuple[str, ...]:
        """One sentence a reason for which runs do not count, most runs first."""
        groups = [group for account in self.accounts for group in account.left_out]
        ordered = sorted(groups, key=lambda group: (-len(group.run_ids), group.reason))
        return tuple(
            f"{len(group.run_ids)} runs {group.reason}" + (f" ({group.detail})" if group.detail else "")
            for group in ordered
        )

    @property
    def digests(self) -> tuple[str, ...]:
        """Digest of each dataset, whatever the order of its lines."""
        return tuple(dataset.digest for dataset in self._evidence.datasets)
