"""Energy of windows from one channel: the trapezoid over power, differences of a counter, each with its stated error.

The error is a bound under these assumptions, none of which a reading can prove:

- *steps*: a reading lies within one step of the truth, rounded or cut. Half a step may have one sign throughout (a
  sensor that cuts); the other half has a sign of its own each time the reading changes.
- *sampling*: between two readings power stays within their span. Where inside a span it moves is chance, so that such
  errors add up like independent uniform ones, to three sigma, and never to more than their plain sum.
- *edges*: the piece of a span that a window takes may hold either end of the span; since power jumps where a turn
  begins and ends, these errors have one sign in every window and add up plainly, and so do those of the next two spans.
- *age*: a sensor that is renewed more slowly than it is read is as old as the time between two readings, or half the
  time between two changes. An age that is always the same only matters where power at the edges differs. A sensor that
  was once seen to change at several readings in a row is not slow: its readings are taken as fresh.
- *hidden*: once a figure, a transient that no reading hit, shorter than the time between two updates, with at most as
  much energy as the window takes in that time. A counter misses nothing, but does not tell on which side of an edge a
  transient lay.

Chance errors are independent of the hidden transient: the two are joined by the root of their squares. The sensor's own
gain error is not known and not included. Sources: MLPerf's power rules; JCGM 100 (GUM) 4.3.7 and 5.1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.energy_truth import Readings, median, unwrapped
from harness.terms import Quantity
from harness.units import NS_PER_S

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_ARRAYS = ("energy_mj", "biased_mj", "free_mj", "free_squares", "hidden_mj", "updates", "readings")
_Bounded = tuple[Floats, Floats, Floats, Floats, Floats]  # energy, biased, free, squares of free, hidden
GAP_PERIODS = 3.0  # a hole longer than this many usual periods is a gap
NOT_COVERED = "the window is not covered by readings"
GAP = "a gap in the readings"
_PACE_QUANTILE = 0.1
_REPEATS = 1.5  # readings come this much faster than updates: then several stand for one update
_FRESH_RUN = 8  # changes at readings in a row: a sensor slower than the readings by an eighth would have repeated one
_EDGE_SPANS = 2  # whole spans next to an edge in which a turn's jump of power may lie
_SIGMAS = 3.0  # of a sum of independent errors, each uniform within its bound: variance = bound squared over 3


@dataclass(frozen=True, kw_only=True)
class WindowEnergies:
    """Windows of one curve, one element each; those with a reason have no energy and must be left out."""

    energy_mj: Floats
    biased_mj: Floats  # bound of errors that have one sign in all windows
    free_mj: Floats  # sum of the bounds of errors with a sign of their own
    free_squares: Floats  # sum of their squares
    hidden_mj: Floats  # what one transient could hide: counts once a figure
    updates: Ints  # readings inside that differ from the one before
    readings: Ints
    reasons: tuple[str, ...]

    def part(self, start: int, stop: int) -> WindowEnergies:
        """Some of the windows."""
        arrays = {name: getattr(self, name)[start:stop] for name in _ARRAYS}
        return WindowEnergies(**arrays, reasons=self.reasons[start:stop])

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which windows have an energy."""
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)

    def kept(self) -> WindowEnergies:
        """The windows that have an energy."""
        if not any(self.reasons):
            return self
        good = self.good
        arrays = {name: getattr(self, name)[good] for name in _ARRAYS}
        return WindowEnergies(**arrays, reasons=("",) * int(np.count_nonzero(good)))


class Curve:
    """One channel, ready to be asked for windows."""

    def __init__(self, readings: Readings) -> None:
        """The channel must have passed `harness.analysis.energy_truth.fault`."""
        channel, at_ns, values = readings.channel, readings.at_ns, readings.values
        self._counter = channel.quantity is Quantity.ENERGY_MJ
        self._step = channel.resolution
        self._origin_ns = int(at_ns[0])
        self._read = (at_ns - self._origin_ns).astype(np.float64)
        gaps = self._read[1:] - self._read[:-1]
        self._period = median(gaps)
        if self._counter:
            values = unwrapped(values, channel.wrap_at)
        changes = np.concatenate([[True], values[1:] != values[:-1]])
        self._changed = self._read[1:][changes[1:]]
        pace = _pace(self._changed, self._period)
        self._update = max(self._period, pace)
        if self._counter:  # between two updates a counter says nothing: only the first sight of each value counts
            keep, self._age = changes, min(self._period, channel.update_ns or self._period)
        else:
            keep = _fresh(self._read, changes, pace)
            self._age = max(self._period, pace / 2) if self._repeats() else 0.0
        self._at, self._values = self._read[keep], values[keep]
        self._spans, self._rises = self._at[1:] - self._at[:-1], self._values[1:] - self._values[:-1]
        self._holes = np.flatnonzero(gaps > GAP_PERIODS * self._period)

    def _repeats(self) -> bool:
        """Whether readings never changed several times in a row."""
        breaks = np.flatnonzero(self._changed[1:] - self._changed[:-1] > _REPEATS * self._period)
        borders = np.concatenate([[-1], breaks, [len(self._changed) - 1]])
        return bool((borders[1:] - borders[:-1]).max() < _FRESH_RUN)

    @property
    def update_ns(self) -> float:
        """Usual time between two readings that may differ."""
        return self._update

    def windows(self, start_ns: Sequence[int] | Ints, end_ns: Sequence[int] | Ints) -> WindowEnergies:
        """Energy of windows, or for each why there is none: not covered by readings, or with a gap."""
        starts = (np.asarray(start_ns, dtype=np.int64) - self._origin_ns).astype(np.float64)
        ends = (np.asarray(end_ns, dtype=np.int64) - self._origin_ns).astype(np.float64)
        reasons = self._coverage(starts, ends)
        updates = _count(self._changed, starts, ends)
        measure = self._differences if self._counter else self._trapezoids
        energy, biased, free, squares, hidden = measure(starts, ends, updates)
        return WindowEnergies(
            energy_mj=energy,
            biased_mj=biased,
            free_mj=free,
            free_squares=squares,
            hidden_mj=hidden,
            updates=updates,
            readings=_count(self._read, starts, ends),
            reasons=reasons,
        )

    def _coverage(self, starts: Floats, ends: Floats) -> tuple[str, ...]:
        """Readings must reach over the window, up to one period short, and have no hole in it."""
        first, last = self._read[0] - self._period, self._read[-1] + self._period
        outside = (starts < first) | (ends > last)
        holed = ends <= starts
        if not self._holes.size and not outside.any() and not holed.any():
            return ("",) * starts.size
        for place in self._holes:
            left, right = self._read[place], self._read[place + 1]
            clipped = np.minimum(ends, right) - np.maximum(starts, left)
            holed |= (clipped > GAP_PERIODS * self._period) | ((starts > left) & (ends < right))
        words = np.where(outside, NOT_COVERED, np.where(holed, GAP, ""))
        return tuple(np.where(ends <= starts, "the window has no length", words).tolist())

    def _trapezoids(self, starts: Floats, ends: Floats, updates: Ints) -> _Bounded:
        """Energy of power readings, edges interpolated, and the bounds of its error; all in mJ."""
        cut = self._cut(starts, ends)
        count = starts.size
        both = np.concatenate([cut.left, cut.right])
        levels, primitives = np.interp(both, self._at, self._values), self._primitive(both)
        held = levels[:count] * (cut.left - starts) + levels[count:] * (ends - cut.right)  # no reading lies beyond
        energy = primitives[count:] - primitives[:count] + held
        spans = np.abs(self._rises) * (self._spans + self._age) / 2
        inner = np.minimum(cut.first + _EDGE_SPANS, np.maximum(cut.last, cut.first))  # spans between are chance alone
        outer = np.maximum(cut.last - _EDGE_SPANS, inner)
        free, squares = (_between(values, inner, outer) for values in (spans, spans**2))
        edges = held + self._edge_pieces(cut) + _between(spans, cut.first, inner) + _between(spans, outer, cut.last)
        edges += self._age * self._swing(cut) if self._age else 0.0
        steps = self._step * (ends - starts) / 2
        chance = steps * np.minimum(1.0, np.sqrt(3.0 / np.maximum(updates, 1)))
        hidden = energy / np.maximum(ends - starts, 1.0) * self._update
        to_mj = 1 / NS_PER_S
        return (
            energy * to_mj,
            (edges + steps) * to_mj,
            (free + chance) * to_mj,
            (squares + chance**2) * to_mj**2,
            hidden * to_mj,
        )

    def _cut(self, starts: Floats, ends: Floats) -> _Cut:
        """Windows as far as readings reach: nothing is interpolated over a hole or beyond the readings."""
        at = self._at
        holes = np.append(self._spans > GAP_PERIODS * self._update, True)
        first = np.searchsorted(at, starts, side="right")
        last = np.searchsorted(at, ends, side="left") - 1
        near, far = at[np.minimum(first, len(at) - 1)], at[np.maximum(last, 0)]
        no_left, no_right = (first == 0) | holes[np.maximum(first - 1, 0)], (last < 0) | holes[np.maximum(last, 0)]
        left = np.where(no_left, np.minimum(np.maximum(near, starts), ends), starts)
        right = np.where(no_right, np.minimum(np.maximum(far, left), ends), ends)
        return _Cut(left=left, right=np.maximum(left, right), first=first, last=last, near=near, far=far)

    def _edge_pieces(self, cut: _Cut) -> Floats:
        """Bounds of the two pieces of spans that a window cuts off, or of the one piece that it is."""
        alone = cut.last < cut.first
        near = np.where(alone, cut.right, np.minimum(np.maximum(cut.near, cut.left), cut.right))
        far = np.where(alone, cut.right, np.minimum(np.maximum(cut.far, cut.left), cut.right))
        pieces = self._piece(np.concatenate([cut.left, far]), np.concatenate([near, cut.right]))
        return pieces[: alone.size] + pieces[alone.size :]

    def _swing(self, cut: _Cut) -> Floats:
        """By how much power at one edge may differ from that at the other, when it may jump at both."""
        lows, highs = [], []
        for moments in (cut.left, cut.right):
            place = self._span_of(moments)
            pair = np.stack([self._values[place], self._values[place + 1]])
            lows.append(pair.min(axis=0))
            highs.append(pair.max(axis=0))
        swing: Floats = np.maximum(highs[1] - lows[0], highs[0] - lows[1])
        return swing

    def _span_of(self, moments: Floats) -> Ints:
        """Index of the span between two readings that holds each moment, or is nearest to it."""
        return np.minimum(np.maximum(np.searchsorted(self._at, moments, side="right") - 1, 0), len(self._at) - 2)

    def _primitive(self, moments: Floats) -> Floats:
        """Integral of the interpolated power from the first reading to each moment within the readings."""
        at, power = self._at, self._values
        sums = np.concatenate([[0.0], np.cumsum((power[1:] + power[:-1]) / 2 * self._spans)])
        place = self._span_of(moments)
        into = moments - at[place]
        slopes = self._rises[place] / self._spans[place]
        primitive: Floats = sums[place] + power[place] * into + slopes * into**2 / 2
        return primitive

    def _piece(self, starts: Floats, ends: Floats) -> Floats:
        """Bound of the error of a piece of one span: it may hold either end of the span throughout."""
        middles = (starts + ends) / 2
        place = self._span_of(middles)
        level = np.interp(middles, self._at, self._values)
        away = np.maximum(np.abs(self._values[place] - level), np.abs(self._values[place + 1] - level))
        bound: Floats = away * (ends - starts)
        return bound

    def _differences(self, starts: Floats, ends: Floats, _updates: Ints) -> _Bounded:
        """Energy of a counter, its value at the edges interpolated, and the bounds of its error; all in mJ."""
        power = self._rises / self._spans
        energy = np.interp(ends, self._at, self._values) - np.interp(starts, self._at, self._values)
        edges, hidden, highest = np.zeros(starts.size), np.zeros(starts.size), np.zeros(starts.size)
        for moments in (starts, ends):
            place = self._span_of(moments)
            around = np.stack([power[np.clip(place + shift, 0, len(power) - 1)] for shift in (-1, 0, 1)])
            top, span = around.max(axis=0), self._spans[place]
            swing, into = top - around.min(axis=0), np.clip(moments - self._at[place], 0.0, span)
            beyond = np.maximum(0.0, np.maximum(self._at[0] - moments, moments - self._at[-1]))
            edges += swing * into * (1 - into / span) + top * beyond  # any course within the swing, the span's sum kept
            hidden = np.maximum(hidden, swing * np.maximum(into, span - into))
            highest = np.maximum(highest, top)
        free = highest * self._age
        return energy, edges + self._step, free, free**2, hidden


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """Windows against the readings of power; one element a window."""

    left: Floats  # where interpolation begins and ends
    right: Floats
    first: Ints  # first reading after the start
    last: Ints  # last reading before the end
    near: Floats  # their moments
    far: Floats


def _count(moments: Floats, starts: Floats, ends: Floats) -> Ints:
    """How many moments lie in each window, both edges included."""
    return np.searchsorted(moments, ends, side="right") - np.searchsorted(moments, starts, side="left")


def _between(values: Floats, first: Ints, last: Ints) -> Floats:
    """Sums of `values[first:last]`; 0 where that is empty."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    until = np.minimum(np.maximum(last, 0), len(values))
    return np.where(last > first, sums[until] - sums[np.minimum(first, len(values))], 0.0)


def _pace(changed: Floats, period: float) -> float:
    """Time between updates of a sensor that is renewed more slowly than it is read; 0 when it keeps up.

    The shortest times between changes tell the sensor's pace: long ones may only mean that the power stood still.
    """
    if len(changed) < 2:
        return 0.0
    gaps = np.sort(changed[1:] - changed[:-1])
    shortest = float(gaps[int(_PACE_QUANTILE * (len(gaps) - 1))])
    return shortest if shortest > _REPEATS * period else 0.0


def _fresh(read: Floats, changes: NDArray[np.bool_], pace: float) -> NDArray[np.bool_]:
    """Readings that may be updates: those that changed, and in between one every `pace`; with no pace all."""
    if not pace:
        return np.ones(len(read), dtype=np.bool_)
    seen = read[np.maximum.accumulate(np.where(changes, np.arange(len(read)), 0))]
    updates = np.floor((read - seen) / pace + 1e-6)
    keep = changes.copy()
    keep[1:] |= updates[1:] > np.where(changes[1:], np.inf, updates[:-1])
    keep[-1] = True
    return keep


def joined(parts: Sequence[WindowEnergies], name: str) -> Floats:
    """One field of all windows of several runs, which must be `kept` ones."""
    return np.concatenate([getattr(part, name) for part in parts])


def combined_error_mj(parts: Sequence[WindowEnergies]) -> float:
    """Bound of the error of the sum of all windows: biased parts add up, the others as independent errors do."""
    biased, free, squares = (float(joined(parts, name).sum()) for name in ("biased_mj", "free_mj", "free_squares"))
    hidden = float(joined(parts, "hidden_mj").max(initial=0.0))
    chance = min(free, _SIGMAS * float(np.sqrt(squares / 3)))
    return biased + float(np.hypot(chance, hidden))
