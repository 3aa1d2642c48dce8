"""CPU energy counters of Intel and AMD through the kernel's powercap files (RAPL)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness import hostfiles
from harness.measure.telemetry.base import Absent, PolledSampler, Sensor
from harness.terms import Quality, Quantity

_STEP_MJ = 0.061  # 2^-14 J, the coarsest common energy unit of the counter (Intel SDM vol. 4, MSR_RAPL_POWER_UNIT)
_UPDATE_NS = 1_000_000  # "updated approximately every 1 ms" (Intel SDM vol. 3B, 16.10)
_SCOPES = {
    "psys": "platform (what the board's maker wired to psys)",
    "core": "cores of the CPU package",
    "uncore": "integrated GPU of the CPU package",
    "dram": "memory of the CPU package",
}


def find(root: Path) -> PolledSampler | Absent:
    """A sampler over every readable domain; packages before their parts."""
    domains = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    if not domains:
        return Absent(reason="no RAPL domain under /sys/class/powercap")
    readable = [domain for domain in domains if hostfiles.read_int(domain / "energy_uj") is not None]
    if not readable:
        return Absent(reason="RAPL counters can't be read: needs root, or read permission on energy_uj")
    readable.sort(key=lambda domain: domain.name.count(":"))
    return PolledSampler("rapl", [(_sensor(domain, root), _reader(domain / "energy_uj")) for domain in readable])


def _sensor(domain: Path, root: Path) -> Sensor:
    name = hostfiles.read_text(domain / "name") or domain.name
    package = _parent_name(domain, root)
    maximum_uj = hostfiles.read_int(domain / "max_energy_range_uj")
    scope = _SCOPES.get(name, f"CPU {name}")
    return Sensor(
        name=f"{package} {name}".strip(),
        quantity=Quantity.ENERGY_MJ,
        source="rapl",
        scope=f"{scope} ({package})" if package else scope,
        resolution=_STEP_MJ,
        quality=_quality(root),
        wrap_at=None if maximum_uj is None else maximum_uj / 1000,
        part_of=package if name in ("core", "uncore") else "",  # memory is counted outside the package
        update_ns=_UPDATE_NS,
    )


def _quality(root: Path) -> Quality:
    """Intel measures since Haswell; AMD's counters follow a model of activity (Schöne et al. 2021)."""
    amd = "AuthenticAMD" in (hostfiles.read_text(root / "proc/cpuinfo") or "")
    return Quality.MODELLED if amd else Quality.MEASURED


def _parent_name(domain: Path, root: Path) -> str:
    """Name of the package that a sub-domain `intel-rapl:0:1` belongs to; empty for a package."""
    parent = domain.name.rpartition(":")[0]
    if parent.count(":") == 0:
        return ""
    return hostfiles.read_text(root / "sys/class/powercap" / parent / "name") or parent


def _reader(path: Path) -> Callable[[], float | None]:
    def energy_mj() -> float | None:
        microjoules = hostfiles.read_int(path)
        return None if microjoules is None else microjoules / 1000

    return energy_mj
