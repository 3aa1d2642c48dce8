"""Power rails and temperatures from NVIDIA's `tegrastats`, the last resort on a Jetson.

A line holds `NAME 4654mW/4654mW` (now / mean since tegrastats began: only the first counts), `name@47.8C` and
`RAM used/totalMB`. Lines that make no sense are counted, filed, and change nothing.
"""

from __future__ import annotations

import queue
import re
import subprocess
import threading
from pathlib import Path

from harness.clock import now_ns
from harness.measure.telemetry.base import Absent, Sample, Sensor, SensorLost
from harness.measure.telemetry.rails import rail_sensors, widest_first
from harness.terms import Quantity
from harness.units import NS_PER_MS

_RAIL = re.compile(r"\b((?:VDD|VIN|POM)\w*) (\d+)(?:mW)?/\d+(?:mW)?(?= |$)")
_ZONE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_RAM = re.compile(r"\bRAM (\d+)/\d+MB\b")
_RAM_NAME = "tegrastats RAM"
_PLACES = ("usr/bin/tegrastats", "home/nvidia/tegrastats")
_STEP_MW = 40.0  # 8 mA at 5 V: the line does not give the rail's voltage
_FIRST_LINES = 3
_FIRST_LINE_S = 3.0
_SHUTDOWN_S = 1.0


def parse_line(line: str) -> dict[str, float]:
    """Rails in mW, zones in degrees Celsius and RAM in bytes, by name; empty when the line holds no rail."""
    rails = {name: float(milliwatts) for name, milliwatts in _RAIL.findall(line)}
    if not rails:
        return {}
    zones = {f"{name} zone": float(value) for name, value in _ZONE.findall(line) if float(value) > -256}
    ram = _RAM.search(line)
    return rails | zones | ({_RAM_NAME: float(ram[1]) * (1 << 20)} if ram else {})


def line_sensors(values: dict[str, float]) -> tuple[Sensor, ...]:
    """Sensors for what a first line holds."""
    rails = widest_first([name for name in values if not name.endswith(" zone") and name != _RAM_NAME])
    sensors = rail_sensors(rails, "tegrastats", [_STEP_MW] * len(rails))
    sensors += [_zone_sensor(name) for name in values if name.endswith(" zone")]
    if _RAM_NAME in values:
        sensors.append(
            Sensor(
                name=_RAM_NAME,
                quantity=Quantity.MEMORY_BYTES,
                source="tegrastats",
                scope="memory of the board in use, CPU and GPU",
                resolution=float(1 << 20),
            )
        )
    return tuple(sensors)


def _zone_sensor(name: str) -> Sensor:
    return Sensor(
        name=name,
        quantity=Quantity.TEMPERATURE_CELSIUS,
        source="tegrastats",
        scope=f"thermal {name}",
        resolution=0.5,
    )


class _Reader:
    """A running tegrastats whose lines a thread collects with the time of their arrival."""

    def __init__(self, program: Path, period_ns: int) -> None:
        interval_ms = max(1, period_ns // NS_PER_MS)
        self.process = subprocess.Popen(
            [str(program), "--interval", str(interval_ms)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self.lines: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()  # None: the end
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101  # for the type checker: opened as a pipe
        with self.process.stdout as stdout:
            for line in stdout:
                self.lines.put((now_ns(), line))
        self.lines.put(None)

    def close(self) -> None:
        """End the program, by force if it does not listen; the pipe's end then ends the thread."""
        self.process.terminate()
        try:
            self.process.wait(_SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join(_SHUTDOWN_S)


class TegrastatsSampler:
    """Lines of a running tegrastats as samples."""

    name = "tegrastats"
    every_ticks = 1

    def __init__(self, reader: _Reader, sensors: tuple[Sensor, ...]) -> None:
        self.sensors = sensors
        self._reader = reader
        self._places = {sensor.name: place for place, sensor in enumerate(sensors)}
        self._garbage = 0

    def poll(self) -> list[Sample]:
        """Samples of the lines since the last call."""
        samples: list[Sample] = []
        while not self._reader.lines.empty():
            entry = self._reader.lines.get()
            if entry is None:
                self._reader.lines.put(None)  # the end stays the end
                if samples:
                    return samples
                raise SensorLost("tegrastats ended")
            values = parse_line(entry[1])
            self._garbage += not values
            known = ((self._places[name], value) for name, value in values.items() if name in self._places)
            samples += [Sample(place, entry[0], value) for place, value in known]
        return samples

    def notes(self) -> dict[str, str]:
        """Lines without a single rail."""
        return {"tegrastats lines": f"{self._garbage} lines not understood"} if self._garbage else {}

    def close(self) -> None:
        """End the program."""
        self._reader.close()


def find(root: Path, period_ns: int) -> TegrastatsSampler | Absent:
    """Start tegrastats and learn from its first good line which rails this board has."""
    program = next((root / place for place in _PLACES if (root / place).is_file()), None)
    if program is None:
        return Absent(reason="no tegrastats program")
    try:
        reader = _Reader(program, period_ns)
    except OSError as error:
        return Absent(reason=f"tegrastats does not start: {error.strerror}")
    sensors = _first_sensors(reader)
    if sensors:
        return TegrastatsSampler(reader, sensors)
    reader.close()
    return Absent(reason="tegrastats printed no power rail")


def _first_sensors(reader: _Reader) -> tuple[Sensor, ...]:
    """Sensors of the first line that holds a rail; the very first may be torn."""
    for _ in range(_FIRST_LINES):
        try:
            entry = reader.lines.get(timeout=_FIRST_LINE_S)
        except queue.Empty:
            return ()
        if entry is None:
            return ()
        sensors = line_sensors(parse_line(entry[1]))
        if sensors:
            return sensors
    return ()
