"""ARTIFACT.md says what claims and suites say, and nothing that has drifted."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.analysis.claims import CLAIMS_FILE, FormulaName, load_claims
from harness.cli_docs import artifact_page
from harness.errors import UsageError
from harness.report import artifact_page as page
from harness.report.artifact_page import SuiteLine, artifact_text

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(ROOT / CLAIMS_FILE)


def suite(name: str, minutes: int = 1) -> SuiteLine:
    return SuiteLine(
        name=name, title=f"The {name}", minutes=minutes, weight_bytes=7_650_000_000, experiments=("a", "b")
    )


def test_the_page_has_not_drifted() -> None:
    assert (ROOT / page.PAGE).read_text(encoding="utf-8") == artifact_page(ROOT), "run ./artifact docs"


def test_a_drifted_page_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "checksums").symlink_to(ROOT / "checksums")
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    with pytest.raises(UsageError, match=r"ARTIFACT\.md: .* -> run \./artifact docs"):
        cli.docs(check=True)
    cli.docs(check=False)
    cli.docs(check=True)
    (tmp_path / page.PAGE).write_text((tmp_path / page.PAGE).read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(UsageError):
        cli.docs(check=True)


def test_every_claim_and_suite_has_its_row() -> None:
    text = artifact_text(CLAIMS, [suite("smoke"), suite("quick", 14)])
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert [row.split("**")[1] for row in rows] == list(CLAIMS)
    for row, claim in zip(rows, CLAIMS.values(), strict=True):
        assert f"`{claim.experiment.command}`" in row
        assert f"| {claim.experiment.minutes} |" in row
        assert f"{claim.tolerance.low:g} to {claim.tolerance.high:g}" in row
        assert row.count(" | ") == 5
    assert "| quick | The quick | a, b | 14 | 7.7 |" in text


def test_outputs_of_claims_are_files_of_a_report() -> None:
    golden = (ROOT / "tests/golden/report/report.md").read_text(encoding="utf-8")
    from harness.analysis.tables import MODULES

    tables = {str(vars(module)["__name__"]).rpartition(".")[2] for module in MODULES}
    assert set(page.OUTPUTS) == set(FormulaName)
    for path in (path for paths in page.OUTPUTS.values() for path in paths):
        folder, _, file = path.partition("/")
        assert file.removesuffix(".csv") in tables if folder == "tables" else f"figures/{file}" in golden, path
