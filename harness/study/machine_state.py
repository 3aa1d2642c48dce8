"""How the machine is set, before and after a run: what changed under it, and what should not have been so at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.records import Taint
from harness.study import power_mode
from harness.study.power_mode import Ask, ask_program
from harness.terms import TaintKind


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """Null where the machine does not tell."""

    power_mode: str
    saving: bool | None
    on_battery: bool | None


def read(root: Path = Path("/"), ask: Ask = ask_program) -> MachineState:
    """As it stands now."""
    return MachineState(
        power_mode=power_mode.describe(root, ask),
        saving=power_mode.low_power_mode(root, ask),
        on_battery=power_mode.on_battery(root, ask),
    )


def state_taints(before: MachineState, after: MachineState) -> tuple[Taint, ...]:
    """Another power mode at the end than at the start; saving power, or running from a battery, at either end."""
    return tuple(_taints(before, after))


def _taints(before: MachineState, after: MachineState) -> Iterator[Taint]:
    if before.power_mode != after.power_mode:
        detail = f"{before.power_mode} when the run began, {after.power_mode} at its end"
        yield Taint(kind=TaintKind.POWER_MODE_CHANGED, detail=detail)
    if before.saving or after.saving:
        yield Taint(kind=TaintKind.LOW_POWER_MODE, detail="the machine saved power during the run")
    if before.on_battery or after.on_battery:
        yield Taint(kind=TaintKind.ON_BATTERY, detail="the machine ran from its battery during the run")
