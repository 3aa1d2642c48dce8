"""Power readings of a run, packed while it is read: those of a hundred thousand runs fit into memory only so."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from harness.analysis.energy import RunPower, Window
from harness.analysis.energy_truth import ENERGY
from harness.analysis.views import BurstView
from harness.records import Telemetry


@dataclass(frozen=True, slots=True)
class PackedPower:
    """What one run gives to energy: its power channels compressed, and its windows."""

    readings: bytes
    windows: tuple[Window, ...]

    def unpack(self, run_id: str, *, drifted: bool = False) -> RunPower:
        """As `harness.analysis.energy` takes it."""
        telemetry = msgspec.msgpack.decode(zlib.decompress(self.readings), type=Telemetry)
        return RunPower(run_id=run_id, telemetry=telemetry, windows=self.windows, drifted=drifted)


def pack(telemetry: Telemetry | None, bursts: Sequence[BurstView]) -> PackedPower | None:
    """Keeps power and energy channels; null where there is neither."""
    channels = tuple(c for c in telemetry.channels if c.quantity in ENERGY) if telemetry else ()
    if telemetry is None or not channels:
        return None
    kept = msgspec.msgpack.encode(msgspec.structs.replace(telemetry, channels=channels))
    windows = tuple(Window(kind=b.kind, start_ns=b.start_ns, end_ns=b.end_ns, tokens=b.tokens) for b in bursts)
    return PackedPower(zlib.compress(kept, level=1), windows)


def why_no_power(telemetry: Telemetry | None) -> str:
    """Reason why a run has no power readings; empty where it has some."""
    if telemetry is None:
        return "no telemetry in the record"
    if any(channel.quantity in ENERGY for channel in telemetry.channels):
        return ""
    return telemetry.absent.get("energy") or "no power or energy channel"
