"""What a run's own bursts say against it, burst by burst: pressure, neighbours, suspensions; and what says nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.records import Burst, Measured
from harness.study.taints import burst_taints
from harness.terms import BurstKind, TaintKind

MS = 1_000_000
DECODE = Burst(
    kind=BurstKind.DECODE, round=0, position=0, start_ns=0, end_ns=600 * MS, tokens=20, engine_ns=580 * MS,
    token_ns=(29 * MS,) * 20, sampling_ns=5 * MS, cpu_ns=1160 * MS, foreign_cpu_ns=20 * MS, steal_ns=10 * MS,
)  # fmt: skip
PREFILL = msgspec.structs.replace(
    DECODE, kind=BurstKind.PREFILL, tokens=128, token_ns=(), engine_ns=600 * MS, sampling_ns=0
)


def taints(*bursts: Burst) -> list[TaintKind]:
    return [taint.kind for taint in burst_taints(Measured(load_ns=1, warmup=None, bursts=bursts, memory=None))]


def changed(burst: Burst = DECODE, **changes: Any) -> Burst:
    return msgspec.structs.replace(burst, **changes)


def test_quiet_bursts_say_nothing() -> None:
    assert taints(*(DECODE, PREFILL) * 10) == []
    assert taints() == []


@pytest.mark.parametrize(("faulty", "expected"), [(1, []), (2, [TaintKind.MAJOR_FAULTS])])
def test_major_faults_in_more_than_a_twentieth_of_the_bursts(faulty: int, expected: list[TaintKind]) -> None:
    bursts = [changed(major_faults=3)] * faulty + [DECODE] * (20 - faulty)
    assert taints(*bursts) == expected


@pytest.mark.parametrize(("foreign_ms", "expected"), [(299, []), (301, [TaintKind.FOREIGN_LOAD])])
def test_others_that_use_half_a_core(foreign_ms: int, expected: list[TaintKind]) -> None:
    assert taints(*[changed(foreign_cpu_ns=foreign_ms * MS)] * 5) == expected


@pytest.mark.parametrize(("steal_ms", "expected"), [(115, []), (117, [TaintKind.FOREIGN_LOAD])])
def test_a_hypervisor_that_takes_a_tenth(steal_ms: int, expected: list[TaintKind]) -> None:
    assert taints(*[changed(steal_ns=steal_ms * MS)] * 5) == expected


def test_counters_that_are_not_told_say_nothing() -> None:
    assert taints(*[changed(foreign_cpu_ns=None, steal_ns=None)] * 5) == []


def stopped(seconds: float) -> Burst:
    """The tenth token stood still for so long."""
    still = round(seconds * 1e9)
    token_ns = (*(29 * MS,) * 9, 29 * MS + still, *(29 * MS,) * 10)
    return changed(token_ns=token_ns, engine_ns=580 * MS + still, end_ns=600 * MS + still)


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, []), (2.0, [TaintKind.SUSPENDED])])
def test_a_token_that_stood_still(seconds: float, expected: list[TaintKind]) -> None:
    assert taints(DECODE, stopped(seconds), DECODE) == expected


def test_a_slow_token_that_computed_was_not_suspended() -> None:
    burst = stopped(2.0)
    assert taints(DECODE, changed(burst, cpu_ns=burst.cpu_ns + 4000 * MS), DECODE) == []


def test_a_token_that_waited_for_the_disk_was_not_suspended() -> None:
    assert TaintKind.SUSPENDED not in taints(DECODE, changed(stopped(2.0), major_faults=900), DECODE)


def test_a_suspension_between_two_tokens_counts_as_well() -> None:
    assert taints(DECODE, changed(end_ns=2600 * MS), DECODE) == [TaintKind.SUSPENDED]


def test_a_prompt_that_stood_still() -> None:
    still = changed(PREFILL, end_ns=20_000 * MS, engine_ns=20_000 * MS)
    assert taints(PREFILL, still, DECODE) == [TaintKind.SUSPENDED]
    assert taints(still, DECODE) == []  # the only one: nothing to set it beside
    assert taints(PREFILL, changed(still, cpu_ns=39_000 * MS), DECODE) == []
