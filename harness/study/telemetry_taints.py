"""What telemetry says against a run that ended well; pure, over the record's own structs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import msgspec

from harness.records import Channel, Measured, Taint, Telemetry
from harness.terms import BurstKind, Quantity, TaintKind
from harness.units import NS_PER_S, human_bytes, ns_to_s

_ENERGY = (Quantity.POWER_MW, Quantity.ENERGY_MJ)
_LOST_PERIODS = 5
IDLE_DRIFT = 0.05  # idle power before and after may differ by this share of their mean
IDLE_READINGS = 5  # in each idle window; fewer tell nothing
PINNED_TOLERANCE = 0.02  # pinned clocks may be read this far from where they stood most of the time
SWAPPED_BYTES = 4_000_000  # of swap taken while the run was at work


def telemetry_taints(
    telemetry: Telemetry, measured: Measured | None = None, *, clocks_pinned: bool = False
) -> tuple[Taint, ...]:
    """Throttling, clocks that left their place, lost energy sensors, swapping, and an idle power that drifted.

    A sensor that was lost in an earlier run has no channel here: its reason stands in `absent`, speed is not touched.

    Args:
        telemetry: of the run.
        measured: its bursts tell when it was at work; without them only what concerns the whole run is judged.
        clocks_pinned: the device profile demands fixed clocks (elsewhere they follow the load).
    """
    return (
        *_throttled(telemetry),
        *_lost(telemetry),
        *_idle_drifts(telemetry),
        *_swapped(telemetry, measured),
        *(_clock_changes(telemetry, measured) if clocks_pinned else ()),
    )


def _throttled(telemetry: Telemetry) -> Iterator[Taint]:
    for channel in telemetry.channels:
        if channel.quantity is Quantity.THROTTLE and any(
            value > 0 for value in _within(channel, telemetry.start_ns, telemetry.end_ns)
        ):
            yield Taint(kind=TaintKind.THROTTLED, detail=f"{channel.source}: {channel.name}")


def _within(channel: Channel, start_ns: int, end_ns: int) -> list[float]:
    """Values inside a span; its neighbours outside do not count."""
    samples = zip(channel.at_ns, channel.values, strict=True)
    return [value for at_ns, value in samples if start_ns <= at_ns <= end_ns]


def _lost(telemetry: Telemetry) -> Iterator[Taint]:
    for channel in telemetry.channels:
        silent_ns = _silent_ns(channel, telemetry)
        if channel.quantity in _ENERGY and silent_ns:
            detail = f"{channel.source}: {channel.name} fell silent {ns_to_s(silent_ns):.1f} s before the end"
            yield Taint(kind=TaintKind.SENSOR_LOST, detail=detail)


def _silent_ns(channel: Channel, telemetry: Telemetry) -> int:
    """How long a channel had been silent at the end of the span; 0 when it was alive."""
    silent_ns = telemetry.end_ns - (channel.at_ns[-1] if channel.at_ns else telemetry.start_ns)
    return silent_ns if silent_ns > max(_LOST_PERIODS * telemetry.period_ns, NS_PER_S) else 0


def _idle_drifts(telemetry: Telemetry) -> Iterator[Taint]:
    """Of channels that are no part of another; it spoils net energy alone, which analysis leaves out."""
    windows = sorted(telemetry.idle_windows)
    if len(windows) < 2:
        return
    for channel in telemetry.channels:
        if channel.quantity not in _ENERGY or channel.part_of:
            continue
        before_mw, after_mw = (_mean_mw(channel, *window) for window in (windows[0], windows[-1]))
        if before_mw is None or after_mw is None or before_mw + after_mw <= 0:
            continue
        drift = 2 * abs(after_mw - before_mw) / (before_mw + after_mw)
        if drift > IDLE_DRIFT:
            words = f"{channel.source}: idle {channel.name} drew {before_mw:.0f} mW before and {after_mw:.0f} mW after"
            yield Taint(kind=TaintKind.IDLE_DRIFT, detail=f"{words}, {drift:.1%} apart: no net energy")


def _mean_mw(channel: Channel, start_ns: int, end_ns: int) -> float | None:
    samples = [pair for pair in zip(channel.at_ns, channel.values, strict=True) if start_ns <= pair[0] <= end_ns]
    if len(samples) < IDLE_READINGS:
        return None
    if channel.quantity is Quantity.POWER_MW:
        return statistics.fmean(value for _, value in samples)
    (first_ns, first_mj), (last_ns, last_mj) = samples[0], samples[-1]
    wrapped_mj = channel.wrap_at if channel.wrap_at and last_mj < first_mj else 0.0
    return (last_mj - first_mj + wrapped_mj) / ns_to_s(last_ns - first_ns)


def _work_span(measured: Measured | None) -> tuple[int, int] | None:
    bursts = [burst for burst in measured.bursts if burst.kind is not BurstKind.IDLE] if measured else []
    return (min(b.start_ns for b in bursts), max(b.end_ns for b in bursts)) if bursts else None


def _swapped(telemetry: Telemetry, measured: Measured | None) -> Iterator[Taint]:
    """Swap that was taken between the first burst and the last: somebody's memory, perhaps ours, went to the disk."""
    span = _work_span(measured)
    for channel in telemetry.channels:
        if span is None or channel.name != "SwapFree":
            continue
        values = _within(channel, *span)
        taken = max(values) - values[-1] if values else 0.0
        if taken > SWAPPED_BYTES:
            detail = f"{human_bytes(taken)} of swap were taken during the bursts"
            yield Taint(kind=TaintKind.SWAPPED, detail=detail)


def _clock_changes(telemetry: Telemetry, measured: Measured | None) -> Iterator[Taint]:
    span = _work_span(measured)
    for channel in telemetry.channels:
        if span is None or channel.quantity is not Quantity.CLOCK_MHZ:
            continue
        values = _within(channel, *span)
        usual = statistics.median(values) if values else 0.0
        furthest = max(values, key=lambda value: abs(value - usual), default=usual)
        if abs(furthest - usual) > PINNED_TOLERANCE * usual:
            detail = f"{channel.source}: {channel.name} was at {furthest:.0f} MHz, pinned at {usual:.0f} MHz"
            yield Taint(kind=TaintKind.CLOCK_CHANGED, detail=detail)


def with_doubts(telemetry: Telemetry) -> Telemetry:
    """The telemetry with a reason under `absent` for each energy channel that can't be believed on sight.

    A sensor that reads zero all the time looks complete in a record. Analysis holds every channel against more rules.
    """
    doubts = {c.name: doubt for c in telemetry.channels if c.quantity in _ENERGY and (doubt := _doubt(c))}
    return msgspec.structs.replace(telemetry, absent=telemetry.absent | doubts) if doubts else telemetry


def _doubt(channel: Channel) -> str:
    values = channel.values
    if values and not any(values):
        return f"no energy: zero in all of {len(values)} readings"
    if len(values) > 1 and min(values) == max(values):
        return f"no energy: constant, {len(values)} readings of {values[0]:g}"
    return "no energy: negative readings" if values and min(values) < 0 else ""
