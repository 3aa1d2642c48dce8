"""Energy per token: which channel said it, with which error, gross and less the idle power; or the reason why not.

Every figure speaks of one channel (source, name, scope, quality). Figures of different channels are never added, and a
ratio exists only between figures of the same channel. Rules after MLPerf power and Zeus: idle windows before and after,
one clock for windows and readings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.energy_truth import ENERGY, fault
from harness.analysis.energy_windows import Curve, WindowEnergy, combined_error_mj
from harness.analysis.stats import Interval, interval_of_mean
from harness.records import Burst, Channel, Struct, Telemetry
from harness.terms import BurstKind, Quality, Quantity
from harness.units import NS_PER_S

SHORT_UPDATES = 20  # fewer distinct readings: `short_window`, the interval says so
FEWEST_UPDATES = 5  # fewer still: no joule
FEWEST_IDLE_READINGS = 5
IDLE_DRIFT = 0.05  # idle power before and after may differ by this share of their mean
LEFT_OUT_SHARE = 0.5  # of the windows may lack readings
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


def windows_of(bursts: Iterable[Burst]) -> tuple[Window, ...]:
    """Bursts as windows; all of their tokens count, because all of their energy does."""
    return tuple(Window(kind=b.kind, start_ns=b.start_ns, end_ns=b.end_ns, tokens=b.tokens) for b in bursts)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One run's share of a figure."""

    run_id: str
    energies: tuple[WindowEnergy, ...]
    windows: tuple[Window, ...]
    left_out: int
    hidden_mj: float
    idle: tuple[float, float, float] | str  # mean mW, its error, drift; or why not


def cell_energy(
    runs: Sequence[RunPower], kinds: Sequence[BurstKind] = (BurstKind.DECODE, BurstKind.PREFILL)
) -> CellEnergy:
    """Energy of runs that pool, by channel and kind of window.

    Runs whose channel fails the truth gate are left out of that channel's figures and listed as refusals.
    """
    parts: dict[tuple[ChannelId, BurstKind], list[_Part]] = {}
    refusals: list[Refusal] = []
    for run in runs:
        for channel in run.telemetry.channels:
            if channel.quantity in ENERGY:
                _add_channel(run, channel, kinds, parts, refusals)
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
    channel: Channel,
    kinds: Sequence[BurstKind],
    parts: dict[tuple[ChannelId, BurstKind], list[_Part]],
    refusals: list[Refusal],
) -> None:
    key = ChannelId(
        source=channel.source,
        name=channel.name,
        scope=channel.scope,
        quality=channel.quality,
        quantity=channel.quantity,
    )
    work = [(window.start_ns, window.end_ns) for window in run.windows if window.kind is not BurstKind.IDLE]
    reason = fault(channel, run.telemetry.channels, work)
    if reason:
        refusals.append(Refusal(channel=key, kind=None, run_id=run.run_id, reason=reason))
        return
    curve = Curve(channel)
    idle = _idle(curve, run)
    for kind in kinds:
        windows = [window for window in run.windows if window.kind is kind and window.tokens > 0]
        part = _part(run.run_id, curve, windows, idle)
        if isinstance(part, str):
            refusals.append(Refusal(channel=key, kind=kind, run_id=run.run_id, reason=part))
        elif windows:
            parts.setdefault((key, kind), []).append(part)


def _part(run_id: str, curve: Curve, windows: Sequence[Window], idle: tuple[float, float, float] | str) -> _Part | str:
    asked = [(window, curve.window(window.start_ns, window.end_ns)) for window in windows]
    kept = [(window, energy) for window, energy in asked if not isinstance(energy, str)]
    left_out = len(asked) - len(kept)
    if left_out > LEFT_OUT_SHARE * len(asked):
        first = next(answer for _, answer in asked if isinstance(answer, str))
        return f"{left_out} of {len(asked)} windows have no energy: {first}"
    return _Part(
        run_id=run_id,
        windows=tuple(window for window, _ in kept),
        energies=tuple(energy for _, energy in kept),
        left_out=left_out,
        hidden_mj=curve.hidden_mj,
        idle=idle,
    )


def _idle(curve: Curve, run: RunPower) -> tuple[float, float, float] | str:
    """Mean idle power in mW, its error, and the drift between before and after; or why there is none."""
    spans = [*run.telemetry.idle_windows]
    spans += [(window.start_ns, window.end_ns) for window in run.windows if window.kind is BurstKind.IDLE]
    spans.sort()
    if len(spans) < 2:
        return "no idle windows before and after"
    ends = [(span, curve.window(*span)) for span in (spans[0], spans[-1])]
    powers, errors = [], []
    for (start_ns, end_ns), energy in ends:
        if isinstance(energy, str):
            return f"idle: {energy}"
        if energy.readings < FEWEST_IDLE_READINGS:
            return f"idle: {energy.readings} readings, at least {FEWEST_IDLE_READINGS} needed"
        powers.append(energy.energy_mj / (end_ns - start_ns) * NS_PER_S)
        errors.append((energy.biased_mj + energy.free_mj + curve.hidden_mj) / (end_ns - start_ns) * NS_PER_S)
    mean = sum(powers) / 2
    spread = abs(powers[1] - powers[0])
    return mean, max(errors) + spread / 2, spread / mean if mean else 0.0


def _figure(channel: ChannelId, kind: BurstKind, parts: Sequence[_Part]) -> EnergyFigure | str:
    energies = [energy for part in parts for energy in part.energies]
    windows = [window for part in parts for window in part.windows]
    updates = sum(energy.updates for energy in energies)
    if updates < FEWEST_UPDATES:
        return f"short_window: {updates} distinct sensor updates, at least {FEWEST_UPDATES} needed"
    tokens = sum(window.tokens for window in windows)
    duration_ns = sum(window.end_ns - window.start_ns for window in windows)
    gross_mj = sum(energy.energy_mj for energy in energies)
    error_mj = combined_error_mj(energies) + max(part.hidden_mj for part in parts)
    idle = _pooled_idle(parts)
    known = not isinstance(idle, str)
    drift = None if isinstance(idle, str) else idle[2]
    net = None
    if not isinstance(idle, str) and idle[2] <= IDLE_DRIFT:
        net = _per_token(parts, error_mj + idle[1] * duration_ns / NS_PER_S, idle_mw=idle[0])
    return EnergyFigure(
        channel=channel,
        kind=kind,
        run_ids=tuple(part.run_id for part in parts),
        windows=len(windows),
        windows_left_out=sum(part.left_out for part in parts),
        tokens=tokens,
        duration_ns=duration_ns,
        updates=updates,
        short_window=updates < SHORT_UPDATES,
        gross_mj=gross_mj,
        error_mj=error_mj,
        gross_j_per_token=_per_token(parts, error_mj, idle_mw=0.0),
        idle_mw=None if isinstance(idle, str) else idle[0],
        idle_drift=drift,
        net_j_per_token=net,
        net_absent="" if net else (f"idle power drifted by {drift:.1%}" if known else str(idle)),
    )


def _pooled_idle(parts: Sequence[_Part]) -> tuple[float, float, float] | str:
    """Idle of all runs: mean power, largest error, largest drift; a run without idle leaves the figure without."""
    known = [part.idle for part in parts if not isinstance(part.idle, str)]
    if len(known) < len(parts):
        return next(part.idle for part in parts if isinstance(part.idle, str))
    means, errors, drifts = zip(*known, strict=True)
    mean = sum(means) / len(means)
    return mean, max(errors) + (max(means) - min(means)) / 2, max(drifts)


def _per_token(parts: Sequence[_Part], error_mj: float, *, idle_mw: float) -> Interval:
    """Total joules over total tokens; the interval is the bootstrap's over windows, widened by the instrument's error.

    The ratio of sums is linearized about itself, so that windows of unequal length weigh by their tokens.
    """
    series = []
    for part in parts:
        net = [
            e.energy_mj - idle_mw * (w.end_ns - w.start_ns) / NS_PER_S
            for e, w in zip(part.energies, part.windows, strict=True)
        ]
        series.append((np.array(net) / MJ_PER_J, np.array([w.tokens for w in part.windows], dtype=np.float64)))
    series = [(joules, tokens) for joules, tokens in series if tokens.size]
    total = sum(float(tokens.sum()) for _, tokens in series)
    ratio = sum(float(joules.sum()) for joules, _ in series) / total
    mean_tokens = total / sum(tokens.size for _, tokens in series)
    spread = interval_of_mean([ratio + (joules - ratio * tokens) / mean_tokens for joules, tokens in series])
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


COLUMNS = (
    "kind",
    "scope",
    "channel",
    "source",
    "quality",
    "gross_j_per_token",
    "gross_low_j_per_token",
    "gross_high_j_per_token",
    "net_j_per_token",
    "net_low_j_per_token",
    "net_high_j_per_token",
    "error_percent",
    "idle_mw",
    "windows",
    "windows_left_out",
    "updates",
    "remark",
)


def table_row(figure: EnergyFigure) -> dict[str, str | int | float | None]:
    """One row of the energy table, keys as `COLUMNS`."""
    gross, net = figure.gross_j_per_token, figure.net_j_per_token
    remarks = ["short_window"] if figure.short_window else []
    remarks += [f"no net energy: {figure.net_absent}"] if figure.net_absent else []
    return {
        "kind": figure.kind.value,
        "scope": figure.channel.scope,
        "channel": figure.channel.name,
        "source": figure.channel.source,
        "quality": figure.channel.quality.value,
        "gross_j_per_token": gross.value,
        "gross_low_j_per_token": gross.low,
        "gross_high_j_per_token": gross.high,
        "net_j_per_token": net.value if net else None,
        "net_low_j_per_token": net.low if net else None,
        "net_high_j_per_token": net.high if net else None,
        "error_percent": 100 * figure.error_mj / figure.gross_mj if figure.gross_mj else None,
        "idle_mw": figure.idle_mw,
        "windows": figure.windows,
        "windows_left_out": figure.windows_left_out,
        "updates": figure.updates,
        "remark": "; ".join(remarks),
    }
