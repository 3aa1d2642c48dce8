"""A wider router against its share: the check must pass when the profiler is right, and show it when it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import records_factory as factory
from records_factory import OLMOE, Lab, Model

from harness.analysis.evidence import Evidence
from harness.analysis.router_width import RouterWidth, router_widths
from harness.analysis.tables import router_width as router_width_table
from harness.terms import NodeCategory

LAB = Lab(rounds=30, cohorts=2, noise=0.004)
NARROW = replace(OLMOE, variant="expert-ffn=128", token_ns=10_000_000)
PARTS = {NodeCategory.ATTENTION: 5_000_000, NodeCategory.ROUTER: 500_000, NodeCategory.EXPERT_UP: 4_500_000}
GROWN = {NodeCategory.ATTENTION: 5_000_000, NodeCategory.ROUTER: 3_000_000, NodeCategory.EXPERT_UP: 5_500_000}


def wide(token_ns: int, experts: int = 512) -> Model:
    """Only the number of experts differs, and what a token takes."""
    return replace(NARROW, variant=f"expert-ffn=128,experts={experts}", experts=experts, token_ns=token_ns)


def evidence(folder: Path, other: Model, *, profiled: bool = True) -> Evidence:
    records = list(factory.rounds(LAB, [NARROW, other]))
    if profiled:
        records.append(factory.profiled(LAB, NARROW, PARTS))
        records.append(factory.profiled(LAB, other, GROWN))
    return Evidence.of([factory.write(folder, records)])


def only(found: Evidence) -> RouterWidth:
    (one,) = router_widths(found)
    return one


def test_a_true_share_predicts_what_the_clock_says(tmp_path: Path) -> None:
    found = only(evidence(tmp_path, wide(13_500_000)))  # 5 % of a token, seven times more
    assert found.growth == 8
    assert found.predicted == pytest.approx(1.35, rel=0.01)
    assert found.router_alone == pytest.approx(0.95 / (1 - 3 / 13.5), rel=0.01)  # the experts' own growth is left out
    assert found.measured.value == pytest.approx(1.35, rel=0.01)
    assert found.agreement == pytest.approx(1, abs=0.03)


def test_a_share_that_is_too_small_shows(tmp_path: Path) -> None:
    assert only(evidence(tmp_path, wide(17_000_000))).agreement == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    "other",
    [
        wide(13_500_000, experts=128),  # only twice as wide
        replace(wide(13_500_000), variant="expert-ffn=64,experts=512"),
        replace(wide(13_500_000), used=64),
    ],
)
def test_other_differences_are_no_check(tmp_path: Path, other: Model) -> None:
    assert list(router_widths(evidence(tmp_path, other))) == []


def test_without_a_profile_there_is_nothing_to_check(tmp_path: Path) -> None:
    found = evidence(tmp_path, wide(13_500_000), profiled=False)
    assert list(router_widths(found)) == []
    assert "profiled" in router_width_table.table(found).absent


def test_table(tmp_path: Path) -> None:
    table = router_width_table.table(evidence(tmp_path, wide(13_500_000)))
    (row,) = table.rows
    told = dict(zip((column.key for column in table.columns), row.values, strict=True))
    assert told["growth"] == 8
    assert told["agreement"] == pytest.approx(1, abs=0.03)
