"""What this machine has, what it lacks, and how to mend it: each check by itself, none of them stops another."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec
import psutil

from harness import hostfiles
from harness.errors import BundleError, EnvironmentLacking
from harness.models import checksums, registry
from harness.models.checksums import FileState
from harness.records import Struct
from harness.study import config, detect_device, power_mode
from harness.study.power_mode import Ask, ask_program
from harness.terms import DeviceKind
from harness.units import BYTES_PER_GB, human_bytes

AUTO = "auto"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
DISK_BYTES = 20 * BYTES_PER_GB  # released weights 8.3 GB, proxies as much, an environment of 2.5 GB
MEMORY_BYTES = 8 * BYTES_PER_GB  # the largest model of the headline with its repacked copy
Which = Callable[[str], str | None]


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"  # something is lost, the study is not
    LACKING = "lacking"  # a command that needs it ends with exit code 3


class Check(Struct, frozen=True):
    """One thing looked at."""

    name: str
    state: State
    found: str
    cure: str = ""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The machine as the checks see it; tests hand over another."""

    root: Path = Path("/")
    machine: str = ""
    which: Which = shutil.which
    ask: Ask = ask_program


def doctor(root: Path, device: str = AUTO, bench: Bench | None = None) -> tuple[Check, ...]:
    """All checks for a device.

    Args:
        root: of the checkout.
        device: `auto` or the name of a device profile.
        bench: the machine; default: this one.

    Raises:
        UsageError: there is no such device.
    """
    bench = bench or Bench()
    found = detect_device.detect(bench.root, bench.machine)
    profile = config.load_device(root, found.value if device == AUTO else device)
    kind = profile.kind
    checks = [
        _device(kind, bench),
        _python(),
        _compiler(kind, bench),
        _program("cmake", "llama.cpp's build brings its own", bench, needed=False),
        _disk(root),
        _memory(bench),
        *_accelerator(kind, bench),
        *_power(profile, bench),
        _sensors(kind, bench),
        *_models(root),
        _containers(root, kind),
    ]
    return tuple(checks)


def sound(checks: tuple[Check, ...]) -> bool:
    """Whether nothing is lacking."""
    return all(check.state is not State.LACKING for check in checks)


def as_json(checks: tuple[Check, ...]) -> bytes:
    """An array of checks, for `doctor --json`."""
    return msgspec.json.format(msgspec.json.encode(checks), indent=2) + b"\n"


def _device(kind: DeviceKind, bench: Bench) -> Check:
    found = detect_device.detect(bench.root, bench.machine)
    try:
        detect_device.require(kind, bench.root, bench.machine)
    except EnvironmentLacking as lacking:
        return Check(name="device", state=State.LACKING, found=lacking.what, cure=lacking.cure)
    release = detect_device.l4t_release(bench.root)
    told = f", Jetson Linux R{release[0]}.{release[1]}" if release else ""
    return Check(name="device", state=State.OK, found=f"{found.value}{told}, used as {kind.value}")


def _python() -> Check:
    version = platform.python_version()
    if OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return Check(name="python", state=State.OK, found=version)
    cure = "install Python 3.11 and set MOE_BUNDLE_PYTHON"
    return Check(name="python", state=State.LACKING, found=version, cure=cure)


def _compiler(kind: DeviceKind, bench: Bench) -> Check:
    """Needed once, to build llama.cpp; where that is done already, its absence is a warning."""
    path = next((path for name in ("c++", "g++", "clang++") if (path := bench.which(name))), None)
    if path is not None:
        return Check(name="compiler", state=State.OK, found=path)
    cure = "xcode-select --install" if kind is DeviceKind.MAC else "apt-get install g++"
    state = State.WARNING if _llama_is_built() else State.LACKING
    return Check(name="compiler", state=state, found="no C++ compiler", cure=cure)


def _llama_is_built() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415 - finds the package without importing native code

    return find_spec("llama_cpp") is not None


def _program(name: str, cure: str, bench: Bench, *, needed: bool) -> Check:
    path = bench.which(name)
    if path is not None:
        return Check(name=name, state=State.OK, found=path)
    return Check(name=name, state=State.LACKING if needed else State.OK, found="not installed", cure=cure)


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(root).free
    found = f"{human_bytes(free)} free"
    if free >= DISK_BYTES:
        return Check(name="disk", state=State.OK, found=found)
    cure = f"the suites quick to full take up to {human_bytes(DISK_BYTES)}; set MOE_BUNDLE_MODELS to another disk"
    return Check(name="disk", state=State.WARNING, found=found, cure=cure)


def _memory(bench: Bench) -> Check:
    available = hostfiles.meminfo(bench.root).get("MemAvailable") or psutil.virtual_memory().available
    found = f"{human_bytes(available)} available"
    if available >= MEMORY_BYTES:
        return Check(name="memory", state=State.OK, found=found)
    cure = "close other programs; what does not fit is recorded as out of memory, which is a result"
    return Check(name="memory", state=State.WARNING, found=found, cure=cure)


def _accelerator(kind: DeviceKind, bench: Bench) -> tuple[Check, ...]:
    if kind not in (DeviceKind.CUDA, DeviceKind.JETSON):
        return ()
    known = bench.which("nvcc") or next(iter(sorted((bench.root / "usr/local").glob("cuda*/bin/nvcc"))), None)
    if known is not None:
        return (Check(name="nvcc", state=State.OK, found=str(known)),)
    cure = "install CUDA 12 with its compiler and put its bin folder on PATH, or use --env container"
    return (
        Check(name="nvcc", state=State.WARNING, found="no CUDA compiler: llama.cpp is built for the CPU", cure=cure),
    )


def _power(profile: config.Device, bench: Bench) -> tuple[Check, ...]:
    checks = []
    if profile.power_mode:
        checks.append(_power_mode(profile.power_mode, bench))
    if profile.jetson_clocks:
        loose = hostfiles.unpinned_clocks(bench.root)
        pinned = loose == []
        found = "pinned" if pinned else f"not pinned: {', '.join(loose or ['bounds can not be read'])}"
        state = State.OK if pinned else State.WARNING
        checks.append(Check(name="clocks", state=state, found=found, cure="" if pinned else "sudo jetson_clocks"))
    if power_mode.low_power_mode(bench.root, bench.ask):
        checks.append(Check(name="power saving", state=State.WARNING, found="on", cure="switch Low Power Mode off"))
    if power_mode.on_battery(bench.root, bench.ask):
        checks.append(Check(name="power supply", state=State.WARNING, found="battery", cure="plug the machine in"))
    return tuple(checks)


def _power_mode(wanted: str, bench: Bench) -> Check:
    """A study sets the mode itself; what it can't set is told here."""
    modes = power_mode.nvpmodel_modes(bench.root)
    standing = power_mode.current_nvpmodel(bench.ask)
    if standing == wanted:
        return Check(name="power mode", state=State.OK, found=standing)
    if wanted not in modes:
        known = ", ".join(modes) or "none"
        cure = "name one of this board's modes in the device profile"
        return Check(name="power mode", state=State.LACKING, found=f"no mode {wanted}; known: {known}", cure=cure)
    cure = f"sudo nvpmodel -m {modes[wanted]}"
    return Check(name="power mode", state=State.WARNING, found=f"{standing}, the profile asks for {wanted}", cure=cure)


def _sensors(kind: DeviceKind, bench: Bench) -> Check:
    """Where power could be read; the sampler itself decides at the start of a study."""
    sources = {
        "jtop": bench.root / "run/jtop.sock",
        "RAPL": next(iter(sorted((bench.root / "sys/class/powercap").glob("intel-rapl:*/energy_uj"))), None),
        "INA3221": next(iter(sorted((bench.root / "sys/bus/i2c/drivers").glob("ina3221*/*/hwmon/hwmon*"))), None),
    }
    found = [name for name, path in sources.items() if path is not None and path.exists()]
    if kind is DeviceKind.MAC:
        found.append("Apple's energy model")
    if kind is DeviceKind.CUDA:
        found.append("NVML")
    if found:
        return Check(name="power sensors", state=State.OK, found=", ".join(found))
    cures = {DeviceKind.JETSON: "sudo pip3 install jetson-stats==7.2.2, then restart its service jtop"}
    cure = cures.get(kind, "none can be added: energy is reported as unavailable")
    return Check(name="power sensors", state=State.WARNING, found="none", cure=cure)


def _models(root: Path) -> tuple[Check, ...]:
    """Released weights; whoever lacks them measures proxies, which satisfy no claim about released weights."""
    try:
        return tuple(_model(model, registry.models_dir(root)) for model in registry.load(root).models.values())
    except BundleError as error:
        return (Check(name="models", state=State.LACKING, found=error.what, cure=error.cure),)


def _model(model: registry.Model, folder: Path) -> Check:
    name = f"model {model.name}"
    if model.source is None:
        return Check(name=name, state=State.OK, found="proxy only")
    verdict = checksums.verify_model(model, folder)  # reads a file once; afterwards its stamp is enough
    fetch = f"./artifact fetch --model {model.name}"
    if verdict.state is FileState.OK:
        return Check(name=name, state=State.OK, found="verified")
    if verdict.state is FileState.MISSING:
        return Check(name=name, state=State.WARNING, found="not here", cure=fetch)
    found = verdict.detail or f"sha256 {verdict.found_sha256}, not the registry's"
    return Check(name=name, state=State.LACKING, found=f"{verdict.file}: {found}", cure=fetch)


def _containers(root: Path, kind: DeviceKind) -> Check:
    """Only `--env container` needs it."""
    from harness.study.environments import image_build  # noqa: PLC0415 - docker loads only where it is used

    try:
        return Check(name="container", state=State.OK, found=image_build.engine_summary(root, kind))
    except EnvironmentLacking as lacking:
        found = f"{lacking.where}: {lacking.what}" if lacking.where else lacking.what
        return Check(name="container", state=State.WARNING, found=found, cure=lacking.cure)
