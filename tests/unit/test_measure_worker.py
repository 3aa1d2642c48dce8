"""The measured process with the fake engine: its life over pipes, its windows, what it counts."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence

import msgspec
import pytest

from harness import protocol
from harness.measure import tokens, windows
from harness.measure.fake import FakeEngine
from harness.measure.telemetry.counters import Waiting
from harness.measure.timed import TimedWork
from harness.measure.worker import Worker
from harness.protocol import Done, Event, Failed, Finish, Finished, Ready, Task, Turn
from harness.records import ModelRef, RunSpec, Schedule, Settings, Workload
from harness.terms import (
    BurstKind,
    DeviceKind,
    Ending,
    EngineKind,
    EnvironmentKind,
    RunKind,
    TaintKind,
    TokenSource,
    Weights,
)

MODEL = ModelRef(
    name="fake",
    architecture="llama",
    file="fake.gguf",
    sha256="0" * 64,
    size_bytes=1,
    weights=Weights.PROXY,
    file_type="Q4_K_M",
    parameters_total=1,
    parameters_active=1,
    weight_bytes_active=100_000_000,
)


def task(**workload: object) -> Task:
    plain: dict[str, object] = {"prompt_tokens": 8, "decode_tokens": 6, "depth_tokens": 8}
    spec = RunSpec(
        run_id="r1",
        schema=1,
        suite="test",
        experiment="headline",
        kind=RunKind.ROUNDS,
        device=DeviceKind.CPU,
        environment=EnvironmentKind.NATIVE,
        engine=EngineKind.FAKE,
        model=MODEL,
        workload=msgspec.convert({**plain, **workload}, Workload),
        settings=Settings(threads=1, context_tokens=128),
        schedule=Schedule(group="headline", cohort="c", block=0, order=0, rounds=2, seed=1),
    )
    return Task(spec=spec, model_path="/nowhere", prompt_text="one two three")


def converse(first: Task, *commands: protocol.Command) -> tuple[int, list[Event]]:
    lines = protocol.encode(first) + b"".join(protocol.encode(command) for command in commands)
    events = io.BytesIO()
    code = Worker(io.BytesIO(lines), events).run()
    return code, [protocol.decode_event(line) for line in events.getvalue().splitlines()]


def turn(kind: BurstKind, round_number: int = 0) -> Turn:
    return Turn(kind=kind, round=round_number, position=0)


def test_a_whole_life_gives_one_report() -> None:
    code, events = converse(task(), turn(BurstKind.PREFILL), turn(BurstKind.DECODE), Finish())
    assert code == 0
    assert [type(event) for event in events] == [Ready, Done, Done, Finished]
    report = events[-1]
    assert isinstance(report, Finished)
    assert report.run_id == "r1"
    assert [burst.kind for burst in report.measured.bursts] == [BurstKind.PREFILL, BurstKind.DECODE]
    assert report.measured.memory is not None
    phases = ["start", "loaded", "warm", "prefill", "decode", "finished"]
    assert [sample.phase for sample in report.measured.memory.samples] == phases


def test_each_phase_has_one_sample_however_many_rounds_there_are() -> None:
    rounds = [turn(kind, number) for number in range(3) for kind in (BurstKind.UNWATCHED, BurstKind.DECODE)]
    _, events = converse(task(), *rounds, Finish())
    report = events[-1]
    assert isinstance(report, Finished)
    assert report.measured.memory is not None
    phases = [sample.phase for sample in report.measured.memory.samples]
    assert phases == ["start", "loaded", "warm", "decode", "finished"]
    kinds = [burst.kind for burst in report.measured.bursts]
    assert kinds == [BurstKind.UNWATCHED, BurstKind.DECODE] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM can only be set back on Linux")
def test_the_peak_of_a_phase_is_its_own() -> None:
    """The fake engine takes 64 MB while it loads and lets go of them: no later phase may show that peak."""

    def load() -> FakeLoaderOf:
        ballast = bytearray(64_000_000)
        ballast[::4096] = b"x" * len(ballast[::4096])
        return _loader(FakeEngine(MODEL, 1))

    work = TimedWork(task(), load)
    work.prepare()
    work.turn(turn(BurstKind.DECODE))
    measured, _ = work.finish()
    assert measured.memory is not None
    start, loaded, warm, decode, finished = measured.memory.samples
    assert not start.hwm_of_phase
    if not loaded.hwm_of_phase:
        pytest.skip("this kernel does not set VmHWM back")
    assert loaded.vm_hwm_bytes is not None
    assert loaded.rss_bytes is not None
    assert loaded.vm_hwm_bytes - loaded.rss_bytes > 50_000_000
    for later in (warm, decode, finished):
        assert later.hwm_of_phase
        assert later.vm_hwm_bytes is not None
        assert loaded.vm_hwm_bytes - later.vm_hwm_bytes > 50_000_000


def test_what_a_worker_costs_while_it_waits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cpu = iter(range(0, 10**12, 10**9)), iter(range(0, 10**9, 10**6))
    monkeypatch.setattr("harness.measure.telemetry.counters.now_ns", lambda: next(clock))
    monkeypatch.setattr("harness.measure.telemetry.counters.time.process_time_ns", lambda: next(cpu))
    waiting = Waiting()
    assert waiting.end() == (None, None)
    waiting.begin()
    assert waiting.end() == (10**9, 10**6)
    monkeypatch.undo()
    work = TimedWork(task(), lambda: _loader(FakeEngine(MODEL, 1)))
    work.prepare()
    for number in range(2):
        time.sleep(0.02)
        work.turn(turn(BurstKind.DECODE, number))
    measured, _ = work.finish()
    for burst in measured.bursts:
        assert burst.waited_ns is not None
        assert burst.waited_cpu_ns is not None
        assert burst.waited_ns >= 20_000_000
        assert burst.waited_cpu_ns >= 0


def test_end_of_input_ends_the_worker_without_a_report() -> None:
    code, events = converse(task())
    assert code == 0
    assert [type(event) for event in events] == [Ready]


def test_what_goes_wrong_inside_becomes_a_failed_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "logits_finite", lambda _self: False)
    code, events = converse(task())
    failed = events[-1]
    assert code == 1
    assert isinstance(failed, Failed)
    assert failed.ending is Ending.ERROR
    assert "NaN" in failed.message


def test_a_refused_allocation_is_told_as_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: FakeEngine, _tokens: object) -> None:
        raise MemoryError("unable to allocate 8 GB")

    monkeypatch.setattr(FakeEngine, "prefill", refuse)
    _, events = converse(task())
    assert isinstance(events[-1], Failed)
    assert events[-1].ending is Ending.OOM


def test_decode_keeps_every_token_and_times_sampling_apart() -> None:
    engine = FakeEngine(MODEL, 1)
    workload = task().spec.workload
    burst, chosen = windows.decode_window(engine, turn(BurstKind.DECODE, 3), (1,), tokens.stream(workload, 100, 3), 5)
    assert burst.tokens == len(burst.token_ns) == 5
    assert len(chosen) == burst.samplings == 1
    assert burst.engine_ns == sum(burst.token_ns)
    assert burst.engine_ns + burst.sampling_ns <= burst.end_ns - burst.start_ns
    assert burst.round == 3


def test_greedy_text_feeds_back_every_arg_max() -> None:
    placed: list[tuple[int, ...]] = []

    class Watching(FakeEngine):
        def place(self, tokens: Sequence[int]) -> None:
            placed.append(tuple(tokens))

    burst, chosen = windows.decode_window(Watching(MODEL, 2), turn(BurstKind.DECODE, 0), (1, 1), None, 4)
    assert placed == [(1, 1), *((token, token) for token in chosen[:-1])]
    assert len(chosen) == burst.samplings == 4
    assert burst.engine_ns + burst.sampling_ns <= burst.end_ns - burst.start_ns


def test_neither_the_engines_cpu_time_nor_a_preemption_is_the_harness_s() -> None:
    class Busy(FakeEngine):
        def place(self, tokens: Sequence[int]) -> None:
            del tokens
            time.sleep(0.02)  # the thread has no CPU: as when the system lets others run

        def step(self) -> None:
            until_ns = time.thread_time_ns() + 20_000_000
            while time.thread_time_ns() < until_ns:
                pass

    given = iter([(1,)] * 4)
    burst, _ = windows.decode_window(Busy(MODEL, 1), turn(BurstKind.DECODE, 0), (1,), given, 4)
    assert burst.harness_cpu_ns is not None
    assert burst.engine_ns >= 80_000_000
    assert burst.harness_cpu_ns < burst.end_ns - burst.start_ns - burst.engine_ns
    assert burst.harness_cpu_ns < 40_000_000


def test_decode_starts_at_the_same_depth_in_every_round() -> None:
    seen: list[int] = []

    class Watching(FakeEngine):
        def step(self) -> None:
            seen.append(self.tokens_held)
            self.tokens_held += 1

    work = TimedWork(task(), lambda: _loader(Watching(MODEL, 1)))
    work.prepare()
    seen.clear()
    work.turn(turn(BurstKind.DECODE, 0))
    work.turn(turn(BurstKind.PREFILL, 1))
    work.turn(turn(BurstKind.DECODE, 1))
    assert seen == [*range(8, 14)] * 2


def _loader(engine: FakeEngine) -> FakeLoaderOf:
    return FakeLoaderOf(engine)


class FakeLoaderOf:
    """A loader that opens a given engine."""

    vocabulary_size = 100

    def __init__(self, engine: FakeEngine) -> None:
        from harness.measure.fake import FakeLoader

        self._engine = engine
        self._plain = FakeLoader(MODEL, 1)
        self.cover_experts = self._plain.cover_experts
        self.touch_weights = self._plain.touch_weights
        self.predicted = self._plain.predicted
        self.chat_tokens = self._plain.chat_tokens
        self.text = self._plain.text
        self.info = self._plain.info
        self.close = self._plain.close

    def open(self) -> FakeEngine:
        return self._engine


def test_greedy_text_is_kept_and_a_differing_repetition_taints(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = (turn(BurstKind.DECODE, 0), turn(BurstKind.DECODE, 1), Finish())
    _, events = converse(task(source="text", prompt_id="p"), *turns)
    same = events[-1]
    assert isinstance(same, Finished)
    assert len({text.token_ids for text in same.measured.texts}) == 1
    assert same.taints == ()

    answers = iter(range(1000))
    monkeypatch.setattr(FakeEngine, "argmax", lambda _self: next(answers))
    _, events = converse(task(source="text", prompt_id="p"), *turns)
    other = events[-1]
    assert isinstance(other, Finished)
    assert [taint.kind for taint in other.taints] == [TaintKind.OUTPUT_DIFFERS]


def test_token_streams_depend_on_seed_and_round_alone() -> None:
    workload = Workload(prompt_tokens=4, decode_tokens=4, batch_width=2)
    first, again, other = (tokens.stream(workload, 1000, number) for number in (1, 1, 2))
    drawn = [next(first) for _ in range(8)]
    assert drawn == [next(again) for _ in range(8)]
    assert drawn != [next(other) for _ in range(8)]
    assert all(len(step) == 2 for step in drawn)
    assert any(step[0] != step[1] for step in drawn)


def test_repeated_tokens_repeat() -> None:
    workload = Workload(prompt_tokens=4, decode_tokens=4, source=TokenSource.REPEATED)
    stream = tokens.stream(workload, 1000, 0)
    assert next(stream) == next(stream)
    assert len(set(tokens.prompt(workload, 1000, 5))) == 1


def test_a_burst_fills_the_seconds_asked_for() -> None:
    work = TimedWork(task(decode_tokens=0, decode_seconds=0.01), lambda: _loader(FakeEngine(MODEL, 1)))
    step_ns = work.prepare()
    burst = work.turn(turn(BurstKind.DECODE))
    assert burst.tokens == pytest.approx(0.01e9 / step_ns + 3, rel=0.3)
