"""What macOS tells of a process's memory: `proc_pid_rusage` through ctypes, because psutil lacks phys_footprint.

Layout: struct rusage_info_v4 of <sys/resource.h>: a UUID of 16 bytes and 35 unsigned 64-bit numbers.
"""

from __future__ import annotations

import ctypes

_RUSAGE_INFO_V4 = 4
_NUMBERS = (  # in the order of the header
    "user_time",
    "system_time",
    "pkg_idle_wkups",
    "interrupt_wkups",
    "pageins",
    "wired_size",
    "resident_size",
    "phys_footprint",
    "proc_start_abstime",
    "proc_exit_abstime",
    "child_user_time",
    "child_system_time",
    "child_pkg_idle_wkups",
    "child_interrupt_wkups",
    "child_pageins",
    "child_elapsed_abstime",
    "diskio_bytesread",
    "diskio_byteswritten",
    "cpu_time_qos_default",
    "cpu_time_qos_maintenance",
    "cpu_time_qos_background",
    "cpu_time_qos_utility",
    "cpu_time_qos_legacy",
    "cpu_time_qos_user_initiated",
    "cpu_time_qos_user_interactive",
    "billed_system_time",
    "serviced_system_time",
    "logical_writes",
    "lifetime_max_phys_footprint",
    "instructions",
    "cycles",
    "billed_energy",
    "serviced_energy",
    "interval_max_phys_footprint",
    "runnable_time",
)


class RusageInfoV4(ctypes.Structure):
    """rusage_info_v4; sizes in bytes, times in mach units."""

    _fields_ = (("uuid", ctypes.c_uint8 * 16), *((name, ctypes.c_uint64) for name in _NUMBERS))


def process_usage(pid: int) -> RusageInfoV4 | None:
    """The kernel's account of a process, or None when it is gone or not ours (macOS only)."""
    library = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    info = RusageInfoV4()
    failed = library.proc_pid_rusage(ctypes.c_int(pid), ctypes.c_int(_RUSAGE_INFO_V4), ctypes.byref(info))
    return None if failed else info


def memory_values(pid: int) -> dict[str, int | None]:
    """Fields of `records.MemorySample` that macOS can fill; `vm_hwm_bytes` only for the calling process."""
    import os  # noqa: PLC0415
    import resource  # noqa: PLC0415

    import psutil  # noqa: PLC0415

    usage = process_usage(pid)
    own = resource.getrusage(resource.RUSAGE_SELF) if pid == os.getpid() else None
    return {
        "vm_hwm_bytes": own.ru_maxrss if own else None,  # bytes on macOS, KiB on Linux
        "rss_bytes": usage.resident_size if usage else None,
        "pss_bytes": None,
        "huge_page_bytes": None,
        "cgroup_peak_bytes": None,
        "phys_footprint_bytes": usage.phys_footprint if usage else None,
        "phys_footprint_peak_bytes": usage.lifetime_max_phys_footprint if usage else None,
        "device_used_bytes": None,
        "available_bytes": psutil.virtual_memory().available,
        "swap_used_bytes": psutil.swap_memory().used,
        "major_faults": own.ru_majflt if own else None,
        "minor_faults": own.ru_minflt if own else None,
    }


def total_memory_bytes() -> int:
    """Memory of the machine."""
    import psutil  # noqa: PLC0415

    return int(psutil.virtual_memory().total)
