"""Two datasets against each other: matched runs, intervals, what differs, and how the command line takes two values."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import records_factory as factory
from lab_hosts import JETSON_HOST
from records_factory import FOUR, LLAMA, OLMOE, Lab
from test_report import rows_of

from harness import cli
from harness.analysis.compare import comparisons, lines
from harness.analysis.evidence import Evidence
from harness.analysis.ratios import Finding, Pairing
from harness.errors import UsageError
from harness.terms import BurstKind

ROOT = Path(__file__).resolve().parents[2]
LAB = Lab(rounds=10, cohorts=3, decode_tokens=10, noise=0.01)
NEWER = LAB.with_(llama_cpp_commit="f" * 40, seed=2)


def two(folder: Path, one: Lab, other: Lab, faster: float = 1.0) -> Evidence:
    """OLMoE and Llama in both; OLMoE is `faster` in the second dataset."""
    quick = replace(OLMOE, token_ns=int(OLMOE.token_ns / faster))
    first = factory.write(folder / "a", list(factory.rounds(one, (OLMOE, LLAMA))))
    second = factory.write(folder / "b", list(factory.rounds(other, (quick, LLAMA))))
    return Evidence.of([first, second])


def decode(evidence: Evidence) -> dict[str, tuple[Finding, Pairing]]:
    """What is said of each model's decode speed."""
    found = [one.ratio for one in comparisons(evidence) if one.ratio.quantity is BurstKind.DECODE]
    return {ratio.candidate.model.name: (ratio.finding, ratio.pairing) for ratio in found}


def test_a_difference_is_found_and_its_absence_is_said(tmp_path: Path) -> None:
    evidence = two(tmp_path, LAB, NEWER, faster=1.1)
    assert decode(evidence) == {
        OLMOE.name: (Finding.FASTER, Pairing.MATCHED),
        LLAMA.name: (Finding.NO_DIFFERENCE, Pairing.MATCHED),
    }
    (faster, same) = lines(evidence)
    assert re.match(r"OLMoE-1B-7B, headline: dataset 2 at 1\.(09|10)\d. of dataset 1 \(95 % interval ", faster)
    assert "% faster [synthetic, proxy]." in faster
    assert "no difference detected (one of " in same


def test_matched_pairs_hold_the_true_ratio_and_count_rounds_and_processes(tmp_path: Path) -> None:
    found = comparisons(two(tmp_path, LAB, NEWER, faster=1.1))[0].ratio
    assert found.interval.n == 30
    assert found.interval.cohorts == 3
    assert found.interval.low is not None
    assert found.interval.high is not None
    assert found.interval.low < 1.1 < found.interval.high
    assert found.order_effect is None


def test_sessions_whose_runs_do_not_match_are_joined_by_their_intervals(tmp_path: Path) -> None:
    first = factory.write(tmp_path / "a", list(factory.rounds(LAB, FOUR)))
    moved = [r for r in factory.rounds(NEWER.with_(cohorts=6), FOUR) if r.spec.schedule.block >= 3]
    evidence = Evidence.of([first, factory.write(tmp_path / "b", moved)])
    assert {pairing for _, pairing in decode(evidence).values()} == {Pairing.UNPAIRED}
    assert all("no runs that match" in line for line in lines(evidence))


def test_what_differs_is_told(tmp_path: Path) -> None:
    other = NEWER.with_(host=JETSON_HOST, power_mode="nvpmodel 15W")
    assert comparisons(two(tmp_path / "x", LAB, other))[0].differs == ("machine", "llama.cpp commit", "power mode")
    assert comparisons(two(tmp_path / "y", LAB, LAB))[0].differs == ()


def test_two_datasets_without_a_common_cell_say_so(tmp_path: Path) -> None:
    first = factory.write(tmp_path / "a", list(factory.rounds(LAB, (OLMOE,))))
    second = factory.write(tmp_path / "b", list(factory.rounds(LAB, (LLAMA,))))
    assert lines(Evidence.of([first, second])) == ("The datasets have no cell in common.",)
    assert lines(Evidence.of([first])) == ()


def test_tainted_runs_take_no_part(tmp_path: Path) -> None:
    from test_analysis_claims import TAINT

    assert comparisons(two(tmp_path, LAB, NEWER.with_(taints=(TAINT,)))) == ()


def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_takes_two_datasets(tmp_path: Path) -> None:
    two(tmp_path, LAB, NEWER, faster=1.1)
    ran = invoke("report", "--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out"))
    assert ran.returncode == 0, ran.stderr
    assert "no difference detected" in ran.stdout
    rows = rows_of(tmp_path / "out" / "tables" / "compare.csv")
    assert {row["pairing"] for row in rows} == {"matched runs"}
    assert {row["differs"] for row in rows} == {"llama.cpp commit"}
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Dataset against dataset" in html
    assert "Dataset 2: 2-core Synthetic CPU" in html
    assert "no difference detected" in html
    assert "Dataset against dataset" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_one_dataset_is_not_two() -> None:
    ran = invoke("report", "--compare", "a", "--out", "b")
    assert ran.returncode != 0
    assert "needed value" in ran.stderr


def test_the_help_tells_of_both() -> None:
    assert "--compare" in invoke("--help", "report").stdout


def test_compare_stands_by_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--compare"):
        cli.report(["x"], str(tmp_path), compare=("a", "b"))
