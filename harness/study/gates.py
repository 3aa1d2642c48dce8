"""Gates: what must be so before a run begins; a closed one is waited for and shown, one that never opens fails the run.

A gate whose quantity this machine does not tell is open: the record says what is absent. Gates read under an injectable
root, so a test closes them with a folder.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness import hostfiles
from harness.clock import now_ns
from harness.records import GateWait
from harness.study import power_mode
from harness.study.power_mode import Ask, ask_program
from harness.units import NS_PER_S, human_bytes

Sleep = Callable[[float], None]
_LOAD_WINDOW_S = 0.5


@dataclass(frozen=True)
class Closed:
    """Why a gate is closed."""

    reason: str


class Gate(Protocol):
    """One condition."""

    @property
    def name(self) -> str:
        """How the record and the terminal call it."""

    def check(self, root: Path) -> Closed | None:
        """None: open."""


@dataclass(frozen=True, kw_only=True)
class TemperatureBand:
    """The hottest zone must lie in a band, so that every run starts alike."""

    highest_celsius: float
    lowest_celsius: float = -40.0
    name: str = "temperature"

    def check(self, root: Path) -> Closed | None:
        """Compare the hottest zone."""
        values = {name: hostfiles.celsius(path) for name, path in hostfiles.thermal_zones(root).items()}
        known = {name: value for name, value in values.items() if value is not None}
        if not known:
            return None
        zone, hottest = max(known.items(), key=lambda item: item[1])
        if self.lowest_celsius <= hottest <= self.highest_celsius:
            return None
        band = f"{self.lowest_celsius:.0f} to {self.highest_celsius:.0f} °C"
        return Closed(f"{zone} is at {hottest:.1f} °C, outside {band}")


@dataclass(frozen=True, kw_only=True)
class NoThrottling:
    """No throttle alert may be up."""

    name: str = "throttling"
    ask: Ask = ask_program

    def check(self, root: Path) -> Closed | None:
        """Look at the kernel's alerts; on macOS at `pmset -g therm`."""
        told = self.ask(["pmset", "-g", "therm"]) if sys.platform == "darwin" else None
        if told is not None:  # another machine's ask, from a Mac, tells nothing
            limits = [line for line in told.splitlines() if "_Limit" in line]
            slow = [line.strip() for line in limits if line.rpartition("=")[2].strip() not in ("100", "0")]
            return Closed("; ".join(slow)) if slow else None
        active = [name for name, path in hostfiles.throttle_alerts(root).items() if (hostfiles.read_int(path) or 0) > 0]
        return Closed(f"throttled: {', '.join(active)}") if active else None


@dataclass(frozen=True, kw_only=True)
class NvpModel:
    """The power mode must be the profile's, by name, as read back."""

    mode: str
    name: str = "power mode"
    ask: Ask = ask_program

    def check(self, root: Path) -> Closed | None:
        """Read `nvpmodel -q`."""
        standing = power_mode.current_nvpmodel(self.ask)
        if standing == self.mode:
            return None
        number = power_mode.nvpmodel_modes(root).get(self.mode)
        cure = f"sudo nvpmodel -m {number}" if number is not None else "this board has no such mode"
        return Closed(f"nvpmodel is {standing or 'not readable'}, the profile demands {self.mode} ({cure})")


@dataclass(frozen=True, kw_only=True)
class JetsonClocks:
    """Clocks must be pinned at the caps of the power mode."""

    name: str = "jetson_clocks"

    def check(self, root: Path) -> Closed | None:
        """Compare lower and upper bounds of CPU and GPU clocks."""
        loose = hostfiles.unpinned_clocks(root)
        if loose is None:
            return Closed("clock bounds can't be read")
        return Closed(f"not pinned: {', '.join(loose)} (sudo jetson_clocks)") if loose else None


@dataclass(frozen=True, kw_only=True)
class LowPowerModeOff:
    """Low Power Mode (macOS) or a saving platform profile must be off."""

    name: str = "low power mode"
    ask: Ask = ask_program

    def check(self, root: Path) -> Closed | None:
        """Ask the system."""
        saving = power_mode.low_power_mode(root, self.ask)
        return Closed("the machine saves power: switch Low Power Mode off") if saving else None


@dataclass(frozen=True, kw_only=True)
class AcPower:
    """No run from a battery."""

    name: str = "AC power"
    ask: Ask = ask_program

    def check(self, root: Path) -> Closed | None:
        """Ask the system."""
        return (
            Closed("running from the battery: plug the machine in") if power_mode.on_battery(root, self.ask) else None
        )


@dataclass(frozen=True, kw_only=True)
class ForeignLoad:
    """Others may use at most so many CPUs' time; at a gate nothing of ours is at work."""

    highest_cpus: float
    name: str = "foreign load"
    sleep: Sleep = time.sleep
    clock: Callable[[], int] = now_ns

    def check(self, root: Path) -> Closed | None:
        """Watch the machine's CPU time for half a second."""
        before, start_ns = hostfiles.cpu_times(root), self.clock()
        self.sleep(_LOAD_WINDOW_S)
        after, span_ns = hostfiles.cpu_times(root), self.clock() - start_ns
        if before is None or after is None or span_ns <= 0:
            return None
        cpus = (after.busy_ns - before.busy_ns) / span_ns
        return (
            Closed(f"others use {cpus:.2f} CPUs, allowed {self.highest_cpus:.2f}") if cpus > self.highest_cpus else None
        )


@dataclass(frozen=True, kw_only=True)
class FreeDisk:
    """Room for records and generated weights."""

    folder: Path
    needed_bytes: int
    name: str = "free disk"

    def check(self, root: Path) -> Closed | None:  # noqa: ARG002  # a disk has no fake root: the folder says it
        """Compare free space of the folder's file system."""
        free = shutil.disk_usage(self.folder).free
        if free >= self.needed_bytes:
            return None
        return Closed(f"{human_bytes(free)} free in {self.folder.name}, {human_bytes(self.needed_bytes)} needed")


OnWait = Callable[[str, str, int], None]  # gate, reason, nanoseconds waited so far


def wait_until_fit(
    gates: Sequence[Gate],
    *,
    root: Path = Path("/"),
    timeout_s: float = 600.0,
    poll_s: float = 2.0,
    clock: Callable[[], int] = now_ns,
    sleep: Sleep = time.sleep,
    on_wait: OnWait = lambda _gate, _reason, _waited_ns: None,
    refresh: Callable[[], None] = lambda: None,
) -> tuple[GateWait, ...]:
    """Wait until all gates are open in one pass, or until the time is up.

    Returns:
        One entry for each gate that was closed at some time, with its last reason. Entries with `opened=False` were
        closed when the time was up: the run must not begin.
    """
    start_ns = clock()
    waits: dict[str, GateWait] = {}
    while True:
        refresh()
        closed = {gate.name: state.reason for gate in gates if (state := gate.check(root)) is not None}
        waited_ns = clock() - start_ns
        for name, wait in waits.items():
            if name not in closed and not wait.opened:
                waits[name] = _wait(name, waited_ns, wait.reason, opened=True)
        for name, reason in closed.items():
            waits[name] = _wait(name, waited_ns, reason, opened=False)
            on_wait(name, reason, waited_ns)
        if not closed or waited_ns >= timeout_s * NS_PER_S:
            return tuple(waits.values())
        sleep(poll_s)


def _wait(gate: str, waited_ns: int, reason: str, *, opened: bool) -> GateWait:
    return GateWait(gate=gate, waited_ns=waited_ns, reason=reason, opened=opened)


def all_open(waits: Sequence[GateWait]) -> bool:
    """Whether the run may begin."""
    return all(wait.opened for wait in waits)
