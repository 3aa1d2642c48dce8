"""NVIDIA GPUs through NVML (nvidia-ml-py, an optional extra): energy, temperature, clocks, memory, throttling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from harness.measure.telemetry.base import Absent, PolledSampler, Sensor
from harness.terms import Quantity

# nvmlClocksEventReasons that cost speed against the GPU's own settings: slow-down by hardware, by temperature, by the
# power brake. The software power cap (0x4) is left out: at its limit a GPU works as set.
_THROTTLE_BITS = 0x08 | 0x20 | 0x40 | 0x80
_CLOCKS = {"SM clock": 1, "memory clock": 2}  # nvmlClockType_t
_CORE_TEMPERATURE = 0  # nvmlTemperatureSensors_t


class Nvml(Protocol):
    """The part of the module `pynvml` that is used; every call may raise `NVMLError`."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802, D102
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802, D102
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802, D102
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int: ...  # noqa: N802, D102
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: N802, D102
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: N802, D102
    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> int: ...  # noqa: N802, D102
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802, D102
    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int: ...  # noqa: N802, D102


_Reader = tuple[Sensor, Callable[[], float | None]]


def find(load: Callable[[], Nvml] | None = None) -> PolledSampler | Absent:
    """A sampler over every GPU; what a GPU does not tell is left out."""
    try:
        library = (load or _library)()
    except ImportError:
        return Absent(reason="no nvidia-ml-py here: install the extra `nvidia`")
    try:
        library.nvmlInit()
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
    except library.NVMLError as error:
        return Absent(reason=f"NVML: {error}")
    readers = [reader for index, handle in enumerate(handles) for reader in _readers(library, index, handle)]
    return PolledSampler("nvml", readers) if readers else Absent(reason="NVML: no GPU")


def _readers(library: Nvml, index: int, handle: Any) -> list[_Reader]:
    """Everything that answers once; energy in front, power only where there is no energy counter."""
    energy = [_energy(library, index, handle), _power(library, index, handle)]
    first = next((reader for reader in energy if reader[1]() is not None), None)
    others = [_temperature(library, index, handle), _memory(library, index, handle), _throttle(library, index, handle)]
    others += [_clock(library, index, handle, name) for name in _CLOCKS]
    return ([first] if first else []) + [reader for reader in others if reader[1]() is not None]


def _guarded(library: Nvml, call: Callable[[], float]) -> Callable[[], float | None]:
    def value() -> float | None:
        try:
            return float(call())
        except library.NVMLError:
            return None

    return value


def _sensor(index: int, name: str, quantity: Quantity, resolution: float) -> Sensor:
    scope = f"GPU {index}, whole board, without the host"
    return Sensor(name=f"gpu{index} {name}", quantity=quantity, source="nvml", scope=scope, resolution=resolution)


def _energy(library: Nvml, index: int, handle: Any) -> _Reader:
    read = _guarded(library, lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle))
    return _sensor(index, "energy", Quantity.ENERGY_MJ, 1.0), read


def _power(library: Nvml, index: int, handle: Any) -> _Reader:
    read = _guarded(library, lambda: library.nvmlDeviceGetPowerUsage(handle))
    return _sensor(index, "power", Quantity.POWER_MW, 1.0), read


def _temperature(library: Nvml, index: int, handle: Any) -> _Reader:
    read = _guarded(library, lambda: library.nvmlDeviceGetTemperature(handle, _CORE_TEMPERATURE))
    return _sensor(index, "temperature", Quantity.TEMPERATURE_CELSIUS, 1.0), read


def _memory(library: Nvml, index: int, handle: Any) -> _Reader:
    read = _guarded(library, lambda: library.nvmlDeviceGetMemoryInfo(handle).used)
    return _sensor(index, "memory", Quantity.MEMORY_BYTES, 1.0), read


def _throttle(library: Nvml, index: int, handle: Any) -> _Reader:
    read = _guarded(library, lambda: bool(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & _THROTTLE_BITS))
    return _sensor(index, "throttle", Quantity.THROTTLE, 1.0), read


def _clock(library: Nvml, index: int, handle: Any, name: str) -> _Reader:
    read = _guarded(library, lambda: library.nvmlDeviceGetClockInfo(handle, _CLOCKS[name]))
    return _sensor(index, name, Quantity.CLOCK_MHZ, 1.0), read


def _library() -> Nvml:
    import pynvml  # noqa: PLC0415  # an optional extra

    library: Nvml = pynvml
    return library
