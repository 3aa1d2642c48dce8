"""Readers of procfs and sysfs under an injectable root: what the study's gates and the measured process both look at.

Every function takes `root`, the folder that stands for "/", so that a test hands over a tree of its own. A file that is
missing or unreadable yields None: the caller knows the reason that belongs into the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.units import BYTES_PER_KIB, NS_PER_S

_KIB_LINE = re.compile(r"^(\w+(?:\(\w+\))?):\s+(\d+) kB$", re.MULTILINE)
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes "no limit" as a number near 2^63, rounded to pages
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")  # hwmon drivers of CPU temperatures
USER_HZ = 100  # ticks a second in /proc/stat; part of Linux's ABI on every machine that the bundle runs on


def read_text(path: Path) -> str | None:
    """The file's text without surrounding blanks, or None when it can't be read (sensors answer EAGAIN or EIO)."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The file's one whole number, or None."""
    text = read_text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def kib_table(path: Path) -> dict[str, int]:
    """Lines `Name: 123 kB` of meminfo, status or smaps_rollup, as bytes; empty when the file can't be read."""
    return {name: int(value) * BYTES_PER_KIB for name, value in _KIB_LINE.findall(read_text(path) or "")}


def meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes, by the kernel's names (MemTotal, MemAvailable, NvMapMemUsed on a Jetson, ...)."""
    return kib_table(root / "proc/meminfo")


def cpu_fields(root: Path) -> dict[str, str]:
    """Lines `model name : ...` of the first processor in /proc/cpuinfo; empty without it."""
    first, _, _ = (read_text(root / "proc/cpuinfo") or "").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True, kw_only=True)
class CpuTimes:
    """CPU time of the whole machine since boot, in steps of 10 ms."""

    busy_ns: int  # user, nice, system, irq, softirq; guests are part of user
    steal_ns: int  # wanted by this machine, given by the hypervisor to another


def cpu_times(root: Path) -> CpuTimes | None:
    """First line of /proc/stat; None without procfs."""
    try:
        with (root / "proc/stat").open("rb") as stat:
            fields = [int(field) for field in stat.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    if len(fields) < 8:
        return None
    tick_ns = NS_PER_S // USER_HZ
    return CpuTimes(busy_ns=(sum(fields[:3]) + sum(fields[5:7])) * tick_ns, steal_ns=fields[7] * tick_ns)


@dataclass(frozen=True, kw_only=True)
class CgroupFolder:
    """Where the memory controller keeps the files of one process."""

    folder: Path
    version: int  # 1 or 2
    top: Path  # mount point: limits of every folder from here down apply


def memory_cgroup(root: Path, pid: int | str = "self") -> CgroupFolder | None:
    """The memory cgroup of a process, version 1 before 2 (a hybrid host mounts both, with the controller in 1).

    A container without a cgroup namespace reads its host's path in /proc/PID/cgroup while only its own folder is
    mounted; /proc/PID/mountinfo tells which part of the path the mount already stands for.
    """
    for version, membership in _memberships(read_text(root / f"proc/{pid}/cgroup") or ""):
        for line in (read_text(root / f"proc/{pid}/mountinfo") or "").splitlines():
            mount = _cgroup_mount(line, version)
            if mount is None:
                continue
            mounted, top = mount[0], root / mount[1].lstrip("/")
            inner = membership.removeprefix(mounted.rstrip("/")).lstrip("/")
            folder = top / inner
            if folder.is_dir() and any(folder.glob("memory.*")):
                return CgroupFolder(folder=folder, version=version, top=top)
    return None


def _memberships(text: str) -> list[tuple[int, str]]:
    """(version, path) pairs of /proc/PID/cgroup that may carry the memory controller."""
    found = []
    for line in text.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            found.append((1, path))
        elif number == "0" and not controllers:
            found.append((2, path))
    return sorted(found)


def _cgroup_mount(line: str, version: int) -> tuple[str, str] | None:
    """(path inside the hierarchy, mount point) of a mountinfo line that mounts the memory controller."""
    before, _, after = line.partition(" - ")
    fields, kind = before.split(" "), after.split(" ")
    if len(fields) < 5 or len(kind) < 3:
        return None
    wanted = kind[0] == "cgroup2" if version == 2 else kind[0] == "cgroup" and "memory" in kind[2].split(",")
    return (fields[3], fields[4]) if wanted else None


def cgroup_peak_bytes(cgroup: CgroupFolder) -> int | None:
    """Highest memory use that the cgroup has seen; None at the root of version 2 and before Linux 5.19."""
    return read_int(cgroup.folder / ("memory.peak" if cgroup.version == 2 else "memory.max_usage_in_bytes"))


def cgroup_limit_bytes(cgroup: CgroupFolder) -> int | None:
    """Smallest limit from the process's folder up to the mount; None when there is none."""
    name = "memory.max" if cgroup.version == 2 else "memory.limit_in_bytes"
    limits = []
    folder = cgroup.folder
    while True:
        limits.append(read_int(folder / name))  # "max" is no number: None
        if folder in (cgroup.top, folder.parent):
            break
        folder = folder.parent
    return min((limit for limit in limits if limit is not None and limit < _UNLIMITED_BYTES), default=None)


def memory_ceiling_bytes(root: Path, pid: int | str = "self") -> int | None:
    """What a process may use at most: its cgroup's limit, else the machine's memory."""
    cgroup = memory_cgroup(root, pid)
    limit = cgroup_limit_bytes(cgroup) if cgroup else None
    total = meminfo(root).get("MemTotal")
    return min((size for size in (limit, total) if size is not None), default=None)


def thermal_zones(root: Path) -> dict[str, Path]:
    """Temperature files by zone name; hwmon's CPU sensors where the kernel has no thermal zones."""
    for folder in ("sys/class/thermal", "sys/devices/virtual/thermal"):
        zones = _named((zone, zone / "type", zone / "temp") for zone in _numbered(root / folder, "thermal_zone"))
        if zones:
            return zones
    chips = [chip for chip in _numbered(root / "sys/class/hwmon", "hwmon") if read_text(chip / "name") in _CPU_SENSORS]
    return _named((chip, chip / "name", chip / "temp1_input") for chip in chips)


def celsius(path: Path) -> float | None:
    """A temperature file's value; None when the zone is off (the kernel then fails, or says -256 or lower)."""
    millidegrees = read_int(path)
    return None if millidegrees is None or millidegrees <= -256_000 else millidegrees / 1000


def throttle_alerts(root: Path) -> dict[str, Path]:
    """State files (above 0: active) of cooling devices that the kernel uses to announce throttling (Jetson)."""
    devices = _numbered(root / "sys/class/thermal", "cooling_device")
    named = _named((device, device / "type", device / "cur_state") for device in devices)
    return {name: path for name, path in named.items() if "throttle-alert" in name}


def throttle_counters(root: Path) -> dict[str, Path]:
    """Files that count throttling events since boot: over-current on a Jetson, thermal on x86."""
    found = {}
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        found[path.name.removesuffix("_event_cnt")] = path
    for path in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")):
        found[f"{path.parts[-3]} {path.name.removesuffix('_count')}"] = path
    return found


def clock_files(root: Path) -> dict[str, tuple[Path, float]]:
    """Current-frequency files by name, each with what turns its number into MHz."""
    cpus = root / "sys/devices/system/cpu"
    folders = _numbered(cpus / "cpufreq", "policy") or [cpu / "cpufreq" for cpu in _numbered(cpus, "cpu")]
    found = {}
    for folder in folders:
        name = folder.name if folder.name != "cpufreq" else folder.parent.name
        found[f"{name} clock"] = (folder / "scaling_cur_freq", 1e-3)
    for gpu in gpu_devfreq_folders(root):
        found["gpu clock"] = (gpu / "cur_freq", 1e-6)
    found["emc clock"] = (root / "sys/kernel/debug/bpmp/debug/clk/emc/rate", 1e-6)
    return {name: (path, factor) for name, (path, factor) in found.items() if read_int(path) is not None}


def gpu_devfreq_folders(root: Path) -> list[Path]:
    """Frequency-scaling folders of integrated GPUs (17000000.gpu on Orin, 57000000.gpu on a Nano, ...)."""
    return [folder for folder in sorted((root / "sys/class/devfreq").glob("*")) if re.search(r"gpu|gv11b", folder.name)]


def unpinned_clocks(root: Path) -> list[str] | None:
    """Clocks whose lower bound differs from their upper bound; None where no bound can be read.

    jetson_clocks raises every lower bound to the cap of the power mode: an empty list is its mark.
    """
    cpus = [cpu / "cpufreq" for cpu in _numbered(root / "sys/devices/system/cpu", "cpu")]
    bounds = [(cpu.parent.name, cpu / "scaling_min_freq", cpu / "scaling_max_freq") for cpu in cpus]
    bounds += [(gpu.name, gpu / "min_freq", gpu / "max_freq") for gpu in gpu_devfreq_folders(root)]
    read = [(name, read_int(low), read_int(high)) for name, low, high in bounds]
    known = [(name, low, high) for name, low, high in read if low is not None and high is not None]
    return [name for name, low, high in known if low != high] if known else None


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """Entries `prefix0`, `prefix1`, ... of a folder in the order of their numbers."""
    entries = [entry for entry in folder.glob(f"{prefix}[0-9]*") if entry.name.removeprefix(prefix).isdigit()]
    return sorted(entries, key=lambda entry: int(entry.name.removeprefix(prefix)))


def _named(entries: Iterable[tuple[Path, Path, Path]]) -> dict[str, Path]:
    """(folder, name file, value file) -> value files by name; a name that occurs twice gets its folder's name."""
    found: dict[str, Path] = {}
    for folder, name_file, value_file in entries:
        name = read_text(name_file) or folder.name
        found[name if name not in found else f"{name} {folder.name}"] = value_file
    return found
