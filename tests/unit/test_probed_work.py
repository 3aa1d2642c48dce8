from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import EnvironmentLacking, UsageError
from harness.llamacpp.nodes import Node
from harness.llamacpp.stretches import Cut, ProbeError, Steps, cut, read_graph
from harness.measure.bandwidth import BandwidthWork, last_cache_bytes, working_set_bytes
from harness.measure.probed import ProbedLoader
from harness.measure.profile_sums import ProfileSums
from harness.measure.profiler import ProfileWork
from harness.measure.routing import RoutingWork
from harness.measure.work import Work
from harness.measure.worker import _work
from harness.protocol import Task, Turn
from harness.records import Burst, Measured, ModelRef, RunSpec, Schedule, Settings, Workload
from harness.terms import (
    BurstKind,
    DeviceKind,
    EngineKind,
    EnvironmentKind,
    NodeCategory,
    ProfileMode,
    RunKind,
    Weights,
)


def task(kind: RunKind, *, experts: int = 8, mode: ProfileMode = ProfileMode.NODE, width: int = 1) -> Task:
    model = ModelRef(
        name="toy", architecture="olmoe", file="toy.gguf", sha256="ab", size_bytes=1000, weights=Weights.PROXY,
        file_type="Q4_K_M", parameters_total=1000, parameters_active=500, expert_count=experts,
        expert_used_count=2 if experts else 0, weight_bytes_total=1000, weight_bytes_active=100_000_000,
    )  # fmt: skip
    spec = RunSpec(
        run_id="r", schema=1, suite="smoke", experiment="profile", kind=kind, device=DeviceKind.CPU,
        environment=EnvironmentKind.NATIVE, engine=EngineKind.FAKE, model=model,
        workload=Workload(
            prompt_tokens=8, decode_tokens=0, decode_seconds=0.002, depth_tokens=8, profile_mode=mode,
            batch_width=width, settle_tokens=2,
        ),
        settings=Settings(threads=2, context_tokens=128),
        schedule=Schedule(group="g", cohort="c", block=0, order=0, rounds=2, seed=1),
    )  # fmt: skip
    return Task(spec=spec, model_path="nowhere.gguf")


def take_turns(work: Work, *kinds: BurstKind, rounds: int = 2) -> Measured:
    work.prepare()
    for number in range(rounds):
        for position, kind in enumerate(kinds):
            work.turn(Turn(kind=kind, round=number, position=position))
    measured, taints = work.finish()
    assert taints == ()
    return measured


@pytest.mark.parametrize("mode", list(ProfileMode))
def test_a_profile_pairs_bursts_of_both_contexts(mode: ProfileMode) -> None:
    measured = take_turns(_work(task(RunKind.PROFILE, mode=mode)), BurstKind.DECODE, BurstKind.PROFILE)
    profile = measured.profile
    assert profile is not None
    assert [(burst.round, burst.kind) for burst in measured.bursts] == [
        (0, BurstKind.DECODE), (0, BurstKind.PROFILE), (1, BurstKind.DECODE), (1, BurstKind.PROFILE),
    ]  # fmt: skip
    assert len({burst.tokens for burst in measured.bursts}) == 1
    assert profile.rounds == (0, 1)
    assert profile.burst_tokens == (measured.bursts[1].tokens - 2,) * 2  # settle tokens are left out
    assert profile.mode is mode
    assert profile.unknown_nodes == ()


@pytest.mark.parametrize("mode", list(ProfileMode))
def test_categories_and_layers_sum_to_the_total_exactly(mode: ProfileMode) -> None:
    profile = take_turns(_work(task(RunKind.PROFILE, mode=mode)), BurstKind.DECODE, BurstKind.PROFILE).profile
    assert profile is not None
    columns = zip(*profile.category_ns.values(), strict=True)
    assert tuple(sum(column) for column in columns) == profile.total_ns
    assert sum(sum(row.values()) for row in profile.layer_ns.values()) == sum(profile.total_ns)
    assert profile.category_ns.keys() == profile.category_stretches.keys() == profile.traffic.keys()


def test_calibration_keeps_raw_times_of_empty_nodes() -> None:
    profile = take_turns(_work(task(RunKind.PROFILE)), BurstKind.PROFILE).profile
    assert profile is not None
    assert len(profile.empty_ns) == 2 * 3  # one empty node a layer, three timed steps
    assert max(profile.empty_ns) < max(profile.total_ns)


def test_a_profile_run_without_a_profiled_turn_has_no_profile() -> None:
    assert take_turns(_work(task(RunKind.PROFILE)), BurstKind.DECODE).profile is None


def test_range_mode_times_fewer_stretches() -> None:
    node_mode, range_mode = (
        take_turns(_work(task(RunKind.PROFILE, mode=mode)), BurstKind.PROFILE, rounds=1).profile
        for mode in (ProfileMode.NODE, ProfileMode.RANGE)
    )
    assert node_mode is not None
    assert range_mode is not None
    assert sum(range_mode.category_stretches.values()) <= sum(node_mode.category_stretches.values())
    assert range_mode.category_ns.keys() == node_mode.category_ns.keys()


def test_a_graph_that_changes_between_bursts_is_refused() -> None:
    sums = ProfileSums(ProfileMode.NODE)
    for number, names in enumerate((("ffn_norm-0",), ("ffn_norm-0", "Qcur-0"))):
        graph = read_graph(Node(name=name, op="MUL") for name in names)
        steps = Steps(graph, cut(graph, Cut.NODE), [[1] * len(names)])
        if number == 0:
            sums.add(0, steps, 0)
        else:
            with pytest.raises(ProbeError, match="2 stretches from 1"):
                sums.add(1, steps, 0)


def test_settle_steps_are_left_out_of_every_sum() -> None:
    graph = read_graph([Node(name="ffn_norm-0", op="MUL")])
    sums = ProfileSums(ProfileMode.NODE)
    sums.add(4, Steps(graph, cut(graph, Cut.NODE), [[1000], [7], [8]]), 1)
    profile = sums.profile([1])
    assert profile is not None
    assert profile.total_ns == (7, 8)
    assert profile.layer_ns == {"0": {NodeCategory.NORM: 15}}


@pytest.mark.parametrize("width", [1, 3])
def test_routing_keeps_every_row_of_every_burst(width: int) -> None:
    measured = take_turns(_work(task(RunKind.ROUTING, width=width)), BurstKind.PREFILL, BurstKind.DECODE)
    trace = measured.routing
    assert trace is not None
    decoded = [burst.tokens for burst in measured.bursts if burst.kind is BurstKind.DECODE]
    assert trace.burst_steps == tuple(decoded)
    assert len(trace.selected) == width * sum(decoded)
    assert trace.layer_numbers == (0, 1)
    assert {len(ids) for row in trace.selected for ids in row} == {2}
    assert {expert for row in trace.selected for ids in row for expert in ids} <= set(range(8))


def test_a_dense_model_has_no_routing() -> None:
    with pytest.raises(UsageError, match="no routing"):
        _work(task(RunKind.ROUTING, experts=0))


def test_a_broken_probe_fails_the_turn() -> None:
    """What the callback raised is told by the step, not swallowed."""
    work = ProfileWork(task(RunKind.PROFILE), _breaking())
    work.prepare()
    work.turn(Turn(kind=BurstKind.DECODE, round=0, position=0))
    with pytest.raises(ProbeError, match="boom"):
        work.turn(Turn(kind=BurstKind.PROFILE, round=0, position=1))


def _breaking() -> Callable[[], ProbedLoader]:
    from harness.measure.probed_fake import FakeProfiledEngine, ProbedFakeLoader

    class Broken(FakeProfiledEngine):
        def taken(self) -> Steps:
            steps = super().taken()
            if steps.plan.ends != cut(steps.graph, Cut.EVERY).ends:
                raise ProbeError("the node callback failed: boom")
            return steps

    class Loader(ProbedFakeLoader):
        def open_profiled(self) -> FakeProfiledEngine:
            return Broken(self._probed_model, self._probed_width)

    return lambda: Loader(task(RunKind.PROFILE).spec.model, 1)


def test_bandwidth_reads_the_whole_working_set_each_pass(tmp_path: Path) -> None:
    work = BandwidthWork(task(RunKind.BANDWIDTH), tmp_path, wanted_bytes=1 << 20)
    measured = take_turns(work, BurstKind.DECODE)
    assert measured.bandwidth
    assert {sample.read_bytes for sample in measured.bandwidth} == {1 << 20}
    assert {sample.round for sample in measured.bandwidth} == {0, 1}
    assert all(sample.duration_ns > 0 and sample.threads == 2 for sample in measured.bandwidth)
    bursts: tuple[Burst, ...] = measured.bursts
    assert {burst.kind for burst in bursts} == {BurstKind.READ}
    assert sum(burst.engine_ns for burst in bursts) == sum(sample.duration_ns for sample in measured.bandwidth)


def _cpu(root: Path, number: int, shared: str) -> None:
    for index, (level, size) in enumerate(((1, "32K"), (2, "1024K"), (3, "8192K"))):
        folder = root / f"sys/devices/system/cpu/cpu{number}/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
        (folder / "shared_cpu_list").write_text(f"{shared}\n")


def test_last_caches_of_all_complexes_count_together(tmp_path: Path) -> None:
    assert last_cache_bytes(tmp_path) is None
    for number in range(4):
        _cpu(tmp_path, number, "0-1" if number < 2 else "2-3")
    assert last_cache_bytes(tmp_path) == 2 * 8192 * 1024


def test_a_working_set_that_fits_into_the_cache_is_refused() -> None:
    assert working_set_bytes(1 << 30, None, 1 << 40) == 1 << 30
    assert working_set_bytes(1 << 30, 1 << 28, 1 << 40) == 8 << 28
    with pytest.raises(EnvironmentLacking, match="does not exceed the last cache"):
        working_set_bytes(1 << 30, 1 << 28, 1 << 29)


def test_routing_work_frees_the_weights_that_it_opened() -> None:
    from harness.measure.probed_fake import ProbedFakeLoader

    closed = []

    class Loader(ProbedFakeLoader):
        def close(self) -> None:
            closed.append("weights")

    take_turns(
        RoutingWork(task(RunKind.ROUTING), lambda: Loader(task(RunKind.ROUTING).spec.model, 1)), BurstKind.DECODE
    )
    assert closed == ["weights"]
