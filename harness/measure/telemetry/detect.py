"""Which sensors this machine has, and for each make that is missing the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.measure.telemetry import ina3221, jetson, macos, memory_sampler, nvml, rapl, tegrastats, thermal
from harness.measure.telemetry.base import Absent, Sampler
from harness.terms import Quantity

DEFAULT_PERIOD_NS = 100_000_000
_ENERGY = (Quantity.POWER_MW, Quantity.ENERGY_MJ)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Samplers that are ready to be polled, and channels or makes that are missing with their reasons."""

    samplers: tuple[Sampler, ...]
    absent: dict[str, str]


def detect(root: Path = Path("/"), period_ns: int = DEFAULT_PERIOD_NS) -> Found:
    """Look for every make under `root`; the widest energy channel comes first.

    When no channel carries power or energy, `absent["energy"]` says "no sensor: ..." with every make's reason.
    """
    makes = _energy_makes(root, period_ns)
    slow, absent = thermal.find(root)
    memory = memory_sampler.find(root)
    if isinstance(memory, Absent):
        absent["memory"] = memory.reason
    absent |= {name: make.reason for name, make in makes.items() if isinstance(make, Absent)}
    samplers = [make for make in (*makes.values(), memory, slow) if make is not None and not isinstance(make, Absent)]
    if not any(sensor.quantity in _ENERGY for sampler in samplers for sensor in sampler.sensors):
        absent["energy"] = "no sensor: " + "; ".join(f"{name}: {absent[name]}" for name in makes if name in absent)
    return Found(samplers=tuple(samplers), absent=absent)


def _energy_makes(root: Path, period_ns: int) -> dict[str, Sampler | Absent]:
    """One entry a make; on a Jetson the first of three ways that works."""
    makes: dict[str, Sampler | Absent] = {"jtop": jetson.find(root, period_ns)}
    if isinstance(makes["jtop"], Absent):
        makes["ina3221"] = ina3221.find(root)
        if isinstance(makes["ina3221"], Absent):
            makes["tegrastats"] = tegrastats.find(root, period_ns)
    at_home = root == Path("/")  # libraries speak of the machine itself, not of a folder
    makes["nvml"] = nvml.find() if at_home else Absent(reason="not looked for under a folder")
    makes["rapl"] = rapl.find(root)
    makes["zeus-apple-silicon"] = macos.find() if at_home else Absent(reason="not looked for under a folder")
    return makes
