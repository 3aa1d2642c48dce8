"""ARTIFACT.md says what claims and suites say, and nothing that has drifted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import cli, cli_docs
from harness.analysis.claims import CLAIMS_FILE, FormulaName, load_claims
from harness.cli_docs import artifact_page
from harness.errors import UsageError
from harness.report import artifact_page as page
from harness.report.artifact_page import Cost, SuiteLine, artifact_text
from harness.study.config import load_suite
from harness.terms import DeviceKind

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(ROOT / CLAIMS_FILE)


def suite(name: str, minutes: int = 1) -> SuiteLine:
    cost = Cost(minutes=minutes, weight_bytes=7_650_000_000, memory_bytes=11_240_000_000)
    return SuiteLine(name=name, title=f"The {name}", cost=cost, experiments=("a", "b"))


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
    costs = {
        id_: Cost(minutes=place + 5, weight_bytes=1_240_000_000, memory_bytes=1) for place, id_ in enumerate(CLAIMS)
    }
    text = artifact_text(CLAIMS, costs, [suite("smoke"), suite("quick", 14)])
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert [row.split("**")[1] for row in rows] == list(CLAIMS)
    for row, (id_, claim) in zip(rows, CLAIMS.items(), strict=True):
        assert f"`{claim.experiment.command}`" in row
        assert f"| {costs[id_].minutes} | 1.24 GB |" in row
        assert f"{claim.tolerance.low:g} to {claim.tolerance.high:g}" in row
        assert row.count(" | ") == 5
    assert "| quick | The quick | a, b | 14 | 7.65 GB | 11.2 GB |" in text


def test_costs_of_claims_are_those_of_their_commands() -> None:
    assert cli_docs.claim_cost(ROOT, CLAIMS["B4"]) == cli_docs.cost(ROOT, "quick")
    profile = cli_docs.claim_cost(ROOT, CLAIMS["B2"])
    assert profile.minutes < cli_docs.cost(ROOT, "quick").minutes
    assert profile.weight_bytes < cli_docs.cost(ROOT, "quick").weight_bytes  # two of the four models
    assert cli_docs.claim_cost(ROOT, CLAIMS["B3"]) == cli_docs.cost(ROOT, "crosscheck")
    assert cli_docs.claim_cost(ROOT, CLAIMS["C2"]) == cli_docs.cost(ROOT, "paper", DeviceKind.JETSON)
    assert all(cli_docs.claim_cost(ROOT, claim).minutes > 0 for claim in CLAIMS.values())


def test_a_suite_says_about_what_its_plan_estimates() -> None:
    for path in (ROOT / "configs" / "suites").glob("*.toml"):
        said, planned = load_suite(ROOT, path.stem).minutes, cli_docs.cost(ROOT, path.stem).minutes
        assert 0.6 <= said / planned <= 1.6, f"{path.stem}: minutes = {said}, its plan {planned}"


def test_the_disk_that_the_page_names_is_what_the_script_asks_for() -> None:
    asked = re.search(r"^need_mb=(\d+)$", (ROOT / "artifact").read_text(encoding="utf-8"), re.MULTILINE)
    assert asked
    assert f"{int(asked[1]) / 1000:g} GB for the pinned environment" in artifact_page(ROOT)


def test_outputs_of_claims_are_files_of_a_report() -> None:
    golden = (ROOT / "tests/golden/report/report.md").read_text(encoding="utf-8")
    from harness.analysis.tables import MODULES

    tables = {str(vars(module)["__name__"]).rpartition(".")[2] for module in MODULES}
    assert set(page.OUTPUTS) == set(FormulaName)
    for path in (path for paths in page.OUTPUTS.values() for path in paths):
        folder, _, file = path.partition("/")
        assert file.removesuffix(".csv") in tables if folder == "tables" else f"figures/{file}" in golden, path
