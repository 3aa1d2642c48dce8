"""Clocks: one monotonic clock for every interval, shared by all processes of a machine."""

from __future__ import annotations

import time


def now_ns() -> int:
    """Nanoseconds on CLOCK_MONOTONIC (mach_absolute_time on macOS): equal in every process, deaf to settimeofday."""
    return time.monotonic_ns()


def asleep_ns() -> int:
    """How long the machine has been suspended since boot; 0 where the platform does not tell."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return 0
    return max(0, time.clock_gettime_ns(boottime) - time.monotonic_ns())
