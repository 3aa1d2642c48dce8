"""What a run's telemetry and the state of the machine say against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import pytest
import studies

from harness.records import Burst, Channel, Measured, Record, Telemetry
from harness.study import store as storing
from harness.study.machine_state import MachineState, state_taints
from harness.study.sampler import SamplerHandle
from harness.study.store import RUNS, Store
from harness.study.telemetry_taints import telemetry_taints, with_doubts
from harness.telemetry_protocol import Ready
from harness.terms import BurstKind, Quality, Quantity, TaintKind

SECOND = 1_000_000_000
PERIOD = 100_000_000


def channel(name: str, quantity: Quantity, values: Sequence[float], *, part_of: str = "") -> Channel:
    """One reading every 100 ms from 0 on."""
    return Channel(
        name=name,
        quantity=quantity,
        source="scripted",
        scope=name,
        quality=Quality.MEASURED,
        resolution=1.0,
        at_ns=tuple(place * PERIOD for place in range(len(values))),
        values=tuple(values),
        part_of=part_of,
    )


def telemetry(*channels: Channel, idle: tuple[tuple[int, int], ...] = ()) -> Telemetry:
    return Telemetry(
        period_ns=PERIOD, missed_ticks=0, start_ns=0, end_ns=10 * SECOND, channels=channels, idle_windows=idle
    )


def work(start_s: float, end_s: float) -> Measured:
    burst = Burst(
        kind=BurstKind.DECODE,
        round=0,
        position=0,
        start_ns=int(start_s * SECOND),
        end_ns=int(end_s * SECOND),
        tokens=1,
        engine_ns=1,
    )
    return Measured(load_ns=1, warmup=None, bursts=(burst,), memory=None)


IDLE = ((0, 2 * SECOND), (8 * SECOND, 10 * SECOND))


def rail(before_mw: float, after_mw: float, *, part_of: str = "") -> Channel:
    wobble = [0.0, 3.0] * 50
    levels = [before_mw] * 25 + [9000.0] * 50 + [after_mw] * 26
    return channel(
        "VDD_IN", Quantity.POWER_MW, [a + b for a, b in zip(levels, [*wobble, 0.0], strict=True)], part_of=part_of
    )


@pytest.mark.parametrize(("after_mw", "taints"), [(4000.0, 0), (4150.0, 0), (4300.0, 1), (3700.0, 1)])
def test_idle_power_that_drifted_by_over_five_percent_taints(after_mw: float, taints: int) -> None:
    found = telemetry_taints(telemetry(rail(4000.0, after_mw), idle=IDLE))
    assert [taint.kind for taint in found] == [TaintKind.IDLE_DRIFT] * taints
    if taints:
        assert "before and" in found[0].detail
        assert "no net energy" in found[0].detail


def test_idle_drift_needs_two_windows_with_readings_and_a_channel_that_is_no_part() -> None:
    assert telemetry_taints(telemetry(rail(4000.0, 5000.0))) == ()
    assert telemetry_taints(telemetry(rail(4000.0, 5000.0), idle=IDLE[:1])) == ()
    short = ((0, PERIOD), (9 * SECOND, 9 * SECOND + PERIOD))
    assert telemetry_taints(telemetry(rail(4000.0, 5000.0), idle=short)) == ()
    assert telemetry_taints(telemetry(rail(4000.0, 5000.0, part_of="VIN"), idle=IDLE)) == ()


def test_idle_drift_of_a_counter_is_that_of_its_differences() -> None:
    powers_mw = [4000.0] * 50 + [4400.0] * 51
    totals = [sum(powers_mw[:place]) / 10 for place in range(101)]
    (taint,) = telemetry_taints(telemetry(channel("package-0", Quantity.ENERGY_MJ, totals), idle=IDLE))
    assert taint.kind is TaintKind.IDLE_DRIFT
    assert "4000 mW before and 4400 mW after" in taint.detail


def test_swap_taken_during_the_bursts_taints() -> None:
    free = channel("SwapFree", Quantity.MEMORY_BYTES, [9e9] * 40 + [8.9e9] * 61)
    (taint,) = telemetry_taints(telemetry(free), work(1, 9))
    assert taint.kind is TaintKind.SWAPPED
    assert "100 MB" in taint.detail
    assert telemetry_taints(telemetry(free), work(5, 9)) == ()  # it was taken before
    assert telemetry_taints(telemetry(free)) == ()  # nothing was at work
    freed = channel("SwapFree", Quantity.MEMORY_BYTES, [8e9] * 40 + [9e9] * 61)
    assert telemetry_taints(telemetry(freed), work(1, 9)) == ()


def test_a_pinned_clock_that_left_its_place_taints() -> None:
    clock = channel("gpu clock", Quantity.CLOCK_MHZ, [625.0] * 60 + [306.0] * 3 + [625.0] * 38)
    assert telemetry_taints(telemetry(clock), work(1, 9)) == ()  # clocks that follow the load may do so
    (taint,) = telemetry_taints(telemetry(clock), work(1, 9), clocks_pinned=True)
    assert taint.kind is TaintKind.CLOCK_CHANGED
    assert "306 MHz, pinned at 625 MHz" in taint.detail
    assert telemetry_taints(telemetry(clock), work(1, 5), clocks_pinned=True) == ()


@pytest.mark.parametrize(
    ("values", "word"), [([0.0] * 20, "zero"), ([5000.0] * 20, "constant"), ([5000.0, -1.0], "negative")]
)
def test_a_record_says_of_a_channel_that_can_not_be_believed(values: list[float], word: str) -> None:
    doubted = with_doubts(telemetry(channel("VDD_SOC", Quantity.POWER_MW, values)))
    assert word in doubted.absent["VDD_SOC"]
    assert doubted.channels[0].values == tuple(values)


def test_good_channels_are_not_doubted() -> None:
    fine = telemetry(rail(4000.0, 4000.0), channel("tj", Quantity.TEMPERATURE_CELSIUS, [50.0] * 20))
    assert with_doubts(fine) is fine


def state(mode: str = "nvpmodel 15W", *, saving: bool | None = None, battery: bool | None = False) -> MachineState:
    return MachineState(power_mode=mode, saving=saving, on_battery=battery)


def test_what_changed_under_a_run_taints() -> None:
    assert state_taints(state(), state()) == ()
    (changed,) = state_taints(state(), state("nvpmodel 25W"))
    assert changed.kind is TaintKind.POWER_MODE_CHANGED
    assert changed.detail == "nvpmodel 15W when the run began, nvpmodel 25W at its end"
    assert [taint.kind for taint in state_taints(state(), state(saving=True))] == [TaintKind.LOW_POWER_MODE]
    assert [taint.kind for taint in state_taints(state(battery=True), state())] == [TaintKind.ON_BATTERY]


# --- in a study ---


class Rising:
    """Stands for the sampler: a rail that draws more and more from the start of a run to its end."""

    ready = Ready(ready=True, channels=(channel("VDD_IN", Quantity.POWER_MW, []),), absent={})

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        moments = range(start_ns, end_ns, 1_000_000)
        values = tuple(4000.0 + 4000.0 * (at_ns - start_ns) / (end_ns - start_ns) for at_ns in moments)
        rail = msgspec.structs.replace(self.ready.channels[0], at_ns=tuple(moments), values=values)
        still = channel("VDD_SOC", Quantity.POWER_MW, [0.0, 0.0])
        return Telemetry(period_ns=PERIOD, missed_ticks=0, start_ns=start_ns, end_ns=end_ns, channels=(rail, still))


def records_of(folder: Path, sampler: Rising | None = None, idle_s: float = 0.0) -> list[Record]:
    store = Store.open(folder, resume=True)
    plan = studies.plan_of(studies.suite(studies.experiment(rounds=2)))
    study = replace(studies.study_of(store, studies.ThreadEnvironment(), plan), idle_s=idle_s)
    studies.run_study(study, sampler=cast("SamplerHandle | None", sampler))
    store.close()
    return list(storing.read(folder / RUNS))


def test_a_study_files_drift_and_doubts_in_its_records(tmp_path: Path) -> None:
    records = records_of(tmp_path, Rising(), idle_s=0.03)
    assert len(records) == 2
    for record in records:
        assert record.telemetry is not None
        assert len(record.telemetry.idle_windows) == 2
        assert TaintKind.IDLE_DRIFT in {taint.kind for taint in record.taints}
        assert "zero" in record.telemetry.absent["VDD_SOC"]
        assert "VDD_IN" not in record.telemetry.absent


def test_a_study_notices_another_power_mode_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([state(), state("nvpmodel 7W")])
    monkeypatch.setattr("harness.study.machine_state.read", lambda *_place: next(states))
    for record in records_of(tmp_path):
        assert [taint.kind for taint in record.taints if taint.kind is TaintKind.POWER_MODE_CHANGED]
        assert record.measured is not None  # what it measured is kept, and left out with this reason
