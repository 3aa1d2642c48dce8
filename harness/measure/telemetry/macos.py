"""Energy of an Apple chip through zeus-apple-silicon (an optional extra): the chip's own model, hence `estimated`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from harness.clock import now_ns
from harness.measure.telemetry.base import Absent, Sample, Sensor
from harness.terms import Quality, Quantity

_SCOPES = {
    "cpu_total_mj": "CPU clusters of the chip",
    "gpu_mj": "GPU of the chip",
    "gpu_sram_mj": "GPU memory on the chip",
    "dram_mj": "DRAM",
    "ane_mj": "neural engine",
}


class EnergyMonitor(Protocol):
    """The part of `AppleEnergyMonitor` that is used."""

    def get_cumulative_energy(self) -> Any:
        """Millijoules since the monitor was made, a field a part; None where the chip has none."""


class ZeusSampler:
    """All parts from one reading of the monitor."""

    name = "zeus-apple-silicon"
    every_ticks = 1

    def __init__(self, monitor: EnergyMonitor, parts: Sequence[str]) -> None:
        self.sensors = tuple(_sensor(part) for part in parts)
        self._monitor = monitor
        self._parts = tuple(parts)

    def poll(self) -> list[Sample]:
        """One reading."""
        before_ns = now_ns()
        energies = self._monitor.get_cumulative_energy()
        at_ns = (before_ns + now_ns()) // 2
        values = [getattr(energies, part) for part in self._parts]
        return [Sample(place, at_ns, float(value)) for place, value in enumerate(values) if value is not None]

    def notes(self) -> dict[str, str]:
        """Nothing to add."""
        return {}

    def close(self) -> None:
        """Nothing is held open."""


def find(make: Callable[[], EnergyMonitor] | None = None) -> ZeusSampler | Absent:
    """A sampler over the chip's parts; they do not overlap, but their sum is not the machine."""
    if make is None and sys.platform != "darwin":
        return Absent(reason="not a Mac")
    try:
        monitor = (make or _monitor)()
        first = monitor.get_cumulative_energy()
    except ImportError:
        return Absent(reason="no zeus-apple-silicon here: install the extra `mac`")
    except RuntimeError as error:
        return Absent(reason=f"zeus-apple-silicon: {error}")
    parts = [part for part in _SCOPES if getattr(first, part, None) is not None]
    if not parts:
        return Absent(reason="zeus-apple-silicon: the chip tells no energy")
    return ZeusSampler(monitor, parts)


def _sensor(part: str) -> Sensor:
    return Sensor(
        name=part.removesuffix("_mj"),
        quantity=Quantity.ENERGY_MJ,
        source="zeus-apple-silicon",
        scope=f"{_SCOPES[part]} (model of the chip's maker)",
        resolution=1.0,
        quality=Quality.ESTIMATED,
    )


def _monitor() -> EnergyMonitor:
    from zeus_apple_silicon import AppleEnergyMonitor  # noqa: PLC0415  # an optional extra

    monitor: EnergyMonitor = AppleEnergyMonitor()
    return monitor
