"""Power rails and temperatures from NVIDIA's `tegrastats`, the last resort on a Jetson.

A line holds `NAME 4654mW/4654mW` (now / mean since tegrastats began: only the first counts), `name@47.8C` and
`RAM used/totalMB`. Lines that make no sense are counted, filed, and change nothing.
"""

from __future__ import annotations

import re
import select
import signal
import subprocess
import threading
from pathlib import Path

from harness.measure.telemetry.base import Absent, Sample, Sensor
from harness.measure.telemetry.push import Inbox
from harness.measure.telemetry.rails import rail_sensors, widest_first
from harness.records import Quantity
from harness.units import NS_PER_MS

_RAIL = re.compile(r"\b((?:VDD|VIN|POM)\w*) (\d+)(?:mW)?/\d+(?:mW)?(?= |$)")
_ZONE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_RAM = re.compile(r"\bRAM (\d+)/\d+MB\b")
_RAM_NAME = "tegrastats RAM"
_PLACES = ("usr/bin/tegrastats", "home/nvidia/tegrastats")
_STEP_MW = 40.0  # 8 mA at 5 V: the line does not give the rail's voltage
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


class TegrastatsSampler:
    """A running tegrastats whose lines a thread reads."""

    name = "tegrastats"
    every_ticks = 1

    def __init__(self, process: subprocess.Popen[str], sensors: tuple[Sensor, ...]) -> None:
        self.sensors = sensors
        self._process = process
        self._inbox = Inbox(sensors)
        self._garbage = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  # for the type checker: opened as a pipe
        for line in self._process.stdout:
            values = parse_line(line)
            self._garbage += not values
            self._inbox.put(values)
        self._inbox.lose("tegrastats ended")

    def poll(self) -> list[Sample]:
        """Lines since the last call."""
        return self._inbox.take()

    def notes(self) -> dict[str, str]:
        """Lines without a single rail."""
        return {"tegrastats lines": f"{self._garbage} lines not understood"} if self._garbage else {}

    def close(self) -> None:
        """End the program, by force if it does not listen."""
        _end(self._process)
        self._thread.join(_SHUTDOWN_S)


def find(root: Path, period_ns: int) -> TegrastatsSampler | Absent:
    """Start tegrastats and learn from its first line which rails this board has."""
    program = next((root / place for place in _PLACES if (root / place).is_file()), None)
    if program is None:
        return Absent(reason="no tegrastats program")
    interval_ms = max(1, period_ns // NS_PER_MS)
    process = subprocess.Popen(
        [str(program), "--interval", str(interval_ms)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    for _ in range(3):  # the first line may be torn
        sensors = line_sensors(parse_line(_first_line(process)))
        if sensors:
            return TegrastatsSampler(process, sensors)
    _end(process)
    return Absent(reason="tegrastats printed no power rail")


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # noqa: S101  # for the type checker: opened as a pipe
    ready, _, _ = select.select([process.stdout], [], [], _FIRST_LINE_S)
    return process.stdout.readline() if ready else ""


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_SHUTDOWN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
