"""Readings that a thread receives and the session collects: the common part of jtop and tegrastats."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from harness.clock import now_ns
from harness.measure.telemetry.base import Sample, Sensor, SensorLost


class Inbox:
    """Readings in order of arrival; `put` and `lose` are called by one thread, `take` by another."""

    def __init__(self, sensors: tuple[Sensor, ...]) -> None:
        self._places = {sensor.name: place for place, sensor in enumerate(sensors)}
        self._samples: deque[Sample] = deque()  # append and popleft are atomic
        self._lost = ""

    def put(self, values: Mapping[str, float | None]) -> None:
        """File the values of one update under the present time; names that are no sensor of ours are left out."""
        at_ns = now_ns()
        for name, value in values.items():
            if value is not None and name in self._places:
                self._samples.append(Sample(self._places[name], at_ns, value))

    def lose(self, reason: str) -> None:
        """Nothing more will come."""
        self._lost = self._lost or reason

    def take(self) -> list[Sample]:
        """Everything that has arrived.

        Raises:
            SensorLost: the source is gone, and all that it sent has been taken.
        """
        lost = self._lost  # before the samples: what arrived earlier must not be dropped
        taken = [self._samples.popleft() for _ in range(len(self._samples))]
        if lost and not taken:
            raise SensorLost(lost)
        return taken
