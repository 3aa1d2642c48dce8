"""Probes in stock llama.cpp: every node has its place, sums are exact, and what fails fails its own run."""

from __future__ import annotations

import io
import statistics
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from harness import protocol
from harness.llamacpp.engine import LlamaModel
from harness.llamacpp.nodes import Node
from harness.llamacpp.profiling import NodeProbe, ProfiledContext
from harness.llamacpp.stretches import Cut, ProbeError, Steps
from harness.llamacpp.traffic import traffic
from harness.measure.worker import Worker
from harness.models import registry
from harness.models.proxy import ProxyFile, write
from harness.models.shapes import Shape, of, tiny
from harness.protocol import Failed, Finish, Finished, Task, Turn
from harness.records import Measured, ModelRef, NodeProfile, RunSpec, Schedule, Settings, Workload
from harness.terms import (
    BurstKind,
    DeviceKind,
    Ending,
    EngineKind,
    EnvironmentKind,
    FlashAttention,
    NodeCategory,
    ProfileMode,
    RunKind,
    TokenSource,
    Weights,
)

pytestmark = pytest.mark.llama

REGISTRY = registry.load(Path(__file__).parents[2])
SHAPED = [name for name, model in REGISTRY.models.items() if model.shape is not None]
SETTINGS = Settings(threads=1, context_tokens=256, repack=False)
WORKLOAD = Workload(prompt_tokens=16, decode_tokens=8, depth_tokens=16, settle_tokens=2)
EXPERTS = {NodeCategory.ROUTER, NodeCategory.EXPERT_UP, NodeCategory.EXPERT_DOWN, NodeCategory.COMBINE}


def proxy(shape: Shape, folder: Path) -> ProxyFile:
    return write(shape, "Q4_K_M", out=folder / "proxy.gguf")


def small(name: str) -> Shape:
    return tiny(of(REGISTRY.get(name)))


def learned(path: Path, settings: Settings = SETTINGS, how: Cut = Cut.NODE) -> Steps:
    model = LlamaModel(path, settings)
    context = ProfiledContext(model, settings, WORKLOAD)
    try:
        context.prefill(range(1, 17))
        context.start(how)
        for token in (1, 2, 3):
            context.place((token,))
            context.step()
        return context.taken()
    finally:
        context.close()
        model.close()


@pytest.mark.parametrize("name", SHAPED)
@pytest.mark.parametrize("flash", [FlashAttention.ON, FlashAttention.OFF])
def test_no_node_of_any_family_is_unknown(name: str, flash: FlashAttention, tmp_path: Path) -> None:
    shape = small(name)
    steps = learned(proxy(shape, tmp_path).path, replace(SETTINGS, flash_attention=flash))
    assert steps.graph.unknown == ()
    assert len(steps.times_ns) == 2
    assert all(len(times) == len(steps.parts) for times in steps.times_ns)
    found = {part.category for part in steps.parts}
    assert {NodeCategory.ATTENTION, NodeCategory.KV, NodeCategory.NORM, NodeCategory.HEAD} <= found
    assert (found >= EXPERTS) == bool(shape.experts)
    assert (NodeCategory.SHARED_EXPERT in found) == bool(shape.shared_ffn)
    assert {part.layer for part in steps.parts} >= {str(layer) for layer in range(shape.layers)}


@pytest.mark.parametrize("name", ["llama-3.2-1b", "olmoe-1b-7b"])
def test_weights_touched_are_those_of_the_active_tensors(name: str, tmp_path: Path) -> None:
    """A token reads the whole file but the experts that it is not routed to, and of an untied embedding one row."""
    made = proxy(small(name), tmp_path)
    touched = traffic(learned(made.path).graph)
    read = sum(part.weight_bytes for part in touched.values())
    row_bytes = 4096  # rows of the embedding and of rotation factors, which the plan may count or not
    assert abs(read - made.weight_bytes_active) <= row_bytes


def test_a_range_holds_what_its_nodes_hold(tmp_path: Path) -> None:
    made = proxy(small("olmoe-1b-7b"), tmp_path)
    nodes, ranges = learned(made.path, how=Cut.NODE), learned(made.path, how=Cut.RANGE)
    assert {part.category for part in nodes.parts} == {part.category for part in ranges.parts}
    assert len(ranges.parts) < len(nodes.parts)


def task(path: Path, shape: Shape, kind: RunKind, *, depth: int = 16, mode: ProfileMode = ProfileMode.NODE) -> Task:
    model = ModelRef(
        name=shape.name, architecture=shape.architecture, file=path.name, sha256="0" * 64,
        size_bytes=path.stat().st_size if path.exists() else 0, weights=Weights.PROXY, file_type="Q4_K_M",
        parameters_total=1, parameters_active=1, expert_count=shape.experts, expert_used_count=shape.experts_used,
    )  # fmt: skip
    spec = RunSpec(
        run_id="r1", schema=1, suite="smoke", experiment="profile", kind=kind, device=DeviceKind.CPU,
        environment=EnvironmentKind.NATIVE, engine=EngineKind.LLAMA_CPP, model=model,
        workload=replace(WORKLOAD, depth_tokens=depth, source=TokenSource.RANDOM, profile_mode=mode),
        settings=SETTINGS, schedule=Schedule(group="g", cohort="c", block=0, order=0, rounds=2, seed=1),
    )  # fmt: skip
    return Task(spec=spec, model_path=str(path))


def serve(task_: Task, *kinds: BurstKind, rounds: int = 2) -> protocol.Event:
    """The last word of a worker that takes the given turns."""
    turns = [
        Turn(kind=kind, round=number, position=place) for number in range(rounds) for place, kind in enumerate(kinds)
    ]
    commands = b"".join([protocol.encode(task_), *map(protocol.encode, turns), protocol.encode(Finish())])
    events = io.BytesIO()
    Worker(io.BytesIO(commands), events).run()
    return protocol.decode_event(events.getvalue().splitlines()[-1])


def measured(task_: Task, *kinds: BurstKind, rounds: int = 2) -> Measured:
    event = serve(task_, *kinds, rounds=rounds)
    assert isinstance(event, Finished), event
    return event.measured


@pytest.mark.parametrize("mode", list(ProfileMode))
def test_a_profile_run_adds_up_exactly(mode: ProfileMode, tmp_path: Path) -> None:
    shape = small("olmoe-1b-7b")
    profile = measured(
        task(proxy(shape, tmp_path).path, shape, RunKind.PROFILE, mode=mode), BurstKind.DECODE, BurstKind.PROFILE
    ).profile
    assert profile is not None
    assert tuple(map(sum, zip(*profile.category_ns.values(), strict=True))) == profile.total_ns
    assert profile.burst_tokens == (6, 6)
    assert profile.unknown_nodes == ()
    assert profile.empty_ns
    assert 0 < statistics.median(profile.empty_ns) < 1_000_000


def test_a_routing_run_traces_every_layer(tmp_path: Path) -> None:
    shape = small("qwen1.5-moe-a2.7b")
    trace = measured(task(proxy(shape, tmp_path).path, shape, RunKind.ROUTING), BurstKind.DECODE).routing
    assert trace is not None
    assert trace.layer_numbers == tuple(range(shape.layers))
    assert len(trace.selected) == sum(trace.burst_steps) == 16
    assert all(len(set(ids)) == shape.experts_used for row in trace.selected for ids in row)


@pytest.mark.parametrize("kind", [RunKind.ROUNDS, RunKind.PROFILE, RunKind.ROUTING])
def test_sequences_are_decoded_together(kind: RunKind, tmp_path: Path) -> None:
    """Four at once, after a prompt and after a step: their logits lie in different rows."""
    shape = small("olmoe-1b-7b")
    asked = task(proxy(shape, tmp_path).path, shape, kind)
    workload = replace(asked.spec.workload, batch_width=4)
    wide = replace(asked, spec=replace(asked.spec, workload=workload))
    found = measured(wide, BurstKind.PREFILL, BurstKind.DECODE, rounds=2)
    decoded = [burst for burst in found.bursts if burst.kind is BurstKind.DECODE]
    assert [burst.tokens for burst in decoded] == [8, 8]
    if found.routing:
        assert len(found.routing.selected) == 4 * sum(found.routing.burst_steps)


def test_a_context_that_is_too_long_fails_its_run_in_words(tmp_path: Path) -> None:
    shape = small("llama-3.2-1b")
    event = serve(task(proxy(shape, tmp_path).path, shape, RunKind.PROFILE, depth=300), BurstKind.PROFILE)
    assert isinstance(event, Failed)
    assert event.ending is Ending.ERROR
    assert "KV cache" in event.message


def test_a_missing_model_fails_its_run_in_words(tmp_path: Path) -> None:
    event = serve(task(tmp_path / "none.gguf", small("llama-3.2-1b"), RunKind.PROFILE), BurstKind.PROFILE)
    assert isinstance(event, Failed)
    assert "could not load the model" in event.message


def test_an_exception_inside_the_callback_comes_out_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: NodeProbe, _tensor: int) -> Node:
        raise LookupError("no such tensor")

    monkeypatch.setattr(NodeProbe, "_node", fail)
    with pytest.raises(ProbeError, match="no such tensor"):
        learned(proxy(small("llama-3.2-1b"), tmp_path).path)


def quartile(values: list[int]) -> float:
    return statistics.quantiles(values, n=4)[0]


@pytest.mark.parametrize("name", ["olmoe-1b-7b", "llama-3.2-1b"])
@pytest.mark.parametrize("mode", list(ProfileMode))
def test_node_times_add_up_to_the_unprofiled_token(name: str, mode: ProfileMode, tmp_path: Path) -> None:
    """Four layers at full width. Loose, since the machine may be busy: the lower quartiles are compared."""
    whole = of(REGISTRY.get(name))
    shape = replace(whole, layers=4, vocabulary=8192, experts=min(whole.experts, 16))
    asked = task(proxy(shape, tmp_path).path, shape, RunKind.PROFILE, mode=mode)
    asked = msgspec.structs.replace(
        asked,
        spec=replace(
            asked.spec, settings=replace(SETTINGS, repack=True), workload=replace(asked.spec.workload, decode_tokens=16)
        ),
    )
    found = measured(asked, BurstKind.DECODE, BurstKind.PROFILE, rounds=12)
    profile = found.profile
    assert profile is not None
    plain_ns = quartile([ns for burst in found.bursts if burst.kind is BurstKind.DECODE for ns in burst.token_ns[2:]])
    assert 0.8 < quartile(net_totals(profile)) / plain_ns < 1.25


def net_totals(profile: NodeProfile) -> list[int]:
    cost = round(statistics.median(profile.empty_ns) * sum(profile.category_stretches.values()))
    return [total - cost for total in profile.total_ns]
