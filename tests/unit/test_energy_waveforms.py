"""Energy against the analytic integral: inside the stated error, or refused with a reason."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waves import PERIOD_NS, SECOND, Wave, counter_channel, energy, make_channel, only, power_channel, reason, wobble

from harness.analysis.energy import CellEnergy, RunPower, Window, cell_energy
from harness.records import Channel, Telemetry
from harness.terms import BurstKind


def test_ramp_is_exact_up_to_the_steps_of_the_sensor() -> None:
    wave = Wave((0.0, 10.0), (4000.0, 9000.0))
    figure = only(energy(power_channel(wave, span_s=10.0, step_mw=1.0), (1.234, 8.765)))
    truth = wave.energy_mj(1.234, 8.765)
    assert figure.gross_mj == pytest.approx(truth, rel=2e-4)
    assert abs(figure.gross_mj - truth) <= figure.error_mj
    assert figure.gross_j_per_token.value == pytest.approx(truth / 1000 / 10, rel=2e-4)


def test_edges_are_interpolated_not_rounded_to_readings() -> None:
    wave = Wave((0.0, 10.0), (1000.0, 21000.0))
    narrow = only(energy(power_channel(wave, span_s=10.0, step_mw=1.0), (2.05, 7.05)))
    wide = only(energy(power_channel(wave, span_s=10.0, step_mw=1.0), (2.0, 7.1)))
    assert wide.gross_mj - narrow.gross_mj == pytest.approx(
        wave.energy_mj(2.0, 2.05) + wave.energy_mj(7.05, 7.1), rel=1e-3
    )


def test_prefill_and_decode_windows_are_told_apart() -> None:
    wave = Wave((0.0, 5.0, 5.0, 10.0), (4000.0, 4500.0, 8000.0, 8800.0))
    channel = power_channel(wave, span_s=10.0, step_mw=8.0)
    telemetry = Telemetry(period_ns=PERIOD_NS, missed_ticks=0, start_ns=0, end_ns=10 * SECOND, channels=(channel,))
    windows = (
        Window(kind=BurstKind.PREFILL, start_ns=SECOND, end_ns=4 * SECOND, tokens=512),
        Window(kind=BurstKind.DECODE, start_ns=6 * SECOND, end_ns=9 * SECOND, tokens=90),
    )
    result = cell_energy([RunPower(run_id="r", telemetry=telemetry, windows=windows)])
    (prefill,), (decode,) = result.of_kind(BurstKind.PREFILL), result.of_kind(BurstKind.DECODE)
    assert abs(prefill.gross_mj - wave.energy_mj(1, 4)) <= prefill.error_mj < 0.1 * prefill.gross_mj
    assert abs(decode.gross_mj - wave.energy_mj(6, 9)) <= decode.error_mj < 0.1 * decode.gross_mj
    assert (prefill.tokens, decode.tokens) == (512, 90)


def test_net_energy_subtracts_idle_and_refuses_when_idle_drifts() -> None:
    steady = Wave((0.0, 3.0, 3.0, 13.0, 13.0, 16.0), (3000.0, 3040.0, 7000.0, 7400.0, 3040.0, 3000.0))
    figure = only(energy(power_channel(steady, span_s=16.0, step_mw=8.0), (4.0, 12.0), idle=((0.2, 2.8), (13.2, 15.8))))
    assert figure.net_j_per_token is not None
    truth = (steady.energy_mj(4, 12) - 3020.0 * 8) / 1000 / 10
    net = figure.net_j_per_token
    assert net.low is not None
    assert net.high is not None
    assert net.low <= truth <= net.high
    assert net.value == pytest.approx(truth, rel=0.01)
    drifted = Wave((0.0, 3.0, 3.0, 13.0, 13.0, 16.0), (3000.0, 3040.0, 7000.0, 7400.0, 3640.0, 3600.0))
    other = only(energy(power_channel(drifted, span_s=16.0), (4.0, 12.0), idle=((0.2, 2.8), (13.2, 15.8))))
    assert other.net_j_per_token is None
    assert "drifted" in other.net_absent
    assert other.gross_j_per_token.value > 0


def test_short_window_is_said_and_too_short_is_refused() -> None:
    wave = Wave((0.0, 10.0), (4000.0, 9000.0))
    assert only(energy(power_channel(wave, span_s=10.0), (2.0, 3.0))).short_window
    assert not only(energy(power_channel(wave, span_s=10.0), (2.0, 6.0))).short_window
    assert reason(energy(power_channel(wave, span_s=10.0), (2.0, 2.2))).startswith("short_window")


def test_readings_repeat_so_updates_count_not_polls() -> None:
    wave = Wave((0.0, 10.0), (4000.0, 9000.0))
    fresh = power_channel(wave, span_s=10.0, step_mw=1.0)
    values = [
        fresh.values[place - place % 10] for place in range(len(fresh.values))
    ]  # the sensor updates once a second
    figure = only(energy(make_channel(list(fresh.at_ns), values, 1.0), (1.0, 9.0)))
    assert figure.updates == 9
    assert figure.short_window
    assert abs(figure.gross_mj - wave.energy_mj(1, 9)) <= figure.error_mj


def test_gap_leaves_windows_out_and_refuses_when_most_are_gone() -> None:
    wave = wobble(6000.0, 12.0)
    whole = power_channel(wave, span_s=12.0)
    kept = [place for place, at_ns in enumerate(whole.at_ns) if not 4 * SECOND < at_ns < 5 * SECOND]
    holed = make_channel([whole.at_ns[p] for p in kept], [whole.values[p] for p in kept], 40.0)
    figure = only(energy(holed, (1.0, 3.0), (3.9, 5.1), (6.0, 8.0)))
    assert (figure.windows, figure.windows_left_out) == (2, 1)
    assert abs(figure.gross_mj - wave.energy_mj(1, 3) - wave.energy_mj(6, 8)) <= figure.error_mj
    assert "gap" in reason(energy(holed, (3.5, 5.5)))
    assert "not covered" in reason(energy(whole, (11.0, 14.0)))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([0.0] * 50, "zero"),
        ([5000.0] * 50, "constant"),
        ([5000.0 + n if n != 20 else 0.0 for n in range(50)], "zero"),
        ([5000.0 + n if n != 20 else math.nan for n in range(50)], "no number"),
        ([5000.0 - 400.0 * n for n in range(50)], "negative"),
        ([5.0 + n / 50 for n in range(50)], "mislabelled"),  # watts taken for milliwatts
        ([5e9 + n for n in range(50)], "mislabelled"),  # microwatts taken for milliwatts
        ([5000.0], "missing"),
    ],
)
def test_truth_gate_refuses_power(values: list[float], word: str) -> None:
    channel = make_channel([n * PERIOD_NS for n in range(len(values))], values, 1.0)
    assert word in reason(energy(channel, (1.0, 4.0)))


def test_truth_gate_refuses_a_clock_that_steps_back() -> None:
    whole = power_channel(wobble(6000.0, 10.0), span_s=10.0)
    at_ns = [at - (2 * SECOND if at > 5 * SECOND else 0) for at in whole.at_ns]
    assert "clock" in reason(energy(make_channel(at_ns, list(whole.values), 40.0), (1.0, 4.0)))


def test_clock_that_steps_ahead_is_a_gap() -> None:
    whole = power_channel(wobble(6000.0, 10.0), span_s=10.0)
    at_ns = [at + (2 * SECOND if at > 5 * SECOND else 0) for at in whole.at_ns]
    assert "gap" in reason(energy(make_channel(at_ns, list(whole.values), 40.0), (4.0, 8.0)))


def test_truth_gate_refuses_a_sensor_that_sticks_at_work() -> None:
    whole = power_channel(Wave((0.0, 20.0), (4000.0, 12000.0)), span_s=20.0, step_mw=1.0)
    values = [value if place < 80 else whole.values[80] for place, value in enumerate(whole.values)]
    assert "stale" in reason(energy(make_channel(list(whole.at_ns), values, 1.0), (1.0, 19.0)))
    late = [value if place < 60 else whole.values[60] for place, value in enumerate(whole.values)]
    idle_only = energy(make_channel(list(whole.at_ns), late, 1.0), (1.0, 5.5))
    assert only(idle_only).windows == 1  # nothing at work while it stood still


def test_truth_gate_refuses_a_rail_that_exceeds_its_whole() -> None:
    whole = power_channel(wobble(3000.0, 10.0), span_s=10.0)
    part = power_channel(wobble(5000.0, 10.0), span_s=10.0, name="VDD_SOC", scope="rail VDD_SOC", part_of="VDD_IN")
    telemetry = Telemetry(period_ns=PERIOD_NS, missed_ticks=0, start_ns=0, end_ns=10 * SECOND, channels=(whole, part))
    window = Window(kind=BurstKind.DECODE, start_ns=SECOND, end_ns=9 * SECOND, tokens=10)
    result = cell_energy([RunPower(run_id="r", telemetry=telemetry, windows=(window,))])
    assert not result.figures
    assert all("mislabelled" in refusal.reason for refusal in result.refusals)
    mislabelled = power_channel(wobble(5000.0, 10.0), span_s=10.0, name="VDD_CPU_GPU_CV", scope="CPU")
    assert "mislabelled" in reason(energy(mislabelled, (1.0, 9.0)))


def test_counter_wraps_within_its_known_range_only() -> None:
    wave = wobble(20000.0, 12.0)
    figure = only(energy(counter_channel(wave, span_s=12.0, wrap_at=70000.0, start_mj=3000.0), (1.0, 11.0)))
    assert abs(figure.gross_mj - wave.energy_mj(1, 11)) <= figure.error_mj < 0.05 * figure.gross_mj
    wrapped = counter_channel(wave, span_s=12.0, wrap_at=70000.0)
    assert "wrapped" in reason(energy(make_channel_like(wrapped, wrap_at=None), (1.0, 11.0)))
    assert "set back" in reason(energy(make_channel_like(wrapped, wrap_at=262_143_000.0), (1.0, 11.0)))
    assert "wrapped twice" in reason(energy(counter_channel(wave, span_s=12.0, wrap_at=3500.0), (1.0, 11.0)))


def make_channel_like(channel: Channel, *, wrap_at: float | None) -> Channel:
    return make_channel(
        list(channel.at_ns),
        list(channel.values),
        channel.resolution,
        name=channel.name,
        quantity=channel.quantity,
        source=channel.source,
        scope=channel.scope,
        wrap_at=wrap_at,
    )


@st.composite
def waves(draw: st.DrawFn) -> Wave:
    """Steps, ramps and single bursts shorter than the period, from 2 to 12 W."""
    times, powers = [0.0], [draw(st.floats(2000, 12000))]
    while times[-1] < 12.0:
        length = draw(st.floats(0.3, 4.0))
        jump = draw(st.booleans())
        level = draw(st.floats(2000, 12000))
        times += [times[-1], times[-1] + length] if jump else [times[-1] + length]
        powers += [level, level] if jump else [level]
    if draw(st.booleans()):
        return with_burst(
            Wave(tuple(times), tuple(powers)),
            draw(st.floats(1.0, 9.0)),
            draw(st.floats(0.001, 0.09)),
            draw(st.floats(100, min(powers))),  # at most twice what any reading shows
        )
    return Wave(tuple(times), tuple(powers))


def with_burst(wave: Wave, start_s: float, width_s: float, height_mw: float) -> Wave:
    """One rectangle on top, which readings every 100 ms may hit once or miss."""
    end_s = start_s + width_s
    nodes = sorted({*wave.times_s, start_s, end_s})
    times: list[float] = []
    powers: list[float] = []
    for t0, t1 in pairwise(nodes):
        inset = (t1 - t0) * 1e-9
        lift = height_mw if start_s <= (t0 + t1) / 2 <= end_s else 0.0
        times += [t0, t1]
        powers += [wave.at(t0 + inset) + lift, wave.at(t1 - inset) + lift]
    return Wave(tuple(times), tuple(powers))


def holds(result: CellEnergy, truth_mj: float) -> None:
    """The figure lies within its stated error, or there is a reason instead."""
    if not result.figures:
        assert result.refusals[0].reason
        return
    (figure,) = result.figures
    assert abs(figure.gross_mj - truth_mj) <= figure.error_mj * (1 + 1e-9)
    interval = figure.gross_j_per_token
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low <= truth_mj / 1000 / figure.tokens <= interval.high


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    waves(),
    st.floats(0, 0.099),
    st.floats(0.5, 4.0),
    st.floats(0.2, 6.0),
    st.sampled_from([1.0, 40.0, 100.0]),
    st.sampled_from([1, 1, 2, 3]),
)
def test_random_power_lies_within_the_stated_error(
    wave: Wave, phase_s: float, start_s: float, length_s: float, step_mw: float, polls_per_update: int
) -> None:
    fresh = power_channel(wave, span_s=12.0, phase_s=phase_s, step_mw=step_mw)
    held = [fresh.values[place - place % polls_per_update] for place in range(len(fresh.values))]
    channel = make_channel(list(fresh.at_ns), held, step_mw)
    end_s = start_s + length_s
    holds(energy(channel, (start_s, end_s)), wave.energy_mj(start_s, end_s))


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    waves(),
    st.sampled_from([0.2, 0.25, 0.34, 0.5]),
    st.floats(0, 0.5),
    st.lists(st.tuples(st.floats(0.5, 9.0), st.floats(0.3, 2.5)), min_size=1, max_size=8),
    st.booleans(),
)
def test_sensors_with_a_clock_of_their_own_lie_within_the_stated_error(
    wave: Wave, update_s: float, phase_s: float, windows: list[tuple[float, float]], cut: bool
) -> None:
    """Updates fall between readings, several windows are added up, and the sensor may cut where others round."""
    at_s = [n * 0.1 for n in range(121)]
    sampled = [wave.at(max(0.0, math.floor((second - phase_s) / update_s) * update_s + phase_s)) for second in at_s]
    values = [math.floor(power / 40.0) * 40.0 if cut else round(power / 40.0) * 40.0 for power in sampled]
    channel = make_channel([int(second * SECOND) for second in at_s], values, 40.0)
    spans = [(start_s, min(start_s + length_s, 11.9)) for start_s, length_s in windows]
    holds(energy(channel, *spans), sum(wave.energy_mj(*span) for span in spans))


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    waves(),
    st.floats(0.5, 4.0),
    st.floats(0.2, 6.0),
    st.sampled_from([None, 20000.0, 262_143.0]),
    st.sampled_from([None, 1_000_000]),
)
def test_random_counters_lie_within_the_stated_error(
    wave: Wave, start_s: float, length_s: float, wrap_at: float | None, update_ns: int | None
) -> None:
    channel = counter_channel(wave, span_s=12.0, wrap_at=wrap_at)
    end_s = start_s + length_s
    holds(
        energy(msgspec.structs.replace(channel, update_ns=update_ns), (start_s, end_s)), wave.energy_mj(start_s, end_s)
    )


@st.composite
def bursts_from_idle(draw: st.DrawFn) -> tuple[Wave, list[tuple[float, float]]]:
    """Equal bursts of work out of an idle level: power jumps at both edges of every window, or a little inside."""
    locked = draw(st.booleans())  # everything a multiple of the sampling period: errors have one sign throughout
    length, pause = draw(st.integers(4, 20)) / 10, draw(st.integers(3, 9)) / 10
    length, pause = (length, pause) if locked else (length * 1.017, pause * 0.983)
    late = draw(st.sampled_from([0.0, 0.0, 0.03, 0.12]))
    idle, work = draw(st.floats(3000, 5000)), draw(st.floats(5500, 12000))
    times, powers, windows = [0.0], [idle], []
    for number in range(draw(st.integers(2, 14))):
        start = 1.0 + number * (length + pause)
        windows.append((start, start + length))
        stirred = [work + 90.0 * ((3 * number + k) % 5 - 2) for k in range(2)]
        times += [start + late, start + late, start + length - late, start + length - late]
        powers += [powers[-1], stirred[0], stirred[1], idle + 45.0 * (number % 3)]
    return Wave((*times, times[-1] + 3.0), (*powers, idle)), windows


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(bursts_from_idle(), st.sampled_from([0.0, 0.0, 0.017, 0.05, 0.093]), st.sampled_from([1.0, 40.0]))
def test_random_bursts_from_idle_lie_within_the_stated_error(
    bursts: tuple[Wave, list[tuple[float, float]]], phase_s: float, step_mw: float
) -> None:
    wave, windows = bursts
    channel = power_channel(wave, span_s=wave.times_s[-1] - 0.1, phase_s=phase_s, step_mw=step_mw)
    holds(energy(channel, *windows), sum(wave.energy_mj(*window) for window in windows))


def noisy(level_mw: float, span_s: float) -> Wave:
    """A level that moves by a few sensor steps from reading to reading, as real ones do."""
    count = int(span_s / 0.1) + 2
    return Wave(tuple(n * 0.1 for n in range(count)), tuple(level_mw + 97.0 * (n * 7 % 5 - 2) for n in range(count)))


def test_the_stated_error_of_steady_work_is_a_few_percent() -> None:
    """Twenty bursts of two seconds on a Jetson's rail (steps of 40 mW): the bound must be of use."""
    wave = noisy(7000.0, 60.0)
    bursts = [(1.0 + 2.9 * n, 3.0 + 2.9 * n) for n in range(20)]
    figure = only(energy(power_channel(wave, span_s=60.0), *bursts))
    truth = sum(wave.energy_mj(*burst) for burst in bursts)
    assert abs(figure.gross_mj - truth) <= figure.error_mj < 0.02 * figure.gross_mj


def test_a_counter_whose_maker_states_its_pace_is_known_better() -> None:
    wave = noisy(20_000.0, 12.0)
    unknown = counter_channel(wave, span_s=12.0, wrap_at=None)
    stated = msgspec.structs.replace(unknown, update_ns=1_000_000)
    loose, tight = (only(energy(channel, (1.03, 3.07))) for channel in (unknown, stated))
    assert tight.gross_mj == loose.gross_mj
    assert abs(tight.gross_mj - wave.energy_mj(1.03, 3.07)) <= tight.error_mj < 0.01 * tight.gross_mj
    assert loose.error_mj > 4 * tight.error_mj


def test_a_hidden_transient_counts_once_a_figure() -> None:
    wave = noisy(7000.0, 60.0)
    channel = power_channel(wave, span_s=60.0)
    one = only(energy(channel, (1.0, 3.0)))
    ten = only(energy(channel, *((1.0 + 5 * n, 3.0 + 5 * n) for n in range(10))))
    assert 10 * one.error_mj - ten.error_mj > 8 * 700.0  # a tenth of a second at 7 W is 700 mJ
