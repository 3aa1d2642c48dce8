"""Statistics against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.analysis import stats
from harness.analysis.stats import Interval


def autocorrelated(rng: np.random.Generator, n: int, rho: float) -> NDArray[np.float64]:
    """An AR(1) series with unit innovations."""
    noise = rng.normal(size=n + 50)
    values = np.zeros(n + 50)
    for i in range(1, n + 50):
        values[i] = rho * values[i - 1] + noise[i]
    return values[50:]


@pytest.mark.parametrize(
    ("cohorts", "rounds", "rho", "between"),
    [
        (1, 150, 0.4, 0.0),
        (6, 25, 0.3, 0.2),
        (5, 25, 0.3, 1.0),  # processes differ by far more than their bursts
        pytest.param(1, 150, 0.0, 0.0, marks=pytest.mark.torture),
        pytest.param(2, 75, 0.3, 0.1, marks=pytest.mark.torture),
        pytest.param(1, 40, 0.4, 0.0, marks=pytest.mark.torture),
    ],
)
def test_intervals_cover_the_truth_in_93_to_97_percent_of_2000_draws(
    cohorts: int, rounds: int, rho: float, between: float
) -> None:
    rng = np.random.default_rng(11)
    draws, hits = 2000, 0
    for seed in range(draws):
        series = [np.exp(0.05 * (autocorrelated(rng, rounds, rho) + rng.normal() * between)) for _ in range(cohorts)]
        interval = stats.geometric_interval(series, seed=seed, resamples=600)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 1.0 <= interval.high
    assert 0.93 <= hits / draws <= 0.97


def test_a_known_mean_and_its_normal_interval() -> None:
    values = np.random.default_rng(3).normal(10, 1, 400)
    interval = stats.interval_of_mean([values])
    error = values.std(ddof=1) / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_the_same_seed_gives_the_same_interval() -> None:
    series = [np.random.default_rng(1).lognormal(0, 0.1, 60)]
    assert stats.geometric_interval(series) == stats.geometric_interval(series)


def test_fewer_than_six_pairs_give_a_value_without_interval() -> None:
    interval = stats.geometric_interval([np.array([1.0, 2.0, 4.0])])
    assert interval.value == pytest.approx(2.0)
    assert interval.low is None
    assert interval.half_width_relative is None
    assert not interval.excludes(5.0)


def test_processes_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    noise = [rng.normal(0, 0.02, 40) for _ in range(4)]
    alike = stats.geometric_interval([np.exp(values) for values in noise])
    shifts = (-0.05, 0.05, -0.05, 0.05)
    apart = stats.geometric_interval([np.exp(values + shift) for values, shift in zip(noise, shifts, strict=True)])
    assert (apart.half_width_relative or 0) > 3 * (alike.half_width_relative or 1)


def test_autocorrelation_widens_the_interval_and_lengthens_blocks() -> None:
    rng = np.random.default_rng(8)
    loose = stats.interval_of_mean([autocorrelated(rng, 300, 0.0)])
    tight = stats.interval_of_mean([autocorrelated(rng, 300, 0.7)])
    assert tight.block_length > loose.block_length
    assert tight.high is not None
    assert loose.high is not None
    assert tight.high - tight.value > 2 * (loose.high - loose.value)


def test_lag1_of_an_alternating_series_is_minus_one() -> None:
    assert stats.lag1_autocorrelation([np.tile([1.0, -1.0], 500)]) == pytest.approx(-1, abs=0.01)
    assert stats.lag1_autocorrelation([np.ones(10)]) is None
    assert stats.lag1_autocorrelation([np.array([1.0, 2.0])]) is None


def test_percentiles_need_their_n() -> None:
    assert stats.percentile(np.arange(19.0), 95) is None
    assert stats.percentile(np.arange(21.0), 95) == pytest.approx(19.0)
    assert stats.percentile(np.arange(99.0), 99) is None
    assert stats.percentile(np.arange(101.0), 99) == pytest.approx(99.0)
    assert stats.percentile(np.array([7.0]), 50) == 7.0
    assert stats.percentile(np.array([]), 50) is None


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.706), (2, 4.303), (7, 2.365), (12, 2.179), (40, 2.021), (1e9, 1.96)]
)
def test_t_quantiles_agree_with_published_tables(df: float, quantile: float) -> None:
    assert stats.t_975(df) == pytest.approx(quantile, rel=0.01)


def test_drift_is_the_change_over_the_session() -> None:
    assert stats.drift(np.exp(np.linspace(0, math.log(1.3), 200))) == pytest.approx(0.3, rel=0.02)
    assert stats.drift(np.ones(9)) is None


def test_rate_is_total_work_over_total_time() -> None:
    assert stats.rate_per_s(30, 1_500_000_000) == pytest.approx(20)
    assert stats.rate_per_s(30, 0) is None


def test_half_width_is_relative_to_the_value() -> None:
    assert Interval(value=2.0, low=1.9, high=2.1, n=10).half_width_relative == pytest.approx(0.05)


def test_many_values_are_resampled_in_bounded_memory() -> None:
    interval = stats.interval_of_mean([np.random.default_rng(2).normal(5, 1, 30_000)], resamples=200)
    assert interval.low is not None
    assert interval.low < 5 < (interval.high or 0)


@pytest.mark.parametrize("cohorts", [1, 40])
def test_the_normal_limit_continues_the_bootstrap(cohorts: int) -> None:
    rng = np.random.default_rng(7)
    values = [rng.normal(5, 1, 4000 // cohorts) + rng.normal() * 0.1 for _ in range(cohorts)]
    few = [part[: 1900 // cohorts] for part in values]
    drawn, limit = stats.interval_of_mean(few), stats.interval_of_mean(values)
    between = 0.1**2 / cohorts if cohorts > 1 else 0.0
    for interval in (drawn, limit):
        wanted = 1.96 * math.sqrt(1 / interval.n + between)
        assert interval.high is not None
        assert interval.high - interval.value == pytest.approx(wanted, rel=0.2)
