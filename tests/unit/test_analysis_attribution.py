"""Attribution, roofline and routing against data whose truth is known."""

from __future__ import annotations

import math
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
import records_factory as factory
from msgspec.structs import replace
from records_factory import LLAMA, OLMOE, Lab, Model

from harness.analysis.attribution import Attribution, attribution
from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.roofline import Hypothesis, bandwidth, contrast, gaps, roofline
from harness.analysis.routing import routing
from harness.analysis.stats import Interval
from harness.analysis.tables import tables
from harness.records import BandwidthSample, Measured, NodeTraffic, Record, RoutingTrace
from harness.terms import BurstKind, NodeCategory, RunKind

LAB = Lab(rounds=12, cohorts=2, noise=0.005)
PARTS = {
    NodeCategory.ATTENTION: 6_000_000,
    NodeCategory.ROUTER: 1_000_000,
    NodeCategory.EXPERT_UP: 20_000_000,
    NodeCategory.COMBINE: 3_000_000,
}  # 30 ms of OLMoE's 31


def profiled(lab: Lab = LAB, *, slowdown: float | None = 1.02, parts: dict[NodeCategory, int] = PARTS) -> Record:
    """A profile run with profiled bursts `slowdown` times as long as the unprofiled ones beside them."""
    record = factory.profiled(lab, OLMOE, parts)
    assert record.measured is not None
    assert record.measured.profile is not None
    traffic = {
        category: NodeTraffic(weight_bytes=ns * 10, kv_bytes=ns, activation_bytes=5) for category, ns in parts.items()
    }
    bursts = list(record.measured.bursts)
    if slowdown is not None:
        for burst in record.measured.bursts:
            token_ns = tuple(round(ns * slowdown) for ns in burst.token_ns)
            bursts.append(replace(burst, kind=BurstKind.PROFILE, token_ns=token_ns, engine_ns=sum(token_ns)))
    measured = replace(record.measured, bursts=tuple(bursts), profile=replace(record.measured.profile, traffic=traffic))
    return replace(record, measured=measured)


def evidence(folder: Path, *records: Record) -> Evidence:
    return Evidence.of([factory.write(folder, list(records))])


def attributed(folder: Path, record: Record) -> Attribution:
    found = attribution(next(evidence(folder, record).of_kind(RunKind.PROFILE)))
    assert found is not None
    return found


def test_shares_are_those_that_were_put_in_and_sum_to_one(tmp_path: Path) -> None:
    found = attributed(tmp_path, profiled())
    assert sum(share.share.value for share in found.shares) == pytest.approx(1, abs=1e-12)
    shares = {share.category: share.share for share in found.shares}
    for category, ns in PARTS.items():
        expected = ns / sum(PARTS.values())
        assert shares[category].value == pytest.approx(expected, rel=0.02)
        low, high = shares[category].low, shares[category].high
        assert low is not None
        assert high is not None
        assert low <= shares[category].value <= high
    assert found.routing_in_moe is not None
    assert found.routing_in_moe.value == pytest.approx(1 / 24, rel=0.02)
    assert found.node_ns == pytest.approx(sum(share.ns_per_token for share in found.shares))


def test_additivity_and_perturbation_come_from_the_pairs(tmp_path: Path) -> None:
    found = attributed(tmp_path, profiled(slowdown=1.04))
    assert found.additivity is not None
    assert found.perturbation is not None
    assert found.additivity.value == pytest.approx(30 / 31, rel=0.01)
    assert found.perturbation.value == pytest.approx(1.04, rel=0.001)
    assert not found.are_bounds


@pytest.mark.parametrize(
    ("slowdown", "scale"),
    [(1.2, 1.0), (1.02, 0.8), (None, 1.0)],  # profiling slows too much; nodes do not add up; nothing to tell by
)
def test_shares_become_bounds(slowdown: float | None, scale: float, tmp_path: Path) -> None:
    parts = {category: int(ns * scale) for category, ns in PARTS.items()}
    found = attributed(tmp_path, profiled(slowdown=slowdown, parts=parts))
    assert found.are_bounds
    router = next(share for share in found.shares if share.category is NodeCategory.ROUTER)
    gap = max(31 - 30 * scale, 31 * ((slowdown or 1) - 1)) / 31
    own = scale / 31
    assert router.low_bound == pytest.approx(max(0, own - gap), abs=0.005)
    assert router.high_bound == pytest.approx(own + gap, abs=0.005)


def read(lab: Lab, gb_per_s: float, threads: int = 2) -> Record:
    """A bandwidth run."""
    rng = np.random.default_rng(3)
    samples = tuple(
        BandwidthSample(
            round=number // 4,
            threads=threads,
            working_set_bytes=1 << 30,
            last_cache_bytes=1 << 25,
            read_bytes=1 << 30,
            duration_ns=round((1 << 30) / gb_per_s * rng.uniform(0.99, 1.01)),
        )
        for number in range(48)
    )
    measured = Measured(load_ns=0, warmup=None, bursts=(), memory=None, bandwidth=samples)
    return factory.record(lab, factory.spec(lab, LLAMA, RunKind.BANDWIDTH, 0, 900), measured)


def timed(found: Evidence, name: str) -> CellRuns:
    return next(runs for runs in found.timed if runs.cell.model.name == name)


def speeds(gb_per_s: float, folder: Path, *models: Model) -> Evidence:
    return evidence(folder, *factory.rounds(LAB, models), read(LAB, gb_per_s))


def test_active_bytes_are_favoured_where_all_bytes_cannot_be_read(tmp_path: Path) -> None:
    """OLMoE at 32 tokens/s: 0.8 GB active need 26 GB/s, 4.2 GB need 136 GB/s; the machine gives 30."""
    found = speeds(30, tmp_path, OLMOE, LLAMA)
    runs = timed(found, OLMOE.name)
    machine = bandwidth(found.of_kind(RunKind.BANDWIDTH), runs.cell)
    assert machine is not None
    assert machine.bytes_per_s.value == pytest.approx(30e9, rel=0.01)
    sparse = roofline(runs, machine)
    assert sparse is not None
    assert sparse.favoured is Hypothesis.ACTIVE
    assert sparse.refutes_total
    assert not sparse.exceeds_bound
    assert sparse.of_bound == pytest.approx(0.8 / 0.031 / 30, rel=0.02)
    dense = roofline(timed(found, LLAMA.name), machine)
    assert dense is not None
    assert dense.favoured is Hypothesis.SAME
    assert not dense.refutes_total


def test_total_bytes_are_favoured_where_a_token_takes_as_long_as_reading_them(tmp_path: Path) -> None:
    slow = replace_model(OLMOE, token_ns=150_000_000)
    found = speeds(30, tmp_path, slow, LLAMA)
    runs = timed(found, OLMOE.name)
    machine = bandwidth(found.of_kind(RunKind.BANDWIDTH), runs.cell)
    assert machine is not None
    sparse = roofline(runs, machine)
    assert sparse is not None
    assert sparse.favoured is Hypothesis.TOTAL
    assert not sparse.refutes_total


def test_faster_than_its_bytes_is_an_error(tmp_path: Path) -> None:
    found = speeds(20, tmp_path, OLMOE, LLAMA)
    runs = timed(found, OLMOE.name)
    machine = bandwidth(found.of_kind(RunKind.BANDWIDTH), runs.cell)
    assert machine is not None
    sparse = roofline(runs, machine)
    assert sparse is not None
    assert sparse.exceeds_bound
    rows = next(table for table in tables(found) if table.id == "roofline").rows
    assert any("bandwidth or the bytes are wrong" in str(value) for row in rows for value in row.values)


@pytest.mark.parametrize(
    ("ratio", "favoured"),
    [
        (Interval(value=0.97, low=0.96, high=0.98, n=50), Hypothesis.ACTIVE),
        (Interval(value=0.2, low=0.19, high=0.21, n=50), Hypothesis.TOTAL),
        (Interval(value=0.44, low=0.3, high=0.6, n=50), Hypothesis.UNDECIDED),
        (Interval(value=0.97, low=None, high=None, n=3), Hypothesis.UNDECIDED),
    ],
)
def test_a_ratio_of_two_models_needs_no_bandwidth(ratio: Interval, favoured: Hypothesis, tmp_path: Path) -> None:
    found = speeds(30, tmp_path, OLMOE, LLAMA)
    machine = bandwidth(found.of_kind(RunKind.BANDWIDTH), timed(found, OLMOE.name).cell)
    assert machine is not None
    sparse, dense = (roofline(timed(found, model.name), machine) for model in (OLMOE, LLAMA))
    assert sparse is not None
    assert dense is not None
    verdict = contrast(sparse, dense, ratio)
    assert verdict.active_ratio == pytest.approx(799 / 800, rel=1e-3)
    assert verdict.total_ratio == pytest.approx(799 / 4211, rel=1e-2)
    assert verdict.favoured is favoured


def test_gaps_are_time_beyond_the_bytes(tmp_path: Path) -> None:
    found = evidence(tmp_path, profiled(), read(LAB, 22))
    divided = attribution(next(found.of_kind(RunKind.PROFILE)))
    assert divided is not None
    machine = bandwidth(found.of_kind(RunKind.BANDWIDTH), divided.cell)
    assert machine is not None
    left = {gap.category: gap for gap in gaps(divided, machine)}
    for category, ns in PARTS.items():  # 11 bytes a nanosecond at 22 bytes a nanosecond: half of the time
        assert left[category].bound_ns == pytest.approx(ns / 2, rel=0.02)
        assert left[category].gap_ns == pytest.approx(ns / 2, rel=0.06)
    assert sum(gap.share_of_gap or 0 for gap in left.values()) == pytest.approx(1)


def test_tables_of_attribution_and_roofline_have_rows(tmp_path: Path) -> None:
    found = evidence(tmp_path, *factory.rounds(LAB, (OLMOE, LLAMA)), profiled(), read(LAB, 30))
    made = {table.id: table for table in tables(found)}
    assert len(made["attribution"].rows) == len(PARTS)
    assert len(made["roofline"].rows) == 2


def replace_model(model: Model, **changes: object) -> Model:
    from dataclasses import replace as dataclass_replace

    return dataclass_replace(model, **changes)  # type: ignore[arg-type]  # fields by name


def trace(rows: list[list[list[int]]], *, experts: int, steps: tuple[int, ...] = (), width: int = 1) -> RoutingTrace:
    return RoutingTrace(
        expert_count=experts,
        expert_used_count=len(rows[0][0]),
        layer_numbers=tuple(range(len(rows[0]))),
        batch_width=width,
        burst_steps=steps or (len(rows),),
        selected=tuple(tuple(tuple(ids) for ids in row) for row in rows),
    )


def test_a_router_that_never_changes() -> None:
    found = routing([trace([[[0, 3]]] * 40, experts=8)])
    assert found is not None
    assert found.entropy_bits == (1.0,)
    assert found.coverage == (0.25,)
    assert found.overlap is not None
    assert found.overlap.value == 1
    assert [unique.experts for unique in found.unique] == [2.0] * 6
    assert {hits.hit_rate for hits in found.cache} == {1.0}
    assert found.selections == ((40, 0, 0, 40, 0, 0, 0, 0),)


def test_a_router_at_random_does_what_is_said_beside_it() -> None:
    draw = random.Random(5)
    rows = [[draw.sample(range(64), 8) for _ in range(4)] for _ in range(600)]
    found = routing([trace(rows, experts=64, steps=(300, 300))])
    assert found is not None
    assert found.entropy_fraction == pytest.approx(1, abs=0.01)
    assert found.overlap is not None
    assert found.overlap.value == pytest.approx(found.overlap_at_random, abs=0.01)
    for unique in found.unique:
        assert unique.experts == pytest.approx(unique.at_random, rel=0.02)
    for hits in found.cache:
        # a token's own eight never hit one another, so that a small cache does a little worse than its share
        assert hits.hit_rate == pytest.approx(hits.at_random, abs=0.06)


def test_adjacent_means_adjacent_in_one_sequence_of_one_burst() -> None:
    """Two sequences that each stay with their experts, in two bursts that swap them."""
    rows = [[[0]], [[1]], [[0]], [[1]], [[1]], [[0]], [[1]], [[0]]]
    found = routing([trace(rows, experts=4, steps=(2, 2), width=2)])
    assert found is not None
    assert found.overlap is not None
    assert found.overlap.value == 1
    assert found.unique_per_step == 2
    assert [unique.window_tokens for unique in found.unique] == [1, 2]


def test_a_small_cache_by_hand() -> None:
    """Experts 0 1 2 0 1 2 ... through a cache of two never hit; one of three always does."""
    rows = [[[number % 3]] for number in range(30)]
    found = routing([trace(rows, experts=4)])
    assert found is not None
    assert {hits.experts_held: hits.hit_rate for hits in found.cache} == {1: 0.0, 2: 0.0, 3: 1.0}


def test_nothing_traced_is_nothing_known() -> None:
    assert routing([]) is None
    assert routing([msgspec.structs.replace(trace([[[0]]], experts=2), selected=(), burst_steps=())]) is None


def test_even_entropy_is_the_logarithm_of_the_number() -> None:
    found = routing([trace([[[number % 16]] for number in range(64)], experts=16)])
    assert found is not None
    assert found.entropy_bits[0] == pytest.approx(math.log2(16))
