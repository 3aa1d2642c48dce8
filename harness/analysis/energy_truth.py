"""The truth gate: a channel that is zero, constant, missing, mislabelled, stale or wrapped yields a reason, no joule.

A telemetry that looks complete can still be wrong: sensors have read zero on real boards for whole studies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.records import Channel
from harness.terms import Quantity
from harness.units import NS_PER_S, ns_to_s

Floats = NDArray[np.float64]
Window = tuple[int, int]

ENERGY = (Quantity.POWER_MW, Quantity.ENERGY_MJ)
STALE_UPDATES = 20  # a reading that stays for this many usual updates, at work, is stuck
PLAUSIBLE_MW = (10.0, 5e6)  # outside it a unit has been mistaken: 10 mW to 5 kW
_RAIL_SOURCES = ("jtop", "ina3221", "tegrastats")


def fault(channel: Channel, others: Sequence[Channel], work: Sequence[Window]) -> str:
    """Why a power or energy channel must not be believed; empty when nothing speaks against it.

    Args:
        channel: the channel.
        others: all channels of the telemetry; parts are held against their whole.
        work: windows in which something computed.
    """
    at_ns, values = np.asarray(channel.at_ns, dtype=np.int64), np.asarray(channel.values, dtype=np.float64)
    reasons = (_shape(at_ns, values), _range(channel, values), _label(channel))
    early = next((reason for reason in reasons if reason), "")
    if early:
        return early
    if channel.quantity is Quantity.ENERGY_MJ:
        wrapped = _wrap(channel, at_ns, values)
        if wrapped:
            return wrapped
    return _stale(at_ns, values, work) or _power(channel) or _parts(channel, others)


def _shape(at_ns: NDArray[np.int64], values: Floats) -> str:
    if len(values) < 2 or len(at_ns) != len(values):
        return f"missing: {len(values)} readings"
    if np.any(np.diff(at_ns) <= 0):
        return "clock: timestamps do not rise"
    return "" if np.all(np.isfinite(values)) else "a reading is no number"


def _range(channel: Channel, values: Floats) -> str:
    if np.all(values == 0):
        return "zero: the sensor reads 0 all the time"
    if np.all(values == values[0]):
        return f"constant: {len(values)} readings of {values[0]:g}"
    if np.any(values < 0):
        return "negative readings"
    zeros = int(np.count_nonzero(values == 0)) if channel.quantity is Quantity.POWER_MW else 0
    return f"zero: {zeros} of {len(values)} readings are 0" if zeros else ""


def _label(channel: Channel) -> str:
    if channel.source in _RAIL_SOURCES and channel.name not in channel.scope:
        return f"mislabelled: the scope {channel.scope!r} does not name the rail {channel.name}"
    return "" if channel.scope else "mislabelled: no scope"


def _power(channel: Channel) -> str:
    mean = mean_mw(channel)
    low, high = PLAUSIBLE_MW
    return "" if low <= mean <= high else f"mislabelled: a mean of {mean:.3g} mW, the unit can't be right"


def _parts(channel: Channel, others: Sequence[Channel]) -> str:
    """A part can't draw more than the whole that includes it: then one of the two labels is wrong."""
    if channel.part_of:
        pairs = [(channel, other) for other in others if _same_make(channel, other) and other.name == channel.part_of]
    else:
        pairs = [(other, channel) for other in others if _same_make(channel, other) and other.part_of == channel.name]
    for part, whole in pairs:
        if len(part.values) > 1 and mean_mw(part) > mean_mw(whole) + max(part.resolution, whole.resolution):
            return f"mislabelled: {part.name} draws more than {whole.name}, which includes it"
    return ""


def _same_make(one: Channel, other: Channel) -> bool:
    return one.source == other.source and one.quantity is other.quantity and len(other.values) > 1


def mean_mw(channel: Channel) -> float:
    """Mean power over all readings; of a counter, its whole rise over its whole time."""
    values = np.asarray(channel.values, dtype=np.float64)
    if channel.quantity is Quantity.POWER_MW:
        return float(values.mean())
    rise = unwrapped(values, channel.wrap_at)
    return float(rise[-1] - rise[0]) / ns_to_s(channel.at_ns[-1] - channel.at_ns[0])


def unwrapped(values: Floats, wrap_at: float | None) -> Floats:
    """A counter without its falls: each fall is one wrap."""
    if wrap_at is None:
        return values
    return values + wrap_at * np.concatenate([[0], np.cumsum(np.diff(values) < 0)])


def _wrap(channel: Channel, at_ns: NDArray[np.int64], values: Floats) -> str:
    """Falls must be explained by the known wrap, and no interval may hide a second one."""
    falls = np.diff(values) < 0
    if not falls.any() and channel.wrap_at is None:
        return ""
    if channel.wrap_at is None:
        return f"wrapped: the counter falls {int(falls.sum())} times and its range is not known"
    rises = np.diff(unwrapped(values, channel.wrap_at))
    power_mw = rises / np.diff(at_ns) * NS_PER_S
    plain = power_mw[~falls]
    if plain.size == 0 or np.any(power_mw[falls] > 10 * plain.max() + channel.resolution):
        return "wrapped: a fall of the counter is no wrap, it was set back"
    longest_s = float(np.diff(at_ns).max()) / NS_PER_S
    if longest_s * plain.max() > channel.wrap_at / 2:
        return f"wrapped: it may have wrapped twice within the longest gap of {longest_s:.1f} s"
    return ""


def update_period_ns(at_ns: NDArray[np.int64], values: Floats) -> float:
    """Median time between two changes of the reading; the whole time when it changed less than twice."""
    changes = at_ns[1:][values[1:] != values[:-1]]
    return median(changes[1:] - changes[:-1]) if len(changes) > 1 else float(at_ns[-1] - at_ns[0])


def median(values: NDArray[np.int64] | Floats) -> float:
    """As `numpy.median`, several times faster on the short arrays of one run."""
    ordered = np.sort(values)
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _stale(at_ns: NDArray[np.int64], values: Floats, work: Sequence[Window]) -> str:
    """The first long stretch at work without a change, against the usual time between changes."""
    edges = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1, [len(values) - 1]])
    starts, ends = at_ns[edges[:-1]], at_ns[edges[1:]]
    usual_ns = max(update_period_ns(at_ns, values), median(at_ns[1:] - at_ns[:-1]))
    limit_ns = STALE_UPDATES * usual_ns
    many = edges[1:] - edges[:-1] >= STALE_UPDATES  # few readings in a long time: a gap, not a stuck value
    stuck = (ends - starts > limit_ns) & many
    if not stuck.any():
        return ""
    stuck &= _worked_ns(ends, work) - _worked_ns(starts, work) > limit_ns
    if not stuck.any():
        return ""
    first = int(np.argmax(stuck))
    still_s, usual_s = ns_to_s(float(ends[first] - starts[first])), ns_to_s(usual_ns)
    return f"stale: no change for {still_s:.1f} s, usual is {usual_s:.2f} s"


def _worked_ns(moments: NDArray[np.int64], work: Sequence[Window]) -> NDArray[np.int64]:
    """Time at work up to each moment, over all windows."""
    total = np.zeros(len(moments), dtype=np.int64)
    if not work:
        return total
    origin = min(begin for begin, _ in work)  # keeps the sums small
    since = np.maximum(moments - origin, 0)
    for sign, bounds in ((1, [begin for begin, _ in work]), (-1, [stop for _, stop in work])):
        ordered = np.sort(np.array(bounds, dtype=np.int64) - origin)
        sums = np.concatenate([[0], np.cumsum(ordered)])
        before = np.searchsorted(ordered, since, side="right")
        total += sign * (before * since - sums[before])
    return total
