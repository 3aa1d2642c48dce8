"""Energy per token: which channel said it, with which error, gross and less the idle power; or the reason why not.

Every figure speaks of one channel (source, name, scope, quality). Figures of different channels are never added, and a
ratio exists only between figures of the same channel. Rules after MLPerf power and Zeus: idle windows before and after,
one clock for windows and readings.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.energy_truth import ENERGY, Readings, fault
from harness.analysis.energy_windows import Curve, Floats, WindowEnergies, combined_error_mj, joined
from harness.analysis.stats import Interval, interval_of_mean
from harness.records import Struct, Telemetry
from harness.terms import BurstKind, Quality, Quantity
from harness.units import NS_PER_S

SHORT_UPDATES = 20  # fewer distinct readings: `short_window`, the interval says so
FEWEST_UPDATES = 5  # fewer still: no joule
FEWEST_IDLE_READINGS = 5
IDLE_DRIFT = 0.05  # idle power before and after may differ by this share of their mean
LEFT_OUT_SHARE = 0.5  # of the windows may lack readings
MANY_RUNS = 100  # more are taken as one series, in the order of the plan: their mean tells little of any one process
MJ_PER_J = 1000.0


class Window(Struct, frozen=True):
    """A stretch of work on the monotonic clock."""

    kind: BurstKind
    start_ns: int
    end_ns: int
    tokens: int


class RunPower(Struct, frozen=True):
    """What one run gives to energy."""

    run_id: str
    telemetry: Telemetry
    windows: tuple[Window, ...]
    drifted: bool = False  # the record says that idle power differed before and after


class ChannelId(Struct, frozen=True):
    """What must agree before joules may be pooled or compared."""

    source: str
    name: str
    scope: str
    quality: Quality
    quantity: Quantity

    def __str__(self) -> str:
        return f"{self.scope} [{self.source}, {self.quality.value}]"


class EnergyFigure(Struct, frozen=True):
    """Joules per token of one channel and one kind of window, over the runs of a cell.

    Intervals hold both the spread over windows (bootstrap, 95 %; from 6 windows on) and the stated instrument error.
    """

    channel: ChannelId
    kind: BurstKind
    run_ids: tuple[str, ...]
    windows: int
    windows_left_out: int  # not covered by readings, or with a gap
    tokens: int
    duration_ns: int
    updates: int  # distinct readings inside the windows
    short_window: bool
    gross_mj: float
    error_mj: float  # instrument only
    gross_j_per_token: Interval
    idle_mw: float | None = None
    idle_drift: float | None = None  # |after - before| over their mean
    net_j_per_token: Interval | None = None
    net_absent: str = ""
    drifted_run_ids: tuple[str, ...] = ()  # left out of net energy, not of gross


class Refusal(Struct, frozen=True):
    """A channel that yields no joule, and why."""

    channel: ChannelId
    kind: BurstKind | None  # null: the channel as a whole
    run_id: str
    reason: str


class CellEnergy(Struct, frozen=True):
    """Energy of one cell: figures in the order of the channels, widest first."""

    figures: tuple[EnergyFigure, ...]
    refusals: tuple[Refusal, ...]
    unavailable: str = ""  # "no sensor: ..." when not a single figure could be given

    def of_kind(self, kind: BurstKind) -> tuple[EnergyFigure, ...]:
        """Figures of prefill or of decode."""
        return tuple(figure for figure in self.figures if figure.kind is kind)


@dataclass(frozen=True, kw_only=True)
class _Idle:
    """Idle power of one run."""

    mean_mw: float
    error_mw: float
    drift: float  # |after - before| over their mean


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One run's share of a figure: its windows that have an energy."""

    run_id: str
    energies: WindowEnergies
    tokens: Floats
    durations_ns: Floats
    left_out: int  # windows without an energy
    update_ns: float
    idle: _Idle | str  # or why there is none
    drifted: bool


@dataclass(frozen=True, kw_only=True)
class _Pool:
    """All windows of several runs; arrays are joined once, because runs may be thousands."""

    energies: tuple[WindowEnergies, ...]
    energy_mj: Floats
    tokens: Floats
    durations_ns: Floats
    ends: tuple[int, ...]  # where the windows of each run end

    @classmethod
    def of(cls, parts: Sequence[_Part]) -> _Pool:
        energies = tuple(part.energies for part in parts)
        return cls(
            energies=energies,
            energy_mj=joined(energies, "energy_mj"),
            tokens=np.concatenate([part.tokens for part in parts]),
            durations_ns=np.concatenate([part.durations_ns for part in parts]),
            ends=tuple(itertools.accumulate(part.tokens.size for part in parts)),
        )

    @property
    def duration_s(self) -> float:
        return float(self.durations_ns.sum()) / NS_PER_S


def cell_energy(
    runs: Sequence[RunPower], kinds: Sequence[BurstKind] = (BurstKind.DECODE, BurstKind.PREFILL)
) -> CellEnergy:
    """Energy of runs that pool, by channel and kind of window.

    Runs whose channel fails the truth gate are left out of that channel's figures and listed as refusals.
    """
    parts: dict[tuple[ChannelId, BurstKind], list[_Part]] = {}
    refusals: list[Refusal] = []
    for run in runs:
        channels = [Readings.of(channel) for channel in run.telemetry.channels if channel.quantity in ENERGY]
        for readings in channels:
            _add_channel(run, readings, channels, kinds, parts, refusals)
    figures = []
    for (channel_id, kind), shares in parts.items():
        figure = _figure(channel_id, kind, shares)
        if isinstance(figure, str):
            refusals.append(Refusal(channel=channel_id, kind=kind, run_id=shares[0].run_id, reason=figure))
        else:
            figures.append(figure)
    unavailable = "" if figures else _unavailable(runs, refusals)
    return CellEnergy(figures=tuple(figures), refusals=tuple(refusals), unavailable=unavailable)


def _unavailable(runs: Sequence[RunPower], refusals: Sequence[Refusal]) -> str:
    if refusals:
        return "; ".join(dict.fromkeys(f"{r.channel.source} {r.channel.name}: {r.reason}" for r in refusals))
    reasons = (run.telemetry.absent.get("energy", "") for run in runs)
    return next((reason for reason in reasons if reason), "no sensor: no power or energy channel in the records")


def _add_channel(
    run: RunPower,
    readings: Readings,
    channels: Sequence[Readings],
    kinds: Sequence[BurstKind],
    parts: dict[tuple[ChannelId, BurstKind], list[_Part]],
    refusals: list[Refusal],
) -> None:
    channel = readings.channel
    key = ChannelId(
        source=channel.source,
        name=channel.name,
        scope=channel.scope,
        quality=channel.quality,
        quantity=channel.quantity,
    )
    work = [(window.start_ns, window.end_ns) for window in run.windows if window.kind is not BurstKind.IDLE]
    reason = fault(readings, channels, work)
    if reason:
        refusals.append(Refusal(channel=key, kind=None, run_id=run.run_id, reason=reason))
        return
    curve = Curve(readings)
    spans = _idle_spans(run)
    asked = {kind: [window for window in run.windows if window.kind is kind and window.tokens > 0] for kind in kinds}
    work = [(window.start_ns, window.end_ns) for windows in asked.values() for window in windows]
    found = curve.windows(*np.array([*spans, *work], dtype=np.int64).reshape(-1, 2).T)  # one call: runs are many
    idle = _idle(found.part(0, len(spans)), spans)
    start = len(spans)
    for kind, windows in asked.items():
        energies = found.part(start, start + len(windows))
        start += len(windows)
        if not windows:
            continue
        part = _part(run, curve, windows, energies, idle)
        if isinstance(part, str):
            refusals.append(Refusal(channel=key, kind=kind, run_id=run.run_id, reason=part))
        else:
            parts.setdefault((key, kind), []).append(part)


def _part(
    run: RunPower, curve: Curve, windows: Sequence[Window], energies: WindowEnergies, idle: _Idle | str
) -> _Part | str:
    good = energies.good
    left_out = int(np.count_nonzero(~good))
    if left_out > LEFT_OUT_SHARE * len(windows):
        first = next(reason for reason in energies.reasons if reason)
        return f"{left_out} of {len(windows)} windows have no energy: {first}"
    return _Part(
        run_id=run.run_id,
        energies=energies.kept(),
        tokens=np.array([window.tokens for window in windows], dtype=np.float64)[good],
        durations_ns=np.array([window.end_ns - window.start_ns for window in windows], dtype=np.float64)[good],
        left_out=left_out,
        update_ns=curve.update_ns,
        idle=idle,
        drifted=run.drifted or (isinstance(idle, _Idle) and idle.drift > IDLE_DRIFT),
    )


def _idle_spans(run: RunPower) -> list[tuple[int, int]]:
    """The first and the last idle window; empty where there are not two."""
    spans = [*run.telemetry.idle_windows]
    spans += [(window.start_ns, window.end_ns) for window in run.windows if window.kind is BurstKind.IDLE]
    spans.sort()
    return [spans[0], spans[-1]] if len(spans) > 1 else []


def _idle(energies: WindowEnergies, spans: Sequence[tuple[int, int]]) -> _Idle | str:
    """Mean idle power, its error, and the drift between before and after; or why there is none."""
    if not spans:
        return "no idle windows before and after"
    reason = next((reason for reason in energies.reasons if reason), "")
    if reason:
        return f"idle: {reason}"
    fewest = int(energies.readings.min())
    if fewest < FEWEST_IDLE_READINGS:
        return f"idle: {fewest} readings, at least {FEWEST_IDLE_READINGS} needed"
    seconds = np.array([end - start for start, end in spans]) / NS_PER_S
    before_mw, after_mw = energies.energy_mj / seconds
    errors_mw = (energies.biased_mj + energies.free_mj + energies.hidden_mj) / seconds
    mean_mw, spread_mw = float(before_mw + after_mw) / 2, abs(float(after_mw - before_mw))
    drift = spread_mw / mean_mw if mean_mw else 0.0
    return _Idle(mean_mw=mean_mw, error_mw=float(errors_mw.max()) + spread_mw / 2, drift=drift)


def _figure(channel: ChannelId, kind: BurstKind, parts: Sequence[_Part]) -> EnergyFigure | str:
    pool = _Pool.of(parts)
    updates = int(joined(pool.energies, "updates").sum())
    if updates < FEWEST_UPDATES:
        return _too_short(pool, max(part.update_ns for part in parts), updates)
    error_mj = combined_error_mj(pool.energies)
    idle = _pooled_idle(parts)
    drifts = [part.idle.drift for part in parts if isinstance(part.idle, _Idle)]
    return EnergyFigure(
        channel=channel,
        kind=kind,
        run_ids=tuple(part.run_id for part in parts),
        windows=pool.tokens.size,
        windows_left_out=sum(part.left_out for part in parts),
        tokens=int(pool.tokens.sum()),
        duration_ns=int(pool.durations_ns.sum()),
        updates=updates,
        short_window=updates < SHORT_UPDATES,
        gross_mj=float(pool.energy_mj.sum()),
        error_mj=error_mj,
        gross_j_per_token=_per_token(pool, error_mj, idle_mw=0.0),
        idle_mw=None if isinstance(idle, str) else idle.mean_mw,
        idle_drift=max(drifts, default=None),
        net_j_per_token=None if isinstance(idle, str) else _net(_Pool.of(_steady(parts)), idle),
        net_absent=idle if isinstance(idle, str) else "",
        drifted_run_ids=tuple(part.run_id for part in parts if part.drifted),
    )


def _too_short(pool: _Pool, update_ns: float, updates: int) -> str:
    """Why a handful of readings gives no joule, in numbers."""
    usual_s, update_s = float(np.median(pool.durations_ns)) / NS_PER_S, update_ns / NS_PER_S
    return (
        f"short_window: windows of {usual_s:.3g} s are shorter than {FEWEST_UPDATES} sensor updates, one every "
        f"{update_s:.2g} s; all {pool.tokens.size} windows together saw {updates}"
    )


def _steady(parts: Sequence[_Part]) -> list[_Part]:
    """Runs whose idle power is known and did not drift: net energy rests on these alone."""
    return [part for part in parts if isinstance(part.idle, _Idle) and not part.drifted]


def _pooled_idle(parts: Sequence[_Part]) -> _Idle | str:
    """Idle of all steady runs: mean power, largest error, largest drift; or why no run has one."""
    known = [part.idle for part in _steady(parts) if isinstance(part.idle, _Idle)]
    if not known:
        drifts = [part.idle.drift for part in parts if isinstance(part.idle, _Idle)]
        reasons = [part.idle for part in parts if isinstance(part.idle, str)]
        return f"idle power drifted by {max(drifts):.1%}" if drifts else reasons[0]
    means = [idle.mean_mw for idle in known]
    error_mw = max(idle.error_mw for idle in known) + (max(means) - min(means)) / 2
    return _Idle(mean_mw=sum(means) / len(means), error_mw=error_mw, drift=max(idle.drift for idle in known))


def _net(pool: _Pool, idle: _Idle) -> Interval:
    error_mj = combined_error_mj(pool.energies) + idle.error_mw * pool.duration_s
    return _per_token(pool, error_mj, idle_mw=idle.mean_mw)


def _per_token(pool: _Pool, error_mj: float, *, idle_mw: float) -> Interval:
    """Total joules over total tokens; the interval is the bootstrap's over windows, widened by the instrument's error.

    The ratio of sums is linearized about itself, so that windows of unequal length weigh by their tokens.
    """
    joules = (pool.energy_mj - idle_mw * pool.durations_ns / NS_PER_S) / MJ_PER_J
    total = float(pool.tokens.sum())
    ratio = float(joules.sum()) / total
    values = ratio + (joules - ratio * pool.tokens) / (total / pool.tokens.size)
    series = [values] if len(pool.ends) > MANY_RUNS else np.split(values, pool.ends[:-1])
    spread = interval_of_mean([one for one in series if one.size])
    margin = error_mj / MJ_PER_J / total
    low, high = (ratio if bound is None else bound for bound in (spread.low, spread.high))
    return Interval(
        value=ratio,
        low=low - margin,
        high=high + margin,
        n=spread.n,
        cohorts=spread.cohorts,
        block_length=spread.block_length,
        lag1=spread.lag1,
    )


def energy_ratio(candidate: EnergyFigure, baseline: EnergyFigure, *, net: bool = False) -> Interval | str:
    """Joules per token of one cell over those of another, or why they must not be divided.

    The interval is the widest that both intervals allow. Different scopes, sources or qualities are refused.
    """
    if candidate.channel != baseline.channel:
        return f"not comparable: {candidate.channel} against {baseline.channel}"
    if candidate.kind is not baseline.kind:
        return f"not comparable: {candidate.kind.value} against {baseline.kind.value}"
    above = candidate.net_j_per_token if net else candidate.gross_j_per_token
    below = baseline.net_j_per_token if net else baseline.gross_j_per_token
    if above is None or below is None:
        return candidate.net_absent or baseline.net_absent
    if not below.low or below.low <= 0 or above.low is None or above.high is None or below.high is None:
        return "the baseline's energy does not differ from zero within its error"
    return Interval(
        value=above.value / below.value,
        low=above.low / below.high,
        high=above.high / below.low,
        n=min(above.n, below.n),
        cohorts=min(above.cohorts, below.cohorts),
    )
