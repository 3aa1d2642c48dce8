"""Statistics of paired bursts: intervals that respect autocorrelation and fresh processes, percentiles with their n.

Sources: circular block bootstrap (Politis & Romano 1992) with the AR(1) plug-in block length (Carlstein 1986); reflated
residuals for the level of processes (Carpenter, Goldstein & Rasbash 2003); both as Hoefler & Belli (2015) ask for
benchmarks: tokens of a run are not independent, rounds of a process are correlated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.records import Struct

Floats = NDArray[np.float64]

SEED = 20260628
RESAMPLES = 4000
CHUNK_VALUES = 2_000_000  # draws held in memory at once
NORMAL_FROM = 2000  # blocks in all: their mean is normal, and drawing them one by one would only take time
CONFIDENCE = 0.95
Z_975 = 1.959964
# Two-sided 95 % quantiles of Student's t, looked up by interpolation in 1/df.
T_DF = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, math.inf)
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.306, 2.228, 2.131, 2.086, 2.042, 2.000, 1.980, Z_975)
MIN_PAIRS = 6  # fewer pairs give a value, but no interval
MIN_BLOCKS = 5  # a bootstrap over fewer blocks says nothing
PERCENTILE_MIN_N = {50: 1, 95: 20, 99: 100}


class Interval(Struct, frozen=True):
    """A value with its 95 % interval; `low` and `high` are null where too few observations were made."""

    value: float
    low: float | None
    high: float | None
    n: int
    cohorts: int = 1
    block_length: int = 1
    lag1: float | None = None

    @property
    def half_width_relative(self) -> float | None:
        """Half the width of the interval over the value."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2 / abs(self.value)

    def excludes(self, value: float) -> bool:
        """True when there is an interval and `value` lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def rate_per_s(count: float, duration_ns: float) -> float | None:
    """Total work over total time; null when no time was counted."""
    return count / duration_ns * 1e9 if duration_ns > 0 else None


def percentile(values: Floats, rank: int) -> float | None:
    """Percentile by linear interpolation; null below the n that `rank` needs (p50 1, p95 20, p99 100)."""
    if values.size < PERCENTILE_MIN_N[rank]:
        return None
    return float(np.percentile(values, rank))


def lag1_autocorrelation(series: Sequence[Floats]) -> float | None:
    """Lag-1 autocorrelation over all series, each about its own mean; null below 3 values or without variance."""
    products = squares = 0.0
    for values in series:
        deviations = values - values.mean() if values.size else values
        products += float(deviations[:-1] @ deviations[1:])
        squares += float(deviations @ deviations)
    if squares <= 0 or max((v.size for v in series), default=0) < 3:
        return None
    return products / squares


def unbiased_lag1(n: int, lag1: float | None) -> float:
    """Lag-1 autocorrelation without its small-sample bias of -(1 + 3 rho)/n (Kendall 1954); within 0 and 0.97."""
    if lag1 is None or lag1 <= 0:
        return 0.0
    return min(lag1 + (1 + 3 * lag1) / n, 0.97)


def block_length(n: int, rho: float) -> int:
    """AR(1) plug-in length of blocks in a series of `n` values, at most a fifth of it."""
    optimal: float = (math.sqrt(6) * rho / (1 - rho * rho)) ** (2 / 3) * n ** (1 / 3)
    return max(1, min(math.ceil(optimal), n // MIN_BLOCKS))


def geometric_interval(series: Sequence[Floats], seed: int = SEED, resamples: int = RESAMPLES) -> Interval:
    """Geometric mean of positive values with its 95 % interval.

    `series` holds one array a cohort of fresh processes, in the order of the rounds.
    """
    kept = [np.log(values) for values in series if values.size]
    mean = interval_of_mean(kept, seed, resamples)
    low, high = (None if bound is None else math.exp(bound) for bound in (mean.low, mean.high))
    return Interval(
        value=math.exp(mean.value),
        low=low,
        high=high,
        n=mean.n,
        cohorts=mean.cohorts,
        block_length=mean.block_length,
        lag1=mean.lag1,
    )


def interval_of_mean(series: Sequence[Floats], seed: int = SEED, resamples: int = RESAMPLES) -> Interval:
    """Mean over all values with a 95 % interval by bootstrap over blocks of rounds and over cohorts."""
    sizes = np.array([values.size for values in series], dtype=np.float64)
    value = float(np.concatenate(series).mean())
    lag1 = lag1_autocorrelation(series)
    rho = unbiased_lag1(int(sizes.max()), lag1)
    length = block_length(int(sizes.max()), rho)
    n = int(sizes.sum())
    low = high = None
    if n >= MIN_PAIRS:
        low, high = _bounds(series, sizes / n, value, rho, np.random.default_rng(seed), resamples)
    return Interval(value=value, low=low, high=high, n=n, cohorts=len(series), block_length=length, lag1=lag1)


def _bounds(
    series: Sequence[Floats],
    weights: Floats,
    value: float,
    rho: float,
    rng: np.random.Generator,
    resamples: int,
) -> tuple[float, float]:
    length = block_length(max(values.size for values in series), rho)
    means = [_block_means(values, length) for values in series]
    counts = [max(1, values.size // length) for values in series]
    normal = sum(counts) > NORMAL_FROM
    deviations = np.zeros(resamples)
    variances = np.zeros(len(series))
    for place, (block_means, count) in enumerate(zip(means, counts, strict=True)):
        # a sample of `count` blocks about its own mean spreads too little
        scale = math.sqrt(count / (count - 1)) if count > 1 else 1.0
        variances[place] = block_means.var() / count * scale * scale
        drawn = _drawn_mean(block_means, count, rng, resamples, normal=normal)
        deviations += weights[place] * scale * drawn
    # blocks that touch are still correlated, and few blocks tell their own spread badly
    joined = 1 - 2 * rho * (1 - rho**length) / (length * (1 - rho * rho))
    deviations *= t_975(max(1, sum(counts) - len(series))) / Z_975 / math.sqrt(joined)
    deviations += _cohort_deviations(series, variances, weights, rng, resamples, normal=normal)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(deviations, [tail, 1 - tail])
    return value + float(low), value + float(high)


def _block_means(values: Floats, length: int) -> Floats:
    """Mean of the block that starts at each value, about the mean of all; blocks wrap around the end."""
    wrapped = np.concatenate([values, values[: length - 1]]) - values.mean()
    totals = np.cumsum(np.concatenate([[0.0], wrapped]))
    means: Floats = (totals[length:] - totals[:-length]) / length
    return means


def _drawn_mean(population: Floats, count: int, rng: np.random.Generator, resamples: int, *, normal: bool) -> Floats:
    """Means of `count` values drawn with replacement; from their normal limit where thousands go into a sum."""
    if normal:
        return rng.normal(0.0, population.std() / math.sqrt(count), resamples)
    means = np.empty(resamples)
    step = max(1, CHUNK_VALUES // count)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        means[start:stop] = population[rng.integers(population.size, size=(stop - start, count))].mean(axis=1)
    return means


def _cohort_deviations(
    series: Sequence[Floats],
    within: Floats,
    weights: Floats,
    rng: np.random.Generator,
    resamples: int,
    *,
    normal: bool,
) -> Floats:
    """Deviations from what fresh processes add to the spread within processes; zero where they add none.

    Few processes tell badly how much processes differ, so the deviations are those of Student's t.

    Args:
        series: values of each cohort.
        within: variance of each cohort's mean by its own bursts.
        weights: of each cohort in the mean.
        rng: source of draws.
        resamples: how many.
        normal: draw from the normal limit.
    """
    if len(series) < 2:
        return np.zeros(resamples)
    effects = np.array([values.mean() for values in series])
    effects -= effects.mean()
    observed = float(effects @ effects) / (len(series) - 1)
    added = observed - float(within.mean())
    if added <= 0:
        return np.zeros(resamples)
    student = t_975(len(series) - 1) / Z_975
    if normal:
        return rng.normal(0.0, student * math.sqrt(added * float(weights @ weights)), resamples)
    spread = float(effects @ effects) / len(series)
    drawn = effects[rng.integers(len(series), size=(resamples, len(series)))] * student * math.sqrt(added / spread)
    deviations: Floats = drawn @ weights
    return deviations


def t_975(df: float) -> float:
    """Quantile 0.975 of Student's t with `df` degrees of freedom, within 1 % from df = 2 on."""
    return float(np.interp(1 / df, [1 / d for d in reversed(T_DF)], list(reversed(T_975))))


def drift(values: Floats) -> float | None:
    """Relative change over the session by a least-squares line through log values; null below 10 values."""
    if values.size < 10:
        return None
    x = np.linspace(-0.5, 0.5, values.size)
    y = np.log(values)
    return math.expm1(float(x @ (y - y.mean()) / (x @ x)))


def coefficient_of_variation(values: Floats) -> float | None:
    """Standard deviation over mean; null below 2 values."""
    if values.size < 2:
        return None
    return float(values.std(ddof=1) / values.mean())
