"""Memory of a process at the end of a phase, each source by itself; sources overlap and are never summed.

Sources on Linux: /proc/PID/status (VmHWM, VmRSS), smaps_rollup (PSS), the memory cgroup (v1 or v2), /proc/meminfo
(MemAvailable, swap, NvMapMemUsed on a Jetson, whose GPU allocations no other source sees). On macOS: `proc_pid_rusage`
(phys_footprint is what Activity Monitor and the memory-pressure killer count). Reading PSS walks the page tables (some
milliseconds for a model): once a phase, never inside a window.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from harness import hostfiles
from harness.clock import now_ns
from harness.measure.telemetry import darwin
from harness.records import MemorySample

_Values = dict[str, int | None]
_FAULT_FIELDS = {"minor_faults": 9, "major_faults": 11}  # fields of /proc/PID/stat, counted from 0 (proc_pid_stat(5))


def sample(phase: str, root: Path = Path("/"), pid: int | None = None) -> tuple[MemorySample, dict[str, str]]:
    """Memory of `pid` (default: this process) now.

    Returns:
        The sample, and for each field that is null the reason why.
    """
    process = os.getpid() if pid is None else pid
    values, absent = _darwin(process) if sys.platform == "darwin" else _linux(root, process)
    return msgspec.convert({"phase": phase, "at_ns": now_ns(), **values}, MemorySample), absent


def reset_peak(root: Path = Path("/"), pid: int | None = None) -> bool:
    """Set VmHWM back to what is resident now, so that the next phase has a peak of its own; false where it can't be.

    Source: proc_pid_clear_refs(5), value 5.
    """
    process = os.getpid() if pid is None else pid
    try:
        place = os.open(root / f"proc/{process}/clear_refs", os.O_WRONLY)
    except OSError:
        return False
    try:
        return os.write(place, b"5") == 1
    finally:
        os.close(place)


def ceiling_bytes(root: Path = Path("/"), pid: int | None = None) -> int | None:
    """What the process may use at most: its cgroup's limit, else the machine's memory; None where neither is told."""
    if sys.platform == "darwin":
        return darwin.total_memory_bytes()
    return hostfiles.memory_ceiling_bytes(root, os.getpid() if pid is None else pid)


def _linux(root: Path, pid: int) -> tuple[_Values, dict[str, str]]:
    status = hostfiles.kib_table(root / f"proc/{pid}/status")
    rollup = hostfiles.kib_table(root / f"proc/{pid}/smaps_rollup")
    machine = hostfiles.meminfo(root)
    peak, no_peak = _cgroup_peak(root, pid)
    swap = (machine.get("SwapTotal"), machine.get("SwapFree"))
    values: _Values = {
        "vm_hwm_bytes": status.get("VmHWM"),
        "rss_bytes": status.get("VmRSS"),
        "pss_bytes": rollup.get("Pss"),
        "huge_page_bytes": rollup.get("AnonHugePages"),
        "cgroup_peak_bytes": peak,
        "phys_footprint_bytes": None,
        "phys_footprint_peak_bytes": None,
        "device_used_bytes": machine.get("NvMapMemUsed"),
        "available_bytes": machine.get("MemAvailable"),
        "swap_used_bytes": None if swap[0] is None or swap[1] is None else swap[0] - swap[1],
        **_faults(root, pid),
    }
    gone = "" if status else f"process {pid} is not there"
    reasons = {
        "vm_hwm_bytes": gone or "no VmHWM in /proc/PID/status",
        "rss_bytes": gone or "no VmRSS in /proc/PID/status",
        "pss_bytes": gone or "no readable /proc/PID/smaps_rollup",
        "huge_page_bytes": gone or "no AnonHugePages in /proc/PID/smaps_rollup",
        "cgroup_peak_bytes": no_peak,
        "phys_footprint_bytes": "macOS only",
        "phys_footprint_peak_bytes": "macOS only",
        "device_used_bytes": "no NvMapMemUsed in /proc/meminfo; memory of a discrete GPU is a telemetry channel",
        "available_bytes": "no MemAvailable in /proc/meminfo",
        "swap_used_bytes": "no swap figures in /proc/meminfo",
        "major_faults": gone or "no readable /proc/PID/stat",
        "minor_faults": gone or "no readable /proc/PID/stat",
    }
    return values, _absent(values, reasons)


def _darwin(pid: int) -> tuple[_Values, dict[str, str]]:
    values = darwin.memory_values(pid)
    reasons = {
        "pss_bytes": "Linux only",
        "huge_page_bytes": "Linux only",
        "cgroup_peak_bytes": "Linux only",
        "device_used_bytes": "memory is unified: phys_footprint holds Metal's buffers",
    }
    return values, _absent(values, reasons)


def _absent(values: _Values, reasons: dict[str, str]) -> dict[str, str]:
    return {name: reasons.get(name, "not told by the system") for name, value in values.items() if value is None}


def _cgroup_peak(root: Path, pid: int) -> tuple[int | None, str]:
    cgroup = hostfiles.memory_cgroup(root, pid)
    if cgroup is None:
        return None, "no memory cgroup"
    return hostfiles.cgroup_peak_bytes(cgroup), f"no peak file in the memory cgroup (version {cgroup.version})"


def _faults(root: Path, pid: int) -> _Values:
    """Faults of the process so far; its name may hold blanks and brackets, so fields count from the last bracket."""
    text = hostfiles.read_text(root / f"proc/{pid}/stat") or ""
    fields = ["", "", *text.rpartition(")")[2].split()]
    if len(fields) <= max(_FAULT_FIELDS.values()):
        return dict.fromkeys(_FAULT_FIELDS)
    return {name: int(fields[place]) for name, place in _FAULT_FIELDS.items()}
