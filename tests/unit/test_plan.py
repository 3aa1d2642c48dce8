"""The plan: pure, seeded, every run named once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from studies import CPU, FOUR, ROOMY, experiment, plan_of, refs_of, specs_of, suite

from harness.records import ModelRef
from harness.study import plan as planning
from harness.study.config import Device, Suite, Variation, load_suite
from harness.study.plan import Cohort, Machine, ModelKey
from harness.terms import BurstKind, EngineKind, EnvironmentKind, KvType, RunKind, TokenSource, Weights

GB = 1_000_000_000
ROOT = Path(__file__).parents[2]


def build(chosen: Suite, memory_bytes: int = 64 * GB, device: Device = CPU, size_bytes: int = GB) -> planning.Plan:
    machine = Machine(threads=2, memory_available_bytes=memory_bytes)
    return planning.build("small", chosen, device, Weights.PROXY, machine, lambda _key: size_bytes)


def names(cohort: Cohort) -> list[str]:
    return [cell.key.name for cell in cohort.cells]


def test_the_same_seed_gives_the_same_plan_and_another_seed_another_order() -> None:
    chosen = suite(*(experiment(f"e{number}") for number in range(8)))
    assert plan_of(chosen, seed=1) == plan_of(chosen, seed=1)
    order = [cohort.experiment.name for cohort in plan_of(chosen, seed=1).cohorts]
    assert order != [cohort.experiment.name for cohort in plan_of(chosen, seed=2).cohorts]
    assert sorted(order) == sorted(f"e{number}" for number in range(8))


def test_blocks_follow_one_another_and_each_is_shuffled_by_itself() -> None:
    plan = plan_of(suite(*(experiment(f"e{number}", blocks=3) for number in range(8))))
    assert [cohort.block for cohort in plan.cohorts] == [0] * 8 + [1] * 8 + [2] * 8
    assert [cohort.order for cohort in plan.cohorts] == list(range(24))
    orders = {tuple(c.experiment.name for c in plan.cohorts if c.block == block) for block in range(3)}
    assert len(orders) > 1


def test_every_run_has_an_id_of_its_own_and_keeps_it() -> None:
    ids = [spec.run_id for spec in specs_of(plan_of())]
    assert len(ids) == len(set(ids)) == 6
    assert ids == [spec.run_id for spec in specs_of(plan_of())]
    assert all(len(run_id) == 16 for run_id in ids)


def test_an_id_does_not_depend_on_the_experiments_beside_it() -> None:
    alone = {spec.run_id for spec in specs_of(plan_of(suite(experiment())))}
    among = {spec.run_id for spec in specs_of(plan_of(suite(experiment("other"), experiment(), experiment("more"))))}
    assert alone < among


@pytest.mark.parametrize(
    "changes",
    [{"decode_tokens": 5}, {"depth_tokens": 9}, {"rounds": 4}, {"settle_tokens": 1}, {"file_types": ("Q8_0",)}],
    ids=lambda changes: next(iter(changes)),
)
def test_an_id_changes_with_all_that_changes_the_result(changes: dict[str, Any]) -> None:
    before = {spec.run_id for spec in specs_of(plan_of(suite(experiment())))}
    after = {spec.run_id for spec in specs_of(plan_of(suite(experiment(**changes))))}
    assert not before & after


def test_an_id_changes_with_the_bytes_of_the_model_the_build_and_the_environment() -> None:
    plan = plan_of(suite(experiment(models=FOUR[:1])))
    refs = refs_of(plan)
    others = {key: msgspec.structs.replace(ref, sha256="0" * 64) for key, ref in refs.items()}
    native, container = EnvironmentKind.NATIVE, EnvironmentKind.CONTAINER

    def run_id(refs: dict[ModelKey, ModelRef], build_id: str, where: EnvironmentKind) -> str:
        return planning.bind(plan, plan.cohorts[0], refs, build_id, where)[0].run_id

    ids = [run_id(refs, "b1", native), run_id(others, "b1", native), run_id(refs, "b2", native)]
    assert len({*ids, run_id(refs, "b1", container)}) == 4


def test_only_the_fake_build_makes_fake_runs() -> None:
    plan = plan_of(suite(experiment(models=FOUR[:1])))
    refs = refs_of(plan)
    for build_id, engine in (("fake", EngineKind.FAKE), ("llama-cpp-python 0.3.36", EngineKind.LLAMA_CPP)):
        assert planning.bind(plan, plan.cohorts[0], refs, build_id, EnvironmentKind.NATIVE)[0].engine is engine


def test_models_that_fit_into_memory_together_take_turns() -> None:
    chosen = suite(experiment(models=FOUR, blocks=2), tiny=False)
    assert [len(cohort.cells) for cohort in build(chosen, memory_bytes=12 * GB).cohorts] == [4, 4]


def test_models_that_do_not_fit_run_one_after_another_in_random_order() -> None:
    chosen = suite(experiment(models=FOUR, blocks=8), tiny=False)
    plan = build(chosen, memory_bytes=4 * GB)
    assert [len(cohort.cells) for cohort in plan.cohorts] == [1] * 32
    passes = [tuple(names(cohort)[0] for cohort in plan.cohorts if cohort.block == block) for block in range(8)]
    assert all(sorted(one) == sorted(FOUR) for one in passes)
    assert len(set(passes)) > 1
    assert {spec.schedule.group for spec in specs_of(plan)} == {"headline"}


def test_a_group_fits_to_the_byte() -> None:
    chosen = suite(experiment(models=FOUR[:2]), tiny=False)
    needed = 2 * (planning.RESIDENT_FACTOR * GB + planning.RESIDENT_EXTRA_BYTES) / planning.COHORT_MEMORY_SHARE
    assert len(build(chosen, memory_bytes=int(needed) + 1).cohorts) == 1
    assert len(build(chosen, memory_bytes=int(needed) - 1).cohorts) == 2


def company(cohort: Cohort) -> tuple[tuple[str, str], ...]:
    """Who is alive together: model and what is varied."""
    return tuple((cell.key.name, cell.settings.variant or cell.key.file_type) for cell in cohort.cells)


MOE, DENSE = FOUR[:2]
DEPTHS = experiment(models=(MOE, DENSE), vary=Variation(depth_tokens=(0, 512, 4096)))
ALL = {"0": "depth_tokens=0", "512": "depth_tokens=512", "4096": "depth_tokens=4096"}


@pytest.mark.parametrize(
    ("memory_gb", "values"),
    [
        (64, [("0", "512"), ("0", "4096")]),  # each value meets the first, with which it is compared
        (8, [("0", "512"), ("0", "4096")]),
        (4, [("0",), ("512",), ("4096",)]),  # MoE and dense still meet at every value
    ],
)
def test_where_memory_is_short_the_pairs_that_matter_stay_together(
    memory_gb: int, values: list[tuple[str, ...]]
) -> None:
    plan = build(suite(msgspec.structs.replace(DEPTHS, blocks=2), tiny=False), memory_bytes=memory_gb * GB)
    wanted = Counter(frozenset((model, ALL[v]) for v in one for model in (MOE, DENSE)) for one in values)
    for block in range(2):
        found = [cohort for cohort in plan.cohorts if cohort.block == block]
        assert Counter(frozenset(company(cohort)) for cohort in found) == wanted
    ids = [spec.run_id for spec in specs_of(plan)]
    assert len(set(ids)) == len(ids)


def test_where_memory_holds_one_model_each_runs_by_itself() -> None:
    plan = build(suite(DEPTHS, tiny=False), memory_bytes=2 * GB)
    assert sorted(map(company, plan.cohorts)) == sorted([((m, v),) for m in (MOE, DENSE) for v in ALL.values()])


def test_a_value_too_large_for_company_goes_alone_and_the_others_stay_together() -> None:
    """Quantizations: files of different sizes."""
    chosen = suite(experiment(models=(MOE, DENSE), file_types=("Q4_K_M", "Q4_0", "Q8_0")), tiny=False)
    machine = Machine(threads=2, memory_available_bytes=12 * GB)
    sizes = {"Q4_K_M": 1, "Q4_0": 1, "Q8_0": 5}
    plan = planning.build("s", chosen, CPU, Weights.PROXY, machine, lambda key: sizes[key.file_type] * GB)
    assert {frozenset(company(cohort)) for cohort in plan.cohorts} == {
        frozenset((model, kind) for model in (MOE, DENSE) for kind in ("Q4_K_M", "Q4_0")),
        frozenset([(MOE, "Q8_0")]),
        frozenset([(DENSE, "Q8_0")]),
    }


@pytest.mark.parametrize(
    ("kind", "alive"),
    [
        (RunKind.ROUNDS, [2]),
        (RunKind.PROFILE, [2]),
        (RunKind.SOLO, [1, 1]),
        (RunKind.ROUTING, [1, 1]),
        (RunKind.BANDWIDTH, [1, 1]),
    ],
)
def test_what_is_compared_in_time_is_alive_together(kind: RunKind, alive: list[int]) -> None:
    assert [len(cohort.cells) for cohort in build(suite(experiment(kind=kind))).cohorts] == alive


def test_every_combination_of_what_is_varied_becomes_a_cell() -> None:
    vary = Variation(depth_tokens=(128, 2048), kv_type=(KvType.F16, KvType.Q8_0))
    cells = {cell for cohort in plan_of(suite(experiment(models=FOUR[:2], vary=vary))).cohorts for cell in cohort.cells}
    found = Counter((cell.key.name, cell.workload.depth_tokens, cell.workload.kv_type) for cell in cells)
    assert found == {(model, d, t): 1 for model in FOUR[:2] for d in (128, 2048) for t in (KvType.F16, KvType.Q8_0)}
    assert {cell.settings.variant for cell in cells} == {
        f"depth_tokens={d} kv_type={t}" for d in (128, 2048) for t in ("f16", "q8_0")
    }


def test_the_context_has_room_for_the_depth_and_a_burst_in_steps_of_256() -> None:
    vary = Variation(depth_tokens=(1, 300, 2048))
    cohorts = plan_of(suite(experiment(models=FOUR[:1], decode_tokens=0, vary=vary))).cohorts
    assert {cell.settings.context_tokens for cohort in cohorts for cell in cohort.cells} == {512, 768, 2304}


def test_text_is_compared_prompt_by_prompt() -> None:
    plan = plan_of(suite(experiment(prompts=("p1", "p2"))))
    assert sorted((cohort.cells[0].prompt_id, len(cohort.cells)) for cohort in plan.cohorts) == [("p1", 2), ("p2", 2)]
    assert {cell.workload.source for cohort in plan.cohorts for cell in cohort.cells} == {TokenSource.TEXT}
    assert {spec.schedule.group for spec in specs_of(plan)} == {"headline/p1", "headline/p2"}


def test_released_weights_stand_beside_a_clone_of_themselves() -> None:
    keys = plan_of(suite(experiment(models=FOUR[:1], both_weights=True), tiny=False)).model_keys()
    assert {(key.weights, key.variant) for key in keys} == {(Weights.RELEASED, ""), (Weights.PROXY, "clone")}


def test_a_tiny_suite_shrinks_every_proxy() -> None:
    keys = plan_of(suite(experiment(models=("olmoe-1b-7b[experts=16,used=4]", "llama-3.2-1b")))).model_keys()
    assert {key.variant for key in keys} == {"tiny,experts=16,used=4", "tiny"}


def test_a_device_without_a_thread_count_takes_the_machines() -> None:
    def threads(device: Device) -> set[int]:
        return {cell.settings.threads for cohort in build(suite(), device=device).cohorts for cell in cohort.cells}

    assert threads(CPU) == {ROOMY.threads}
    assert threads(msgspec.structs.replace(CPU, threads=1)) == {1}
    assert threads(msgspec.structs.replace(CPU, threads=ROOMY.threads + 5)) == {ROOMY.threads}


def test_each_round_has_a_seeded_order_of_its_own() -> None:
    cohort = plan_of(suite(experiment(models=FOUR))).cohorts[0]
    orders = [tuple(planning.round_order(cohort, number)) for number in range(60)]
    assert orders == [tuple(planning.round_order(cohort, number)) for number in range(60)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    firsts = Counter(order[0] for order in orders)
    assert min(firsts.values()) >= 5  # 15 expected each; fewer than 5 has a chance below 0.1 %


def test_rotating_models_share_a_place_but_all_of_them_prefill() -> None:
    shared = experiment(models=FOUR, rotating=FOUR[2:], prefill_every=10, rounds=20)
    cohort = plan_of(suite(shared)).cohorts[0]
    assert sorted(planning.round_order(cohort, -1)) == [0, 1, 2, 3]
    present = [{cohort.cells[place].key.name for place in planning.round_order(cohort, number)} for number in range(20)]
    assert all(set(FOUR[:2]) <= names for names in present)
    assert [len(names) for names in present] == ([4] + [3] * 9) * 2
    counts = Counter(name for names in present for name in names)
    assert counts == {FOUR[0]: 20, FOUR[1]: 20, FOUR[2]: 10, FOUR[3]: 12}


def test_turns_of_a_round() -> None:
    def turns(round_number: int, kind: RunKind = RunKind.ROUNDS, every: int = 2) -> list[BurstKind]:
        cohort = plan_of(suite(experiment(kind=kind, prefill_every=every))).cohorts[0]
        return list(planning.turns(cohort, round_number))

    both = [BurstKind.PREFILL, BurstKind.DECODE]
    assert [turns(number) for number in range(3)] == [both, [BurstKind.DECODE], both]
    assert turns(0, every=0) == [BurstKind.DECODE]
    profiled = [tuple(turns(number, RunKind.PROFILE)) for number in range(20)]
    assert set(profiled) == {(BurstKind.DECODE, BurstKind.PROFILE), (BurstKind.PROFILE, BurstKind.DECODE)}
    assert turns(0, RunKind.ROUTING) == [BurstKind.DECODE]


def test_what_two_suites_share_is_the_same_experiment() -> None:
    """`context` is a part of `full`: records of both can be read together."""
    whole = {experiment.name: experiment for experiment in load_suite(ROOT, "full").experiments}
    assert all(experiment == whole[experiment.name] for experiment in load_suite(ROOT, "context").experiments)
