"""The sampler: what it keeps, how it answers, and that it never outlives anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import board_tree
import psutil
import pytest

from harness import telemetry_protocol as protocol
from harness.clock import now_ns
from harness.measure.telemetry.base import Sample, Sensor, SensorLost
from harness.measure.telemetry.detect import Found
from harness.measure.telemetry.serve import Lines, Server
from harness.measure.telemetry.session import Session
from harness.records import Channel, Telemetry
from harness.study.sampler import SamplerHandle, SamplerLost, cut
from harness.study.telemetry_taints import telemetry_taints
from harness.terms import Quality, Quantity, TaintKind

SECOND = 1_000_000_000
PERIOD = 100_000_000


class ScriptedSampler:
    """Gives one sample a poll until it is told to be lost."""

    name = "scripted"

    def __init__(self, clock: Callable[[], int], *, lost_after: int = 10**9, every_ticks: int = 1) -> None:
        self.sensors: tuple[Sensor, ...] = (
            Sensor(name="rail", quantity=Quantity.POWER_MW, source="scripted", scope="rail", resolution=1.0),
        )
        self.every_ticks = every_ticks
        self.closed = False
        self._clock = clock
        self._polls = 0
        self._lost_after = lost_after

    def poll(self) -> Sequence[Sample]:
        self._polls += 1
        if self._polls > self._lost_after:
            raise SensorLost("the server is gone")
        return [Sample(0, self._clock(), float(self._polls))]

    def notes(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        self.closed = True


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def scripted(clock: Clock, tmp_path: Path, *samplers: ScriptedSampler) -> Session:
    return Session(Found(samplers=samplers, absent={"nvml": "no GPU"}), root=tmp_path, period_ns=PERIOD, clock=clock)


def run_ticks(session: Session, clock: Clock, count: int) -> None:
    for _ in range(count):
        session.tick()
        clock.now += PERIOD


def test_every_sample_is_kept_and_slow_channels_keep_their_rhythm(tmp_path: Path) -> None:
    clock = Clock()
    session = scripted(clock, tmp_path, ScriptedSampler(clock), ScriptedSampler(clock, every_ticks=10))
    run_ticks(session, clock, 25)
    fast, slow = session.telemetry().channels
    assert fast.at_ns == tuple(n * PERIOD for n in range(25))
    assert slow.at_ns == (0, 10 * PERIOD, 20 * PERIOD)


def test_a_span_holds_a_sample_on_either_side(tmp_path: Path) -> None:
    clock = Clock()
    session = scripted(clock, tmp_path, ScriptedSampler(clock))
    run_ticks(session, clock, 30)
    (channel,) = session.telemetry(PERIOD * 5 + 1, PERIOD * 8 - 1).channels
    assert channel.at_ns == tuple(n * PERIOD for n in (5, 6, 7, 8))
    whole = session.telemetry()
    assert cut(whole, PERIOD * 5 + 1, PERIOD * 8 - 1).channels == (channel,)
    assert cut(whole, PERIOD * 50, PERIOD * 60).channels[0].at_ns == (29 * PERIOD,)
    assert session.covers(29 * PERIOD)
    assert not session.covers(29 * PERIOD + 1)


def test_missed_ticks_are_counted_in_their_span(tmp_path: Path) -> None:
    clock = Clock()
    session = scripted(clock, tmp_path, ScriptedSampler(clock))
    run_ticks(session, clock, 10)
    session.miss(3)
    run_ticks(session, clock, 10)
    assert session.telemetry().missed_ticks == 3
    assert session.telemetry(0, 5 * PERIOD).missed_ticks == 0


def test_a_lost_source_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    clock = Clock()
    session = scripted(clock, tmp_path, ScriptedSampler(clock, lost_after=10), ScriptedSampler(clock))
    run_ticks(session, clock, 40)
    telemetry = session.telemetry()
    assert telemetry.absent["scripted"] == "lost: the server is gone"
    assert telemetry.absent["rail"].startswith("lost: last reading")
    assert telemetry.absent["nvml"] == "no GPU"
    assert [len(channel.at_ns) for channel in telemetry.channels] == [10, 40]
    (taint,) = telemetry_taints(telemetry)
    assert taint.kind is TaintKind.SENSOR_LOST
    later = session.telemetry(30 * PERIOD, 39 * PERIOD)  # a later run: no such channel, and no taint
    assert len(later.channels) == 1
    assert telemetry_taints(later) == ()


def test_followed_processes_come_and_go(tmp_path: Path) -> None:
    clock = Clock()
    session = scripted(clock, tmp_path)
    board_tree.write(tmp_path / "proc/5/statm", "10 5 1 1 0 1 0")
    session.follow([5])
    session.tick()
    session.follow([])
    clock.now = now_ns()
    assert [channel.name for channel in session.telemetry(0, clock.now).channels] == ["rss of 5"]
    assert session.telemetry(clock.now, clock.now + 1).channels == ()


def flag(name: str, at_ns: tuple[int, ...], values: tuple[float, ...]) -> Channel:
    return Channel(
        name=name,
        quantity=Quantity.THROTTLE,
        source="sysfs",
        scope=name,
        quality=Quality.MEASURED,
        resolution=1.0,
        at_ns=at_ns,
        values=values,
    )


def test_throttling_taints_only_inside_the_run() -> None:
    def with_flag(value_inside: float) -> Telemetry:
        channel = flag("gpu-throttle-alert", (0, SECOND, 2 * SECOND, 3 * SECOND), (1.0, 0.0, value_inside, 1.0))
        return Telemetry(
            period_ns=PERIOD, missed_ticks=0, start_ns=SECOND // 2, end_ns=5 * SECOND // 2, channels=(channel,)
        )

    assert telemetry_taints(with_flag(0.0)) == ()
    (taint,) = telemetry_taints(with_flag(1.0))
    assert taint.kind is TaintKind.THROTTLED
    assert "gpu-throttle-alert" in taint.detail


def test_server_survives_nonsense_and_splits_lines() -> None:
    commands, send = os.pipe()
    events, answer = os.pipe()
    clock = Clock()
    session = Session(Found(samplers=(), absent={}), root=Path("/"), period_ns=PERIOD, clock=clock)
    span = protocol.encode(protocol.Command(collect=(1, 2)))
    os.write(send, b"not json\n" + span + span[:5])
    os.write(send, span[5:] + protocol.encode(protocol.Command(stop=True)))
    Server(session, Lines(commands), answer).run([])
    os.close(answer)
    with open(events, "rb") as stream:  # noqa: PTH123  # a descriptor, no path
        answers = [protocol.decode_telemetry(line) for line in stream]
    assert [(telemetry.start_ns, telemetry.end_ns) for telemetry in answers] == [(1, 2), (1, 2), (0, 0)]
    os.close(commands)
    os.close(send)


# --- the real process -------------------------------------------------------------------------------------------------


def start(root: Path, period_ns: int = 20_000_000) -> SamplerHandle:
    return SamplerHandle.start(protocol.Start(root=str(root), period_ns=period_ns))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f"never: {what}")


def test_handshake_collection_and_stop(tmp_path: Path) -> None:
    board_tree.jetson(tmp_path)
    handle = start(tmp_path)
    assert handle.ready.channels[0].name == "VDD_IN"
    assert handle.ready.channels[0].at_ns == ()
    start_ns = now_ns()
    time.sleep(0.2)
    end_ns = now_ns()
    telemetry = handle.collect(start_ns, end_ns)
    power = telemetry.channels[0]
    assert power.at_ns[0] <= start_ns + handle_period(telemetry)
    assert power.at_ns[-1] >= end_ns
    assert power.values[0] == pytest.approx(6979.072)
    whole = handle.stop()
    assert whole is not None
    assert len(whole.channels[0].at_ns) >= len(power.at_ns)
    assert gone(handle.pid)


def handle_period(telemetry: Telemetry) -> int:
    return telemetry.period_ns * 50  # generous: two cores, shared


def test_this_machine_without_power_sensor_gives_a_reason_and_no_number(tmp_path: Path) -> None:
    with start(tmp_path) as handle:
        now = now_ns()
        telemetry = handle.collect(now, now + 1)
    quantities = {channel.quantity for channel in telemetry.channels}
    assert not quantities & {Quantity.POWER_MW, Quantity.ENERGY_MJ}
    assert telemetry.absent["energy"].startswith("no sensor: ")


def test_a_paused_sampler_uses_no_cpu_and_wakes_up(tmp_path: Path) -> None:
    with start(board_tree.jetson(tmp_path), period_ns=1_000_000) as handle:
        handle.pause(True)
        process = psutil.Process(handle.pid)
        wait_until(lambda: _quiet(process), "a pause without CPU time")
        paused_ns = now_ns()
        handle.pause(False)
        telemetry = handle.collect(paused_ns, now_ns() + 50_000_000)
    assert sum(at_ns > paused_ns for at_ns in telemetry.channels[0].at_ns) > 1


def _quiet(process: psutil.Process) -> bool:
    before = sum(process.cpu_times()[:2])
    time.sleep(0.1)
    return sum(process.cpu_times()[:2]) == before


def test_a_killed_worker_does_not_disturb_the_sampler(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with SamplerHandle.start(protocol.Start(period_ns=10_000_000, pids=(worker.pid,))) as handle:
        start_ns = now_ns()
        time.sleep(0.1)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        killed_ns = now_ns()
        time.sleep(0.1)
        telemetry = handle.collect(start_ns, now_ns())
    channels = {channel.name: channel for channel in telemetry.channels}
    assert channels[f"rss of {worker.pid}"].at_ns[-1] <= killed_ns
    assert channels["MemAvailable"].at_ns[-1] > killed_ns


PARENT = """
import signal, sys, time
from harness.study.sampler import SamplerHandle
from harness.telemetry_protocol import Start
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
handle = SamplerHandle.start(Start(root=sys.argv[1]))
print(handle.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_parent_leaves_no_orphan(tmp_path: Path, signal_number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.send_signal(signal_number)
        wait_until(lambda: gone(pid), "the end of the sampler")


def test_closing_stdin_ends_the_sampler_with_one_answer(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.measure.telemetry"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    out, _ = process.communicate(protocol.encode(protocol.Start(root=str(tmp_path))), timeout=30)
    ready, last = out.splitlines()
    assert protocol.decode_ready(ready).ready
    assert protocol.decode_telemetry(last).start_ns > 0
    assert process.returncode == 0


def test_a_dead_sampler_is_told_and_stop_is_bounded(tmp_path: Path) -> None:
    handle = start(tmp_path)
    os.kill(handle.pid, signal.SIGKILL)
    with pytest.raises(SamplerLost, match="has ended"):
        handle.collect(0, 1)
    assert handle.stop() is None


def test_a_hung_sampler_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.study.sampler.ANSWER_S", 0.2)
    monkeypatch.setattr("harness.study.sampler._STOP_S", 0.2)
    handle = start(tmp_path)
    os.kill(handle.pid, signal.SIGSTOP)
    assert handle.stop() is None
    assert gone(handle.pid)


@pytest.mark.parametrize("words", [b"[1", b'{"ready":"\xff"}', b"[" * 99_999], ids=["json", "text", "bomb"])
def test_a_sampler_that_begins_with_nonsense_is_lost(tmp_path: Path, words: bytes) -> None:
    """A study then goes on without telemetry; any other error would end it."""
    impostor = tmp_path / "python"
    (tmp_path / "words").write_bytes(words + b"\n")
    impostor.write_text(f'#!/bin/sh\nread line\ncat "{tmp_path}/words" >"/dev/fd/$4"\n')
    impostor.chmod(0o755)
    with pytest.raises(SamplerLost, match="began with nonsense"):
        SamplerHandle.start(protocol.Start(root=str(tmp_path)), python=impostor)
