"""Readers of procfs and sysfs under an injectable root: what the study's gates and the measured process both look at.

Every function takes `root`, the folder that stands for "/", so that a test hands over a tree of its own. A file that is
missing or unreadable yields None: the caller knows the reason that belongs into the record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.units import BYTES_PER_KIB, NS_PER_S

_KIB_LINE = re.compile(r"^(\w+(?:\(\w+\))?):\s+(\d+) kB$", re.MULTILINE)
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes "no limit" as a number near 2^63, rounded to pages
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
