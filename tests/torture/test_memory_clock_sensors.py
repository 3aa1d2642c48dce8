"""The machine turns against a study: no memory left, a clock that is set, sensors that can't be read."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import board_tree
import pytest
from slow_studies import kinds, measured, slow
from small_cgroup import small_cgroup
from studies import FOUR, Listener, experiment, plan_of, run_study, suite
from torture import ROOT, WHOLE

from harness.clock import now_ns
from harness.protocol import Task
from harness.records import Record
from harness.study import store as storing
from harness.study.environments.native import NativeEnvironment, NativeProcess
from harness.study.runner import Study
from harness.study.sampler import SamplerHandle
from harness.study.store import RUNS, Store
from harness.telemetry_protocol import Start
from harness.terms import Ending, EngineKind, Quantity, RunKind, TaintKind

pytestmark = pytest.mark.torture
TOO_LITTLE_BYTES = 4 << 20  # less than an interpreter needs to import the worker
ENOUGH_BYTES = 256 << 20
STEP_S = 300.0
PERIOD_NS = 50_000_000
CLOCK_STEP = Path(__file__).parents[1] / "fixtures" / "clock_step.py"


class Confined(NativeEnvironment):
    """Puts each worker into a cgroup of its own, in turn."""

    def __init__(self, cgroups: list[Path]) -> None:
        super().__init__(ROOT, EngineKind.FAKE.value)
        self._cgroups = cgroups

    def start(self, task: Task) -> NativeProcess:
        process = super().start(task)
        (self._cgroups.pop(0) / "cgroup.procs").write_text(str(process.pid))
        return process


@pytest.mark.parametrize("repeat", range(5 if WHOLE else 1))
def test_a_worker_that_the_kernel_kills_for_memory_is_a_record(tmp_path: Path, repeat: int) -> None:
    plan = plan_of(suite(experiment("memory", RunKind.SOLO, models=FOUR[:3], rounds=1)))
    store = Store.open(tmp_path / "out", resume=False)
    with small_cgroup(TOO_LITTLE_BYTES) as little, small_cgroup(ENOUGH_BYTES) as enough:
        environment = Confined([little, enough, little])
        try:
            runner = run_study(Study(**{**vars(slow(store, plan)), "environment": environment}))
        finally:
            store.close()
    first, second, third = storing.read(tmp_path / "out" / RUNS)
    for killed in (first.termination, third.termination):
        assert (killed.ending, killed.oom_killed, killed.exit_code) == (Ending.OOM, True, None), killed
        assert killed.signal == signal.SIGKILL
    assert runner.failed == 2
    assert second.termination.ending is Ending.OK
    assert second.measured is not None
    assert second.measured.memory is not None
    assert second.measured.memory.ceiling_bytes == ENOUGH_BYTES


def stepped(by_s: float) -> subprocess.Popen[bytes]:
    """From now on the wall clock is wrong by so much, for two seconds."""
    return subprocess.Popen([sys.executable, str(CLOCK_STEP), str(by_s), "2"], start_new_session=True)


def ahead_s() -> float:
    return time.time() - time.monotonic()


@pytest.mark.skipif(
    os.environ.get("MOE_TORTURE_CLOCK") != "1" or os.geteuid() != 0,
    reason="sets the wall clock of the whole machine for two seconds: as root, with MOE_TORTURE_CLOCK=1",
)
@pytest.mark.parametrize("by_s", [STEP_S, -STEP_S], ids=["ahead", "back"])
def test_a_clock_that_is_set_leaves_every_interval_whole(tmp_path: Path, by_s: float) -> None:
    seen: list[float] = [ahead_s()]
    steps: list[subprocess.Popen[bytes]] = []

    def watch(total: int) -> None:
        if total == 5:
            steps.append(stepped(by_s))
        seen.append(ahead_s())

    begun_ns = now_ns()
    try:
        with SamplerHandle.start(
            Start(root=str(board_tree.jetson(tmp_path / "board")), period_ns=PERIOD_NS)
        ) as sampler:
            records = measured(tmp_path / "out", Listener(watch), models=2, sampler=sampler)
    finally:
        codes = [step.wait(30) for step in steps]
    lasted_ns = now_ns() - begun_ns
    assert codes == [0]
    moved = max(seen, key=lambda one: abs(one - seen[0])) - seen[0]
    assert moved == pytest.approx(by_s, abs=1)  # it was set while the study ran ...
    assert ahead_s() == pytest.approx(seen[0], abs=0.01)  # ... and is right again
    for record in records:
        expect_true_intervals(record, begun_ns, lasted_ns)


def expect_true_intervals(record: Record, begun_ns: int, lasted_ns: int) -> None:
    assert record.termination.ending is Ending.OK
    assert TaintKind.SUSPENDED not in kinds(record), record.taints
    assert record.measured is not None
    assert record.telemetry is not None
    bursts = record.measured.bursts
    assert len(bursts) == 40
    edges = [edge for burst in bursts for edge in (burst.start_ns, burst.end_ns)]
    assert edges == sorted(edges)
    assert begun_ns < edges[0] < edges[-1] < begun_ns + lasted_ns
    for burst in bursts:
        assert 20 * 10_000_000 * 0.9 < sum(burst.token_ns) <= burst.end_ns - burst.start_ns  # tokens of 10 ms
    assert record.telemetry.missed_ticks <= 20  # a busy machine; a clock that steps would miss thousands
    for channel in record.telemetry.channels:
        assert all(earlier < later for earlier, later in pairwise(channel.at_ns))
        assert begun_ns < channel.at_ns[0] < channel.at_ns[-1] < begun_ns + lasted_ns


def rails_of(folder: Path) -> Path:
    return next(folder.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/*"))


def blinded(folder: Path) -> None:
    """Each rail of the board fails in its own way: garbage, a folder in the place of the file, no file at all."""
    rails = rails_of(folder)
    (rails / "in1_input").write_bytes(b"\xff\xfe nan")
    (rails / "curr2_input").unlink()
    (rails / "curr2_input").mkdir()
    (rails / "in3_input").unlink()
    shutil.rmtree(folder / "sys/class/thermal")


def test_sensors_that_can_not_be_read_any_more_give_no_number(tmp_path: Path) -> None:
    board = board_tree.jetson(tmp_path / "board")
    broken_ns: list[int] = []

    def live(total: int) -> None:
        if total < 10:
            for number in (1, 2, 3):  # readings that never change would be told as such
                board_tree.write(rails_of(board) / f"curr{number}_input", 1000 + 7 * total)
        elif total == 10:
            blinded(board)
            broken_ns.append(now_ns())

    with SamplerHandle.start(Start(root=str(board), period_ns=PERIOD_NS)) as sampler:
        (record,) = measured(tmp_path / "out", Listener(live), sampler=sampler)
    assert record.termination.ending is Ending.OK
    assert TaintKind.SENSOR_LOST in kinds(record)
    assert record.telemetry is not None
    power = [channel for channel in record.telemetry.channels if channel.quantity is Quantity.POWER_MW]
    heat = [channel for channel in record.telemetry.channels if channel.quantity is Quantity.TEMPERATURE_CELSIUS]
    assert len(power) == len(board_tree.RAILS)
    assert heat
    for channel in (*power, *heat):
        assert channel.at_ns[-1] <= broken_ns[0] + PERIOD_NS
        assert min(channel.values) > 0
        assert "lost: last reading" in record.telemetry.absent[channel.name]
