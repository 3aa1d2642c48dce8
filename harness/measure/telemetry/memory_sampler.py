"""Memory of the machine, and of the processes that the study names, as channels over time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import hostfiles
from harness.clock import now_ns
from harness.measure.telemetry.base import Absent, PolledSampler, Sample, Sensor
from harness.terms import Quantity

_PAGE_BYTES = float(os.sysconf("SC_PAGE_SIZE"))  # 4 KiB, 16 KiB or 64 KiB
_MACHINE = {
    "MemAvailable": "memory that new work could get without swapping",
    "SwapFree": "swap not in use",
    "NvMapMemUsed": "GPU allocations in unified memory",
}


def _sensor(name: str, source: str, scope: str) -> Sensor:
    quantity = Quantity.MEMORY_BYTES
    return Sensor(name=name, quantity=quantity, source=source, scope=scope, resolution=_PAGE_BYTES)


class MeminfoSampler:
    """Several figures from one reading of /proc/meminfo."""

    name = "procfs"
    every_ticks = 1

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.sensors = tuple(_sensor(name, "procfs", _MACHINE[name]) for name in names)
        self._root = root

    def poll(self) -> list[Sample]:
        """One reading."""
        at_ns, figures = now_ns(), hostfiles.meminfo(self._root)
        return [
            Sample(place, at_ns, float(figures[sensor.name]))
            for place, sensor in enumerate(self.sensors)
            if sensor.name in figures
        ]

    def notes(self) -> dict[str, str]:
        """Nothing to add."""
        return {}

    def close(self) -> None:
        """Nothing is held open."""


def find(root: Path) -> MeminfoSampler | PolledSampler | Absent:
    """Memory of the machine under `root`."""
    if sys.platform == "darwin":
        return PolledSampler("psutil", [(_sensor("available", "psutil", _MACHINE["MemAvailable"]), _darwin_available)])
    figures = hostfiles.meminfo(root)
    names = [name for name in _MACHINE if name in figures]
    return MeminfoSampler(root, names) if names else Absent(reason="no /proc/meminfo")


def _darwin_available() -> float:
    import psutil  # noqa: PLC0415  # only here, and only needed on macOS

    return float(psutil.virtual_memory().available)


def follow(root: Path, pid: int) -> PolledSampler:
    """Resident memory of one process; it has no more samples once the process is gone."""
    sensor = _sensor(f"rss of {pid}", "procfs", f"process {pid}: resident pages, shared ones in full")
    return PolledSampler("procfs", [(sensor, _rss_reader(root / f"proc/{pid}/statm"))])


def _rss_reader(path: Path) -> Callable[[], float | None]:
    def rss_bytes() -> float | None:
        fields = (hostfiles.read_text(path) or "").split()
        return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else None

    return rss_bytes
