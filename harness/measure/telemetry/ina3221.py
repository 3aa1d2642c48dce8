"""Power rails straight from the INA3221 chips of a Jetson, without the jtop service: volts times amperes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import hostfiles
from harness.measure.telemetry.base import Absent, PolledSampler
from harness.measure.telemetry.rails import rail_sensors, step_mw, widest_first

_CHANNELS = (1, 2, 3)  # in7 is the sum of shunt voltages: no rail


@dataclass(frozen=True, kw_only=True)
class _Rail:
    """The files of one channel of one chip, in mV and mA."""

    label: str
    millivolts: Path
    milliamperes: Path


def find(root: Path) -> PolledSampler | Absent:
    """A sampler over the rails of every INA3221 under `root`, the module's own rail first."""
    found = {rail.label: rail for device in _devices(root) for folder in _folders(device) for rail in _rails(folder)}
    if not found:
        return Absent(reason="no INA3221 channel under /sys/bus/i2c/drivers")
    names = widest_first(list(found))
    steps = [step_mw(hostfiles.read_int(found[name].millivolts) or 5000) for name in names]
    sensors = rail_sensors(names, "ina3221", steps)
    return PolledSampler("ina3221", [(s, _reader(found[s.name])) for s in sensors])


def _devices(root: Path) -> list[Path]:
    """Chips bound to a driver (`ina3221` upstream, `ina3221x` in old JetPacks), each once, by address."""
    chips = (root / "sys/bus/i2c/drivers").glob("ina3221*/*-*")
    return [folder for _, folder in sorted({folder.name: folder for folder in chips if folder.is_dir()}.items())]


def _folders(device: Path) -> list[Path]:
    """Where the channels of a chip are: hwmon now; the device itself or an IIO device with old kernels."""
    return [*sorted(device.glob("hwmon/hwmon*")), device, *sorted(device.glob("iio:device*"))]


def _rails(folder: Path) -> list[_Rail]:
    """Connected channels of a folder; a label NC means that no rail is wired to the channel."""
    rails = []
    for number in _CHANNELS:
        rail = _hwmon_rail(folder, number) or _iio_rail(folder, number - 1)
        if rail and rail.label and "NC" not in rail.label.split() and hostfiles.read_int(rail.milliamperes) is not None:
            rails.append(rail)
    return rails


def _hwmon_rail(folder: Path, number: int) -> _Rail | None:
    label = hostfiles.read_text(folder / f"in{number}_label")
    if label is None or hostfiles.read_text(folder / f"in{number}_enable") == "0":
        return None
    voltage, current = folder / f"in{number}_input", folder / f"curr{number}_input"
    return _Rail(label=label, millivolts=voltage, milliamperes=current)


def _iio_rail(folder: Path, number: int) -> _Rail | None:
    label = hostfiles.read_text(folder / f"rail_name_{number}")
    if label is None:
        return None
    voltage, current = folder / f"in_voltage{number}_input", folder / f"in_current{number}_input"
    return _Rail(label=label, millivolts=voltage, milliamperes=current)


def _reader(rail: _Rail) -> Callable[[], float | None]:
    def power_mw() -> float | None:
        millivolts, milliamperes = hostfiles.read_int(rail.millivolts), hostfiles.read_int(rail.milliamperes)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1000

    return power_mw
