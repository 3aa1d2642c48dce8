"""Energy of windows from one channel: the trapezoid over power, differences of a counter, each with its stated error.

The error is a bound, not a standard deviation. Between two readings power may do anything as long as it does not leave
their span; what is hidden beyond that (one transient within one reading's time, at most as high as the highest reading
on top) is added once a figure. The sensor's own gain error is not known and not included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.energy_truth import unwrapped
from harness.records import Channel
from harness.terms import Quantity
from harness.units import NS_PER_S

Floats = NDArray[np.float64]
GAP_PERIODS = 3.0  # a hole longer than this many usual periods is a gap
_PACE_QUANTILE = 0.1
_REPEATS = 1.5  # readings come this much faster than updates: then a reading may be one update old


@dataclass(frozen=True, kw_only=True)
class WindowEnergy:
    """One window. Errors of kind `biased` add up over windows; those of kind `free` have a sign of their own each."""

    energy_mj: float
    biased_mj: float  # steps of the value; edges, where power jumps when a turn begins
    free_mj: float  # between readings inside; age of readings
    updates: int  # readings inside that differ from the one before
    readings: int


class Curve:
    """One channel, ready to be asked for windows."""

    def __init__(self, channel: Channel) -> None:
        """The channel must have passed `harness.analysis.energy_truth.fault`."""
        at_ns, values = np.asarray(channel.at_ns, dtype=np.int64), np.asarray(channel.values, dtype=np.float64)
        self._counter = channel.quantity is Quantity.ENERGY_MJ
        self._resolution = channel.resolution
        self._period_ns = float(np.median(np.diff(at_ns)))
        if self._counter:
            values = unwrapped(values, channel.wrap_at)
        self._changed_ns = at_ns[1:][np.diff(values) != 0]
        self._read_ns = at_ns
        self._age_ns = _age_ns(self._changed_ns, self._period_ns)
        if self._counter:  # between two updates a counter says nothing: only the first sight of each value counts
            keep = np.concatenate([[True], np.diff(values) != 0])
            at_ns, values = at_ns[keep], values[keep]
            self._age_ns = self._period_ns
        self._at_ns, self._values = at_ns.astype(np.float64), values
        self._power_mw = np.diff(values) / np.diff(at_ns) * NS_PER_S if self._counter else values

    @property
    def hidden_mj(self) -> float:
        """What one transient could hide between two readings of power; a counter misses nothing."""
        if self._counter:
            return 0.0
        return float(self._values.max()) * max(self._period_ns, self._age_ns) / NS_PER_S

    def window(self, start_ns: int, end_ns: int) -> WindowEnergy | str:
        """Energy of a window, or why there is none: not covered by readings, or with a gap."""
        refusal = self._coverage(start_ns, end_ns)
        if refusal:
            return refusal
        inside = (self._read_ns >= start_ns) & (self._read_ns <= end_ns)
        updates = int(np.count_nonzero((self._changed_ns >= start_ns) & (self._changed_ns <= end_ns)))
        measure = self._count if self._counter else self._trapezoid
        energy_mj, biased_mj, free_mj = measure(float(start_ns), float(end_ns))
        return WindowEnergy(
            energy_mj=energy_mj,
            biased_mj=biased_mj,
            free_mj=free_mj,
            updates=updates,
            readings=int(np.count_nonzero(inside)),
        )

    def _coverage(self, start_ns: int, end_ns: int) -> str:
        """Readings must reach over the window, up to one period short, and have no hole in it."""
        if end_ns <= start_ns:
            return "the window has no length"
        first, last = int(self._read_ns[0]), int(self._read_ns[-1])
        if start_ns < first - self._period_ns or end_ns > last + self._period_ns:
            return "the window is not covered by readings"
        inside = self._read_ns[(self._read_ns > start_ns) & (self._read_ns < end_ns)]
        holes = np.diff(np.concatenate([[start_ns], inside, [end_ns]]))
        return "a gap in the readings" if holes.max() > GAP_PERIODS * self._period_ns else ""

    def _trapezoid(self, start: float, end: float) -> tuple[float, float, float]:
        """(energy, biased error, free error) in mJ of power readings, edges interpolated."""
        at, power = self._near(start, end)
        inner = (at > start) & (at < end)
        xs = np.concatenate([[start], at[inner], [end]])
        ys = np.concatenate([[np.interp(start, at, power)], power[inner], [np.interp(end, at, power)]])
        energy = float(np.sum((ys[1:] + ys[:-1]) / 2 * np.diff(xs))) / NS_PER_S
        spans, jumps = np.diff(at), np.abs(np.diff(power))
        overlap = np.minimum(at[1:], end) - np.maximum(at[:-1], start) > 0
        at_edge = overlap & ((at[:-1] < start) | (at[1:] > end))
        edges = float(np.sum((jumps * spans)[at_edge])) / 2
        edges += float(power[0]) * max(0.0, at[0] - start) + float(power[-1]) * max(0.0, end - at[-1])
        free = float(np.sum((jumps * spans)[overlap & ~at_edge])) / 2 + float(np.sum(jumps[overlap])) * self._age_ns
        return energy, self._resolution * (end - start) / NS_PER_S + edges / NS_PER_S, free / NS_PER_S

    def _near(self, start: float, end: float) -> tuple[Floats, Floats]:
        """Readings of a window and one on either side; a neighbour beyond a gap is left out."""
        at = self._at_ns
        first = max(0, int(np.searchsorted(at, start)) - 1)
        stop = min(len(at), int(np.searchsorted(at, end, side="right")) + 1)
        limit = GAP_PERIODS * self._period_ns
        if at[first] < start - limit and first + 1 < stop:
            first += 1
        if at[stop - 1] > end + limit and stop - 1 > first:
            stop -= 1
        return at[first:stop], self._values[first:stop]

    def _count(self, start: float, end: float) -> tuple[float, float, float]:
        """(energy, biased error, free error) in mJ of a counter, its value at the edges interpolated."""
        at = self._at_ns
        before, after = np.interp([start, end], at, self._values)
        edges, highest = 0.0, 0.0
        for edge in (start, end):
            place = int(np.clip(np.searchsorted(at, edge) - 1, 0, len(self._power_mw) - 1))
            around = self._power_mw[max(0, place - 1) : place + 2]
            edges += float(around.max() - around.min()) * float(at[place + 1] - at[place]) / 2
            edges += float(around.max()) * max(0.0, at[0] - edge, edge - at[-1])
            highest = max(highest, float(around.max()))
        return float(after - before), 2 * self._resolution + edges / NS_PER_S, highest * self._age_ns / NS_PER_S


def _age_ns(changed_ns: NDArray[np.int64], period_ns: float) -> float:
    """How old a reading may be because the sensor renews it more slowly than it is read; 0 when it keeps up.

    The shortest times between changes tell the sensor's pace: long ones may only mean that the power stood still.
    """
    if len(changed_ns) < 2:
        return 0.0
    shortest = float(np.quantile(np.diff(changed_ns), _PACE_QUANTILE))
    return shortest + period_ns if shortest > _REPEATS * period_ns else 0.0


def combined_error_mj(windows: Sequence[WindowEnergy]) -> float:
    """Error of the sum of windows: biased parts add up; free ones, each within its bound, to three sigma of the sum."""
    free = np.array([window.free_mj for window in windows])
    together = min(float(free.sum()), float(np.sqrt(3 * np.sum(free**2))))
    return sum(window.biased_mj for window in windows) + together
