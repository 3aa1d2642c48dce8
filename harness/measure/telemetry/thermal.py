"""Temperatures, clocks and throttling as the Linux kernel tells them; slow, so read every tenth tick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness import hostfiles
from harness.measure.telemetry.base import PolledSampler, Sensor
from harness.terms import Quantity

_SLOW_TICKS = 10
_Reader = tuple[Sensor, Callable[[], float | None]]


def find(root: Path) -> tuple[PolledSampler | None, dict[str, str]]:
    """One sampler for all three, or None; and what is missing with its reason."""
    temperatures, clocks, throttles = _temperatures(root), _clocks(root), _throttles(root)
    absent = {}
    if not temperatures:
        absent["temperature"] = "no thermal zone and no CPU sensor under /sys/class"
    if not clocks:
        absent["clocks"] = "no cpufreq or devfreq under /sys"
    if not throttles:
        absent["throttle"] = "the kernel tells of no throttling here"
    readers = temperatures + clocks + throttles
    return PolledSampler("sysfs", readers, every_ticks=_SLOW_TICKS) if readers else None, absent


def _sensor(name: str, quantity: Quantity, scope: str, resolution: float) -> Sensor:
    return Sensor(name=name, quantity=quantity, source="sysfs", scope=scope, resolution=resolution)


def _temperatures(root: Path) -> list[_Reader]:
    zones = {name: path for name, path in hostfiles.thermal_zones(root).items() if hostfiles.celsius(path) is not None}
    return [
        (_sensor(name, Quantity.TEMPERATURE_CELSIUS, f"thermal zone {name}", 0.5), _celsius_reader(path))
        for name, path in zones.items()
    ]


def _celsius_reader(path: Path) -> Callable[[], float | None]:
    return lambda: hostfiles.celsius(path)


def _clocks(root: Path) -> list[_Reader]:
    return [
        (_sensor(name, Quantity.CLOCK_MHZ, name, 1.0), _clock_reader(path, factor))
        for name, (path, factor) in hostfiles.clock_files(root).items()
    ]


def _clock_reader(path: Path, factor: float) -> Callable[[], float | None]:
    def megahertz() -> float | None:
        value = hostfiles.read_int(path)
        return None if value is None else value * factor

    return megahertz


def _throttles(root: Path) -> list[_Reader]:
    alerts = [(name, _alert_reader(path)) for name, path in hostfiles.throttle_alerts(root).items()]
    counters = [(name, _event_reader(path)) for name, path in hostfiles.throttle_counters(root).items()]
    return [(_sensor(name, Quantity.THROTTLE, name, 1.0), read) for name, read in alerts + counters]


def _alert_reader(path: Path) -> Callable[[], float | None]:
    def active() -> float | None:
        state = hostfiles.read_int(path)
        return None if state is None else float(state > 0)

    return active


def _event_reader(path: Path) -> Callable[[], float | None]:
    """1 when the counter has risen since the last reading."""
    last = hostfiles.read_int(path)

    def risen() -> float | None:
        nonlocal last
        before, last = last, hostfiles.read_int(path)
        return None if before is None or last is None else float(last > before)

    return risen
