"""Counters read around each burst: faults, context switches and CPU time, of this process and of the machine.

Cheap by construction (three system calls and the first line of /proc/stat), because it is paid twice a burst.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import hostfiles
from harness.clock import now_ns


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Running totals at one moment."""

    major_faults: int
    minor_faults: int
    voluntary_switches: int
    involuntary_switches: int
    cpu_ns: int  # this process, all threads
    machine_busy_ns: int | None  # every process; steps of 10 ms on Linux
    steal_ns: int | None


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What went by between two readings; field by field as `records.Burst` keeps it."""

    major_faults: int
    minor_faults: int
    voluntary_switches: int
    involuntary_switches: int
    cpu_ns: int
    foreign_cpu_ns: int | None
    steal_ns: int | None


def counters(root: Path = Path("/")) -> Counters:
    """Read all counters of this process (all its threads) and of the machine under `root`."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    machine = _darwin_times() if sys.platform == "darwin" else hostfiles.cpu_times(root)
    return Counters(
        major_faults=usage.ru_majflt,
        minor_faults=usage.ru_minflt,
        voluntary_switches=usage.ru_nvcsw,
        involuntary_switches=usage.ru_nivcsw,
        cpu_ns=time.process_time_ns(),
        machine_busy_ns=machine.busy_ns if machine else None,
        steal_ns=machine.steal_ns if machine else None,
    )


def _darwin_times() -> hostfiles.CpuTimes:
    """macOS has no procfs; the kernel's tick counters come through psutil, and nothing is stolen from a Mac."""
    import psutil  # noqa: PLC0415  # only here, and only needed on macOS

    times = psutil.cpu_times()
    return hostfiles.CpuTimes(busy_ns=int((times.user + times.nice + times.system) * 1e9), steal_ns=0)


class Waiting:
    """What this process costs while it waits for its turn: time on the clock, and CPU time of all its threads."""

    def __init__(self) -> None:
        self._since: tuple[int, int] | None = None

    def begin(self) -> None:
        """From here on nothing is asked of this process."""
        self._since = now_ns(), time.process_time_ns()

    def end(self) -> tuple[int | None, int | None]:
        """(nanoseconds waited, CPU nanoseconds taken) since `begin`; nulls before the first one."""
        if self._since is None:
            return None, None
        return now_ns() - self._since[0], time.process_time_ns() - self._since[1]


def spent(before: Counters, after: Counters) -> Spent:
    """Differences of two readings; `foreign_cpu_ns` is the machine's CPU time less this process's, at least 0."""
    own_ns = after.cpu_ns - before.cpu_ns
    busy_ns = _difference(before.machine_busy_ns, after.machine_busy_ns)
    return Spent(
        major_faults=after.major_faults - before.major_faults,
        minor_faults=after.minor_faults - before.minor_faults,
        voluntary_switches=after.voluntary_switches - before.voluntary_switches,
        involuntary_switches=after.involuntary_switches - before.involuntary_switches,
        cpu_ns=own_ns,
        foreign_cpu_ns=None if busy_ns is None else max(0, busy_ns - own_ns),
        steal_ns=_difference(before.steal_ns, after.steal_ns),
    )


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
