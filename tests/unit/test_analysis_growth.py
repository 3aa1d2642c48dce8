from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import records_factory as factory
from records_factory import OLMOE, Lab, Model

from harness.analysis.evidence import Evidence
from harness.analysis.growth import Growth, growths
from harness.analysis.tables import growth as growth_table

GB = 1_000_000_000
LAB = Lab(rounds=20, cohorts=2, noise=0.004, drift=0.1)


def member(total_gb: float, active_gb: float, *, ns_per_total_gb: float, ns_per_active_gb: float) -> Model:
    """A model whose token takes 5 ms and what its bytes cost."""
    return replace(
        OLMOE,
        size_bytes=round(total_gb * GB) + 700_000,  # the factory takes the header off
        active_bytes=round(active_gb * GB),
        token_ns=round(5_000_000 + ns_per_total_gb * total_gb + ns_per_active_gb * active_gb),
        variant=f"total={total_gb},active={active_gb}",
    )


def family(folder: Path, *sizes: tuple[float, float], per_total: float, per_active: float) -> tuple[Growth, ...]:
    models = [member(*size, ns_per_total_gb=per_total, ns_per_active_gb=per_active) for size in sizes]
    return growths(Evidence.of([factory.write(folder, list(factory.rounds(LAB, models)))]))


def test_both_slopes_are_found_where_both_vary(tmp_path: Path) -> None:
    sizes = ((0.8, 0.8), (2.4, 0.8), (4.2, 0.8), (2.4, 0.3), (4.2, 0.3))
    (found,) = family(tmp_path, *sizes, per_total=300_000, per_active=30_000_000)
    assert found.ns_per_total_gb is not None
    assert found.ns_per_active_gb is not None
    assert found.ns_per_total_gb.value == pytest.approx(300_000, abs=60_000)  # a token's noise is 100,000 ns here
    assert found.ns_per_active_gb.value == pytest.approx(30_000_000, rel=0.07)  # the session slows by a tenth
    assert found.ns_per_total_gb.low is not None
    assert found.ns_per_active_gb.excludes(0)
    assert found.rounds == 40


def test_total_bytes_that_cost_nothing_show_as_nothing(tmp_path: Path) -> None:
    (found,) = family(tmp_path, (0.8, 0.8), (4.2, 0.8), (8.1, 0.8), per_total=0, per_active=30_000_000)
    assert found.ns_per_active_gb is None
    assert found.ns_per_total_gb is not None
    assert not found.ns_per_total_gb.excludes(0)


def test_bytes_that_vary_together_cannot_be_told_apart(tmp_path: Path) -> None:
    assert family(tmp_path, (1, 0.5), (2, 1), (4, 2), per_total=1, per_active=1) == ()


def test_equal_models_are_no_family(tmp_path: Path) -> None:
    assert family(tmp_path, (1, 0.5), (1.01, 0.5), per_total=1, per_active=1) == ()


def test_table(tmp_path: Path) -> None:
    models = [member(total, 0.8, ns_per_total_gb=1e6, ns_per_active_gb=0) for total in (1.0, 2.0, 4.0)]
    evidence = Evidence.of([factory.write(tmp_path, list(factory.rounds(LAB, models)))])
    table = growth_table.table(evidence)
    (row,) = table.rows
    assert row.marks == ("synthetic", "proxy")
    told = dict(zip((column.key for column in table.columns), row.values, strict=True))
    assert told["total_ns_per_gb"] == pytest.approx(1e6, rel=0.2)
    assert "active_ns_per_gb" not in told  # it did not vary
