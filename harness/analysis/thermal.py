"""Temperatures of a run, reduced while it is read: the samples of a hundred thousand runs would not fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.views import BurstView
from harness.records import Struct, Telemetry
from harness.terms import BurstKind, Quantity


class Peak(Struct, frozen=True):
    """One temperature sensor while the run had work."""

    channel: str
    source: str
    first_celsius: float
    peak_celsius: float


def peaks(telemetry: Telemetry | None, bursts: Sequence[BurstView]) -> tuple[Peak, ...]:
    """Peaks between the first and the last burst, by name of the channel; empty where no sensor was read."""
    if telemetry is None:
        return ()
    busy = [burst for burst in bursts if burst.kind is not BurstKind.IDLE]
    start_ns = min((burst.start_ns for burst in busy), default=telemetry.start_ns)
    end_ns = max((burst.end_ns for burst in busy), default=telemetry.end_ns)
    found = []
    for channel in telemetry.channels:
        if channel.quantity is not Quantity.TEMPERATURE_CELSIUS:
            continue
        samples = zip(channel.at_ns, channel.values, strict=True)
        values = [value for at_ns, value in samples if start_ns <= at_ns <= end_ns]
        if values:
            peak = Peak(channel=channel.name, source=channel.source, first_celsius=values[0], peak_celsius=max(values))
            found.append(peak)
    return tuple(sorted(found, key=lambda peak: (peak.channel, peak.source)))
