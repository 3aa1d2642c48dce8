"""A Jetson through the jtop service of jetson-stats (an optional extra): every update that the server sends, once.

The server decides the rate: the first client sets it, later ones take what they find. Its `avg` is no mean over a
window: only `power` is kept. Where the board has no rail for the whole module, jtop adds overlapping rails up: that sum
is not taken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from harness.clock import now_ns
from harness.measure.telemetry.base import Absent, Sample, Sensor, SensorLost
from harness.measure.telemetry.rails import rail_sensors, step_mw, widest_first
from harness.terms import Quantity
from harness.units import BYTES_PER_KIB, NS_PER_S

SOCKET = "run/jtop.sock"
_OFFLINE_CELSIUS = -256
_SHUTDOWN_S = 1.0
_NVMAP_NAME = "jtop NvMapMemUsed"


class JtopClient(Protocol):
    """The part of `jtop.jtop` that is used."""

    @property
    def interval(self) -> float:
        """Seconds between two updates of the server."""

    @property
    def power(self) -> Mapping[str, Any]:
        """`rail`: name -> volt, curr, power; `tot`: the same and its name."""

    @property
    def temperature(self) -> Mapping[str, Any]:
        """Zone -> temp, online."""

    @property
    def memory(self) -> Mapping[str, Any]:
        """`RAM`: used, tot, shared in KiB."""

    def attach(self, observer: Callable[[Any], None]) -> None:
        """Call `observer` in the client's thread after each update."""

    def start(self) -> None:
        """Connect; raises when there is no server or it speaks another version."""

    def ok(self, spin: bool) -> bool:
        """Whether the client still runs; raises what ended it."""

    def close(self) -> None:
        """Let the thread end."""


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


class JtopSampler:
    """A connected client."""

    name = "jtop"
    every_ticks = 1

    def __init__(self, client: JtopClient, sensors: tuple[Sensor, ...]) -> None:
        self.sensors = sensors
        self._client = client
        self._inbox = Inbox(sensors)
        client.attach(self._update)

    def _update(self, client: JtopClient) -> None:
        self._inbox.put(values_of(client))

    def poll(self) -> list[Sample]:
        """Updates since the last call; a client that has ended is told as lost."""
        try:
            if not self._client.ok(spin=True):
                self._inbox.lose("the jtop client stopped")
        except Exception as error:  # noqa: BLE001  # the client raises whatever ended its thread
            self._inbox.lose(f"connection with the jtop server lost: {_first_line(error)}")
        return self._inbox.take()

    def notes(self) -> dict[str, str]:
        """Nothing to add."""
        return {}

    def close(self) -> None:
        """Stop the client; bounded, because its `close` waits for a thread that looks at the board's libraries."""
        closing = threading.Thread(target=self._client.close, daemon=True)
        closing.start()
        closing.join(_SHUTDOWN_S)


def _rails(client: JtopClient) -> dict[str, Mapping[str, Any]]:
    """Rails by name, with the board's own total under the name of its rail."""
    rails = dict(client.power["rail"])
    total = client.power["tot"]
    if total.get("name"):
        rails[str(total["name"])] = total
    return rails


def values_of(client: JtopClient) -> dict[str, float | None]:
    """One update: rails in mW, zones in degrees Celsius, NvMap memory in bytes."""
    values: dict[str, float | None] = {name: rail.get("power") for name, rail in _rails(client).items()}
    for name, zone in client.temperature.items():
        online = zone.get("online", True) and zone["temp"] > _OFFLINE_CELSIUS
        values[f"{name} zone"] = zone["temp"] if online else None
    shared = client.memory.get("RAM", {}).get("shared")
    values[_NVMAP_NAME] = None if shared is None else shared * BYTES_PER_KIB
    return values


def _sensors(client: JtopClient) -> tuple[Sensor, ...]:
    rails = _rails(client)
    names = widest_first(list(rails))
    sensors = rail_sensors(names, "jtop", [step_mw(rails[name].get("volt", 5000)) for name in names])
    for name, value in values_of(client).items():
        if name.endswith(" zone") and value is not None:
            sensors.append(_sensor(name, Quantity.TEMPERATURE_CELSIUS, f"thermal {name}", 0.5))
    sensors.append(_sensor(_NVMAP_NAME, Quantity.MEMORY_BYTES, "GPU allocations in unified memory", float(4096)))
    return tuple(sensors)


def _sensor(name: str, quantity: Quantity, scope: str, resolution: float) -> Sensor:
    return Sensor(name=name, quantity=quantity, source="jtop", scope=scope, resolution=resolution)


def find(root: Path, period_ns: int, make: Callable[[float], JtopClient] | None = None) -> JtopSampler | Absent:
    """Connect to the jtop server of this machine; `make` builds the client for an interval in seconds."""
    if not (root / SOCKET).exists():
        return Absent(reason="no jtop service (no /run/jtop.sock)")
    if make is None and root != Path("/"):
        return Absent(reason="jtop serves only the machine itself, not a folder")
    try:
        client = (make or _client)(period_ns / NS_PER_S)
        client.start()
        sensors = _sensors(client)
    except ImportError:
        return Absent(reason="jtop service found, but no jetson-stats here: install the extra `jetson`")
    except Exception as error:  # noqa: BLE001  # the client raises anything: its own, OSError, KeyError
        return Absent(reason=f"jtop: {_first_line(error)}; client and service must be of one major.minor version")
    return JtopSampler(client, sensors)


def _client(interval_s: float) -> JtopClient:
    from jtop import jtop  # noqa: PLC0415  # an optional extra

    client: JtopClient = jtop(interval=interval_s)
    return client


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
