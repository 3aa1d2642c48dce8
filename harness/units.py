"""Conversions between the units that names carry, and how quantities are written for people."""

from __future__ import annotations

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
BYTES_PER_KIB = 1024
BYTES_PER_GB = 1_000_000_000
BYTES_PER_MB = 1_000_000


def ns_to_s(duration_ns: float) -> float:
    """Nanoseconds to seconds."""
    return duration_ns / NS_PER_S


def ms_text(duration_ns: float) -> str:
    """Milliseconds with two decimals, the unit left to the sentence: `1.08`."""
    return f"{duration_ns / NS_PER_MS:.2f}"


def human_bytes(count_bytes: float) -> str:
    """Decimal units, three significant digits: `4.21 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count_bytes) >= size:
            return f"{count_bytes / size:.3g} {unit}"
    return f"{count_bytes:.0f} B"


def human_duration(duration_s: float) -> str:
    """`42 s`, `3 min 20 s` or `1 h 5 min`."""
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
