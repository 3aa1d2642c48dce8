"""What telemetry says against a run that ended well; pure, over the record's own structs."""

from __future__ import annotations

from harness.records import Channel, Taint, Telemetry
from harness.terms import Quantity, TaintKind
from harness.units import NS_PER_S, ns_to_s

_ENERGY = (Quantity.POWER_MW, Quantity.ENERGY_MJ)
_LOST_PERIODS = 5


def telemetry_taints(telemetry: Telemetry) -> tuple[Taint, ...]:
    """Throttling seen during the run, and energy sensors that fell silent before its end.

    A sensor that was lost in an earlier run has no channel here: its reason stands in `absent`, speed is not touched.
    """
    throttled = [c for c in telemetry.channels if c.quantity is Quantity.THROTTLE and _active(c, telemetry)]
    lost = [c for c in telemetry.channels if c.quantity in _ENERGY and _silent_ns(c, telemetry)]
    taints = [Taint(kind=TaintKind.THROTTLED, detail=f"{c.source}: {c.name}") for c in throttled]
    taints += [Taint(kind=TaintKind.SENSOR_LOST, detail=_words(c, telemetry)) for c in lost]
    return tuple(taints)


def _active(channel: Channel, telemetry: Telemetry) -> bool:
    """Whether the flag was up at a sample inside the span (the neighbours outside it do not count)."""
    samples = zip(channel.at_ns, channel.values, strict=True)
    return any(value > 0 for at_ns, value in samples if telemetry.start_ns <= at_ns <= telemetry.end_ns)


def _silent_ns(channel: Channel, telemetry: Telemetry) -> int:
    """How long a channel had been silent at the end of the span; 0 when it was alive."""
    silent_ns = telemetry.end_ns - (channel.at_ns[-1] if channel.at_ns else telemetry.start_ns)
    return silent_ns if silent_ns > max(_LOST_PERIODS * telemetry.period_ns, NS_PER_S) else 0


def _words(channel: Channel, telemetry: Telemetry) -> str:
    seconds = ns_to_s(_silent_ns(channel, telemetry))
    return f"{channel.source}: {channel.name} fell silent {seconds:.1f} s before the end"
