"""Power modes: read by name, set by name, and read back after setting.

Sources: NVIDIA's nvpmodel (ids differ by board and release, so only names count), `pmset` on macOS, the platform
profile and the frequency governor on other Linux machines.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import hostfiles
from harness.errors import EnvironmentLacking

Ask = Callable[[Sequence[str]], str | None]
_ANSWER_S = 20.0
_CONF = "etc/nvpmodel.conf"
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")
_CURRENT = re.compile(r"NV Power Mode:\s*(\S+)")


def ask_program(command: Sequence[str]) -> str | None:
    """What a program prints, or None when it is missing, fails or takes over 20 s."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def nvpmodel_modes(root: Path) -> dict[str, int]:
    """Modes of this board by name, from /etc/nvpmodel.conf; empty where there is none."""
    return {name: int(number) for number, name in _MODE.findall(hostfiles.read_text(root / _CONF) or "")}


def current_nvpmodel(ask: Ask = ask_program) -> str | None:
    """Name of the mode that is set, as `nvpmodel -q` tells it."""
    found = _CURRENT.search(ask(["nvpmodel", "-q"]) or "")
    return found[1] if found else None


def set_nvpmodel(name: str, root: Path = Path("/"), ask: Ask = ask_program) -> None:
    """Set a mode by its name and read it back.

    Raises:
        EnvironmentLacking: the board has no such mode, or another one stands after setting (a reboot may be due).
    """
    modes = nvpmodel_modes(root)
    if name not in modes:
        known = ", ".join(modes) or "none"
        raise EnvironmentLacking(
            f"no power mode {name!r} (modes: {known})", where=f"/{_CONF}", cure="name one of them in the device profile"
        )
    ask(["nvpmodel", "-m", str(modes[name])])
    standing = current_nvpmodel(ask)
    if standing != name:
        raise EnvironmentLacking(
            f"power mode {name} was set, but {standing} is read back",
            where="nvpmodel",
            cure=f"run `sudo nvpmodel -m {modes[name]}`; reboot if it asks for it",
        )


def low_power_mode(root: Path = Path("/"), ask: Ask = ask_program) -> bool | None:
    """Whether the machine saves power at the cost of speed; None where it is not told."""
    if sys.platform == "darwin":
        found = re.search(r"\blowpowermode\s+(\d)", ask(["pmset", "-g"]) or "")
        return None if found is None else found[1] == "1"
    profile = hostfiles.read_text(root / "sys/firmware/acpi/platform_profile")
    return None if profile is None else profile in ("low-power", "quiet")


def on_battery(root: Path = Path("/"), ask: Ask = ask_program) -> bool | None:
    """Whether the machine runs from a battery; None where it is not told (a machine without one)."""
    if sys.platform == "darwin":
        found = re.search(r"Now drawing from '(.+?)'", ask(["pmset", "-g", "batt"]) or "")
        return None if found is None else found[1] == "Battery Power"
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    mains = [hostfiles.read_int(s / "online") for s in supplies if hostfiles.read_text(s / "type") == "Mains"]
    return None if not mains else not any(mains)


def describe(root: Path = Path("/"), ask: Ask = ask_program) -> str:
    """The power mode for `records.Provenance`: "nvpmodel 15W", "low power mode", "governor schedutil", "not told"."""
    mode = current_nvpmodel(ask) if nvpmodel_modes(root) else None
    if mode is not None:
        return f"nvpmodel {mode}"
    if low_power_mode(root, ask):
        return "low power mode"
    governors = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    names = sorted({name for path in governors if (name := hostfiles.read_text(path))})
    return f"governor {'/'.join(names)}" if names else "not told"
