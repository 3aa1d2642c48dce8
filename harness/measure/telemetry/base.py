"""What every make of sensor offers: sensors that say what they are, and samples with their own timestamps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from harness.clock import now_ns
from harness.terms import Quality, Quantity


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """A `records.Channel` before its samples; fields as there."""

    name: str
    quantity: Quantity
    source: str
    scope: str
    resolution: float
    quality: Quality = Quality.MEASURED
    wrap_at: float | None = None
    part_of: str = ""
    update_ns: int | None = None


class Sample(NamedTuple):
    """One reading: the sensor's place in `Sampler.sensors`, the middle of the reading in time, the value."""

    sensor: int
    at_ns: int
    value: float


class SensorLost(Exception):
    """The source of a sampler is gone for good; the session files the reason and goes on with the others."""


class Sampler(Protocol):
    """One source of readings. A source that pushes (jtop, tegrastats) collects in a thread and is emptied by `poll`."""

    @property
    def name(self) -> str:
        """Source, as in the channels."""

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Fixed for the sampler's life."""

    @property
    def every_ticks(self) -> int:
        """1 for what energy needs; more for what changes slowly."""

    def poll(self) -> Sequence[Sample]:
        """Readings since the last call; never waits. A sensor that can't be read now has none.

        Raises:
            SensorLost: nothing more will come.
        """

    def notes(self) -> dict[str, str]:
        """Things to file in the record's `absent` map, for example counts of lines that made no sense."""

    def close(self) -> None:
        """Let go of the source; bounded."""


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A source that this machine lacks, and why."""

    reason: str


class PolledSampler:
    """Sensors that are read by a call each: files of procfs and sysfs, library calls."""

    def __init__(
        self, name: str, readers: Sequence[tuple[Sensor, Callable[[], float | None]]], *, every_ticks: int = 1
    ) -> None:
        self.name = name
        self.sensors = tuple(sensor for sensor, _ in readers)
        self.every_ticks = every_ticks
        self._reads = tuple(read for _, read in readers)
        self._failed = [0] * len(readers)

    def poll(self) -> list[Sample]:
        """Read every sensor once; a failure is counted and leaves no sample."""
        samples = []
        for place, read in enumerate(self._reads):
            before_ns = now_ns()
            value = read()
            if value is None:
                self._failed[place] += 1
            else:
                samples.append(Sample(place, (before_ns + now_ns()) // 2, value))
        return samples

    def notes(self) -> dict[str, str]:
        """Sensors with failed reads."""
        failures = zip(self.sensors, self._failed, strict=True)
        return {f"{sensor.name} reads": f"{count} reads failed" for sensor, count in failures if count}

    def close(self) -> None:
        """Nothing is held open."""
