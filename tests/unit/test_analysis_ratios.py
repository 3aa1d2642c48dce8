"""Ratios from pairs: what drift, order and pairing do to them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import records_factory as factory
from lab_hosts import JETSON_HOST
from records_factory import GEMMA, LLAMA, OLMOE, Lab, Model

from harness.analysis.evidence import Evidence
from harness.analysis.ratios import Finding, Pairing, Ratio
from harness.records import Record
from harness.terms import BurstKind

TRUE_RATIO = LLAMA.token_ns / OLMOE.token_ns
PAIR = (OLMOE, LLAMA)


def ratio_of(folder: Path, records: list[Record], quantity: BurstKind = BurstKind.DECODE) -> Ratio:
    """The only ratio of a quantity."""
    evidence = Evidence.of([factory.write(folder, records)])
    (ratio,) = [ratio for ratio in evidence.ratios if ratio.quantity is quantity]
    return ratio


def test_thirty_percent_drift_biases_rounds_by_under_half_a_percent(tmp_path: Path) -> None:
    lab = Lab(drift=0.3, noise=0.002, rounds=60, cohorts=2)
    ratio = ratio_of(tmp_path, list(factory.rounds(lab, PAIR)))
    assert ratio.pairing is Pairing.ROUNDS
    assert ratio.interval.value == pytest.approx(TRUE_RATIO, rel=0.005)


def test_thirty_percent_drift_biases_blocks_by_under_two_percent(tmp_path: Path) -> None:
    lab = Lab(drift=0.3, noise=0.002)
    ratio = ratio_of(tmp_path, list(factory.solos(lab, PAIR, blocks=12)))
    assert ratio.pairing is Pairing.BLOCKS
    assert ratio.interval.value == pytest.approx(TRUE_RATIO, rel=0.02)
    assert ratio.interval.n == 12


def test_a_fixed_order_under_drift_would_have_been_biased_more(tmp_path: Path) -> None:
    """The two tests above can fail: halves of a session compared with one another are 15 % off."""
    lab = Lab(drift=0.3, noise=0.002, rounds=40, cohorts=2)
    first = [r for r in factory.rounds(lab, PAIR) if r.spec.schedule.block == 0 and r.spec.model.name == OLMOE.name]
    second = [r for r in factory.rounds(lab, PAIR) if r.spec.schedule.block == 1 and r.spec.model.name == LLAMA.name]
    evidence = Evidence.of([factory.write(tmp_path, first + second)])
    olmoe, llama = (runs.decode for runs in evidence.timed)
    assert olmoe is not None
    assert llama is not None
    assert olmoe.tokens_per_s.value / llama.tokens_per_s.value > TRUE_RATIO * 1.1


def test_the_interval_holds_the_true_ratio_and_says_slower(tmp_path: Path) -> None:
    ratio = ratio_of(tmp_path, list(factory.rounds(Lab(rounds=40, cohorts=4), PAIR)))
    assert ratio.interval.low is not None
    assert ratio.interval.high is not None
    assert ratio.interval.low < TRUE_RATIO < ratio.interval.high
    assert ratio.finding is Finding.SLOWER
    assert ratio.interval.n == 160
    assert ratio.interval.cohorts == 4
    assert len(ratio.run_ids) == 8


def test_equal_speeds_are_no_difference_detected(tmp_path: Path) -> None:
    same = Model("olmoe-1b-7b", "olmoe", 4, 4, 1, LLAMA.token_ns, 1, 64, 8)
    ratio = ratio_of(tmp_path, list(factory.rounds(Lab(rounds=40), (same, LLAMA))))
    assert ratio.finding is Finding.NO_DIFFERENCE
    assert 0 < (ratio.detectable or 0) < 0.05


def test_two_rounds_are_too_few(tmp_path: Path) -> None:
    assert ratio_of(tmp_path, list(factory.rounds(Lab(rounds=2, cohorts=1), PAIR))).finding is Finding.TOO_FEW


def test_bursts_of_different_cohorts_are_no_pairs(tmp_path: Path) -> None:
    records = list(factory.rounds(Lab(), PAIR))
    kept = [r for r in records if (r.spec.schedule.block == 0) == (r.spec.model.name == OLMOE.name)]
    evidence = Evidence.of([factory.write(tmp_path, kept)])
    assert evidence.ratios == ()


def test_prefill_has_a_ratio_of_its_own(tmp_path: Path) -> None:
    ratio = ratio_of(tmp_path, list(factory.rounds(Lab(), PAIR)), BurstKind.PREFILL)
    assert ratio.interval.value == pytest.approx(TRUE_RATIO, rel=0.03)


def test_settled_tokens_are_not_counted(tmp_path: Path) -> None:
    """The factory makes the first three tokens of a burst half as slow again."""
    evidence = Evidence.of([factory.write(tmp_path, list(factory.rounds(Lab(noise=0.001), PAIR)))])
    speeds = {runs.cell.model.name: runs.decode for runs in evidence.timed}
    llama = speeds[LLAMA.name]
    assert llama is not None
    assert llama.tokens_per_s.value == pytest.approx(1e9 / LLAMA.token_ns, rel=0.005)


def test_groups_and_setups_are_never_left(tmp_path: Path) -> None:
    one = list(factory.rounds(Lab(experiment="one"), (OLMOE,)))
    other = list(factory.rounds(Lab(experiment="other"), (LLAMA, GEMMA)))
    assert Evidence.of([factory.write(tmp_path, one + other)]).ratios == ()


@pytest.mark.parametrize(
    "other",
    [
        Lab(llama_cpp_commit="f" * 40),
        Lab(power_mode="15W"),
        Lab(host=JETSON_HOST),
    ],
)
def test_runs_pool_only_where_provenance_agrees(tmp_path: Path, other: Lab) -> None:
    records = [*factory.rounds(Lab(), PAIR), *factory.rounds(other, PAIR)]
    evidence = Evidence.of([factory.write(tmp_path, records)])
    assert len(evidence.setups) == 2
    assert len(evidence.timed) == 4
    assert all(len(runs.numbers) == 2 for runs in evidence.timed)


def test_the_order_effect_is_fitted(tmp_path: Path) -> None:
    ratio = ratio_of(tmp_path, list(factory.rounds(Lab(rounds=60), PAIR)))
    assert ratio.order_effect is not None
    assert not ratio.order_effect.excludes(0.0)


def test_prompts_of_a_text_experiment_pool(tmp_path: Path) -> None:
    records = []
    for order, prompt in enumerate(("p1", "p2")):
        for record in factory.rounds(Lab(rounds=6, cohorts=1, seed=order + 1), PAIR):
            spec = record.spec
            changed = msgspec.structs.replace(
                spec,
                run_id=spec.run_id[:10] + prompt,
                workload=msgspec.structs.replace(spec.workload, prompt_id=prompt),
                schedule=msgspec.structs.replace(spec.schedule, group=f"headline/{prompt}", order=order, seed=1),
            )
            records.append(msgspec.structs.replace(record, spec=changed))
    ratio = ratio_of(tmp_path, records)
    assert ratio.interval.n == 12
    assert ratio.interval.cohorts == 2
