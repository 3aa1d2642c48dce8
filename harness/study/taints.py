"""What a run's own bursts say against it; thresholds stand here, the raw values stay in the record."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator

from harness.records import Burst, Measured, Taint
from harness.terms import BurstKind, TaintKind
from harness.units import NS_PER_S, ns_to_s

FAULTY_BURSTS_SHARE = 0.05  # of the decode bursts may hold a major fault: they are left out one by one
FOREIGN_CORES = 0.5  # others may use this much, averaged over the bursts
STEAL_SHARE = 0.10  # of the time of the bursts may be taken by the hypervisor, per core used
STALLED_NS = NS_PER_S  # a token that takes this long ...
STALLED_FACTOR = 20  # ... and this many times the median, while the process computed nothing, was suspended


def burst_taints(measured: Measured) -> tuple[Taint, ...]:
    """Memory pressure, neighbours and suspensions inside decode bursts."""
    bursts = [burst for burst in measured.bursts if burst.kind in (BurstKind.DECODE, BurstKind.PREFILL)]
    return tuple(_taints(bursts)) if bursts else ()


def _taints(bursts: list[Burst]) -> Iterator[Taint]:
    decode = [burst for burst in bursts if burst.kind is BurstKind.DECODE]
    faulty = sum(burst.major_faults > 0 for burst in decode)
    if decode and faulty > FAULTY_BURSTS_SHARE * len(decode):
        detail = f"{faulty} of {len(decode)} decode bursts waited for the disk (major faults)"
        yield Taint(kind=TaintKind.MAJOR_FAULTS, detail=detail)
    window_ns = sum(burst.end_ns - burst.start_ns for burst in bursts)
    yield from _neighbours(bursts, window_ns)
    yield from _suspensions(decode, [burst for burst in bursts if burst.kind is BurstKind.PREFILL])


def _suspensions(decode: list[Burst], prefill: list[Burst]) -> Iterator[Taint]:
    """The first burst in which the process stood still: one is enough to leave the run out."""
    usual_ns = min((burst.engine_ns for burst in prefill), default=0)
    stalls = [("a token", burst, _stalled_ns(burst)) for burst in decode]
    stalls += [("the prompt", burst, _stalled_prefill_ns(burst, usual_ns)) for burst in prefill]
    for what, burst, stalled_ns in stalls:
        if stalled_ns:
            took = f"{what} took {ns_to_s(stalled_ns):.1f} s, in which the process did not compute"
            yield Taint(kind=TaintKind.SUSPENDED, detail=f"round {burst.round}: {took}")
            return


def _neighbours(bursts: list[Burst], window_ns: int) -> Iterator[Taint]:
    foreign_ns = _total(burst.foreign_cpu_ns for burst in bursts)
    if foreign_ns is not None and foreign_ns > FOREIGN_CORES * window_ns:
        detail = f"other programs used {foreign_ns / window_ns:.2f} cores during the bursts"
        yield Taint(kind=TaintKind.FOREIGN_LOAD, detail=detail)
    steal_ns = _total(burst.steal_ns for burst in bursts)
    cpu_ns = sum(burst.cpu_ns for burst in bursts)
    if steal_ns is not None and steal_ns > STEAL_SHARE * max(cpu_ns, 1):
        detail = f"the hypervisor took {steal_ns / max(cpu_ns, 1):.0%} of the CPU time of the bursts"
        yield Taint(kind=TaintKind.FOREIGN_LOAD, detail=detail)


def _total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _stalled_ns(burst: Burst) -> int:
    """The longest token when it can only have been a suspension; 0 otherwise."""
    if not burst.token_ns:
        return 0
    between_ns = burst.end_ns - burst.start_ns - burst.engine_ns  # arg-max and bookkeeping
    longest_ns = max(*burst.token_ns, between_ns)
    return longest_ns if _stood_still(burst, longest_ns, statistics.median(burst.token_ns)) else 0


def _stalled_prefill_ns(burst: Burst, usual_ns: int) -> int:
    """How long a prefill took when it can only have been a suspension; 0 otherwise, and where it is the only one."""
    return burst.engine_ns if _stood_still(burst, burst.engine_ns, usual_ns) else 0


def _stood_still(burst: Burst, longest_ns: int, usual_ns: float) -> bool:
    idle_ns = (burst.end_ns - burst.start_ns) - burst.cpu_ns
    out_of_line = longest_ns > STALLED_NS and longest_ns > STALLED_FACTOR * usual_ns
    return out_of_line and idle_ns > longest_ns // 2 and burst.major_faults == 0
