"""The reversed-order control: how it is planned, and that it tells an order effect from none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import records_factory as factory
from records_factory import LLAMA, OLMOE, Lab
from studies import experiment, plan_of, suite
from test_analysis_tables import column

from harness import cli
from harness.analysis.evidence import Evidence
from harness.analysis.order_control import effect_of_order
from harness.analysis.tables import order_control
from harness.analysis.tables.base import Table
from harness.errors import UsageError
from harness.records import Measured, Record
from harness.study import config
from harness.study.config import Order
from harness.terms import RunKind

LAB = Lab(experiment="order-control", decode_tokens=12, noise=0.01)


def test_the_processes_follow_one_another_as_listed_and_reversed_in_every_other_block() -> None:
    control = experiment("control", RunKind.SOLO, blocks=4, order=Order.ALTERNATING)
    others = (experiment(f"e{number}", blocks=4) for number in range(6))
    planned = plan_of(suite(*others, control)).cohorts
    mine = [(c.block, c.cells[0].key.name) for c in planned if c.experiment.name == "control"]
    orders = [[name for _, name in members] for _, members in groupby(mine, key=lambda one: one[0])]
    assert orders == [["olmoe-1b-7b", "llama-3.2-1b"], ["llama-3.2-1b", "olmoe-1b-7b"]] * 2
    places = [c.order for c in planned if c.experiment.name == "control"]
    assert [second - first for first, second in zip(places[::2], places[1::2], strict=True)] == [1] * 4


def test_only_solo_runs_have_an_order(tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "suites"
    folder.mkdir(parents=True)
    text = (cli.ROOT / "configs" / "suites" / "paper.toml").read_text(encoding="utf-8")
    (folder / "paper.toml").write_text(text.replace('order = "alternating"', "").replace(
        'kind = "profile"', 'kind = "profile"\norder = "alternating"'), encoding="utf-8")  # fmt: skip
    with pytest.raises(UsageError, match="profile: only solo runs have an order"):
        config.load_suite(tmp_path, "paper")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"gemma-2-2b"] # in', '"gemma-3"] # in', "headline: rotating names 'gemma-3'"),
        ('kind = "solo"', 'kind = "solo"\nrotating = ["qwen2.5-1.5b"]', "only in rounds can models be rotating"),
    ],
)
def test_rotating_models_are_checked(tmp_path: Path, old: str, new: str, fault: str) -> None:
    folder = tmp_path / "configs" / "suites"
    folder.mkdir(parents=True)
    text = (cli.ROOT / "configs" / "suites" / "quick.toml").read_text(encoding="utf-8")
    assert old in text
    (folder / "quick.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError, match=fault):
        config.load_suite(tmp_path, "quick")


def alternated(lab: Lab, slower_second: float, blocks: int = 12) -> Iterator[Record]:
    """Both models alone, reversed in every other block; whoever runs second is slower."""
    rng = np.random.default_rng(lab.seed)
    for block in range(blocks):
        models = (OLMOE, LLAMA) if block % 2 == 0 else (LLAMA, OLMOE)
        for position, model in enumerate(models):
            here = replace(model, token_ns=round(model.token_ns * (1 + slower_second * position)))
            bursts = tuple(factory.decode_burst(lab, here, rng, number, 0, block / blocks) for number in range(4))
            measured = Measured(load_ns=1, warmup=None, bursts=bursts, memory=None)
            yield factory.record(lab, factory.spec(lab, model, RunKind.SOLO, block, 2 * block + position), measured)


def table(folder: Path, records: list[Record]) -> Table:
    return order_control.table(Evidence.of([factory.write(folder, records)]))


def only(found: Table, key: str) -> Any:
    (value,) = column(found, key)
    return value


def test_an_order_effect_is_found_and_sized(tmp_path: Path) -> None:
    found = table(tmp_path, list(alternated(LAB, 0.05)))
    true = LLAMA.token_ns / OLMOE.token_ns
    assert only(found, "first_ratio") == pytest.approx(true * 1.05, rel=0.01)
    assert only(found, "second_ratio") == pytest.approx(true / 1.05, rel=0.01)
    assert only(found, "effect_low") < 1.05**2 < only(found, "effect_high")
    assert only(found, "finding") == "order matters"
    assert only(found, "first_blocks") == only(found, "second_blocks") == 6


def test_no_effect_is_said_as_such_beside_the_rounds(tmp_path: Path) -> None:
    records = [*alternated(LAB, 0.0), *factory.rounds(LAB.with_(experiment="headline"), (OLMOE, LLAMA))]
    found = table(tmp_path, records)
    assert only(found, "finding") == "no order effect detected"
    assert only(found, "effect_low") < 1 < only(found, "effect_high")
    assert only(found, "rounds_ratio") == pytest.approx(LLAMA.token_ns / OLMOE.token_ns, rel=0.02)


def test_an_effect_is_claimed_by_chance_as_rarely_as_the_interval_says() -> None:
    """Six hundred controls without an effect: 95 % intervals miss 1 in about thirty."""
    rng = np.random.default_rng(5)
    drawn = [np.exp(rng.normal(0, 0.02, (2, 6))) for _ in range(600)]
    missed = sum(effect_of_order(one, other).excludes(1.0) for one, other in drawn)
    assert 12 <= missed <= 50


def test_one_order_alone_is_no_control(tmp_path: Path) -> None:
    records = [r for r in alternated(LAB, 0.0) if r.spec.schedule.block % 2 == 0]
    found = table(tmp_path, records)
    assert found.rows == ()
    assert "both orders" in found.absent
