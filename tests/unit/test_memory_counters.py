"""Memory of a phase, limits of cgroups, and counters around a burst, over folders and over this very process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import board_tree
import pytest

from harness import hostfiles
from harness.measure.telemetry import darwin, memory
from harness.measure.telemetry.counters import Counters, counters, spent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="procfs and cgroups are Linux's")

STATUS = "Name:\tworker\nVmHWM:\t  4100000 kB\nVmRSS:\t  4000000 kB\nThreads:\t6"
ROLLUP = "55b2-7fff ---p 00000000 00:00 0 [rollup]\nRss: 4000000 kB\nPss: 3900000 kB\nAnonHugePages: 2048 kB"
PROCESS_STAT = "9 (a ) b) S 1 1 1 0 -1 4194304 777 0 12 0 100 20 0 0 20 0 6 0 1 1 1"


def process(root: Path, cgroup: str, mountinfo: str) -> None:
    folder = root / "proc/9"
    for name, text in {
        "status": STATUS,
        "smaps_rollup": ROLLUP,
        "stat": PROCESS_STAT,
        "cgroup": cgroup,
        "mountinfo": mountinfo,
    }.items():
        board_tree.write(folder / name, text)


def test_every_source_of_a_jetson(tmp_path: Path) -> None:
    board_tree.jetson(tmp_path)
    process(tmp_path, "0::/job", "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw")
    board_tree.write(tmp_path / "sys/fs/cgroup/job/memory.peak", 123456789)
    sample, absent = memory.sample("loaded", tmp_path, 9)
    assert sample.phase == "loaded"
    assert sample.vm_hwm_bytes == 4100000 * 1024
    assert sample.rss_bytes == 4000000 * 1024
    assert sample.pss_bytes == 3900000 * 1024
    assert sample.huge_page_bytes == 2048 * 1024
    assert sample.cgroup_peak_bytes == 123456789
    assert sample.device_used_bytes == 1 << 30
    assert sample.available_bytes == 4512288 * 1024
    assert sample.swap_used_bytes == (3901144 - 3800000) * 1024
    assert (sample.minor_faults, sample.major_faults) == (777, 12)
    assert absent == {"phys_footprint_bytes": "macOS only", "phys_footprint_peak_bytes": "macOS only"}


def test_a_peak_is_set_back_through_clear_refs_alone(tmp_path: Path) -> None:
    assert not memory.reset_peak(tmp_path, 9)  # no such process, or a kernel without it: the peak stays the run's
    assert not (tmp_path / "proc").exists()
    place = board_tree.write(tmp_path / "proc/9/clear_refs", "")
    assert memory.reset_peak(tmp_path, 9)
    assert place.read_text().startswith("5")


def test_what_is_missing_is_null_with_a_reason(tmp_path: Path) -> None:
    sample, absent = memory.sample("start", tmp_path, 9)
    fields = {
        name: getattr(sample, name)
        for name in sample.__struct_fields__
        if name not in ("phase", "at_ns", "hwm_of_phase")
    }
    assert set(fields.values()) == {None}
    assert set(absent) == set(fields)
    assert absent["vm_hwm_bytes"] == "process 9 is not there"
    assert memory.ceiling_bytes(tmp_path, 9) is None


def test_cgroup_v1_in_a_container_without_a_namespace_of_its_own(tmp_path: Path) -> None:
    cgroup = "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/"
    mounts = (
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    )
    process(tmp_path, cgroup, mounts)
    folder = tmp_path / "sys/fs/cgroup/memory"
    board_tree.write(folder / "memory.max_usage_in_bytes", 1000)
    board_tree.write(folder / "memory.limit_in_bytes", 6 << 30)
    board_tree.write(tmp_path / "proc/meminfo", "MemTotal: 8000000 kB")
    assert memory.sample("x", tmp_path, 9)[0].cgroup_peak_bytes == 1000
    assert memory.ceiling_bytes(tmp_path, 9) == 6 << 30
    board_tree.write(folder / "memory.limit_in_bytes", 9223372036854771712)  # version 1's way to say: none
    assert memory.ceiling_bytes(tmp_path, 9) == 8000000 * 1024


def test_cgroup_v2_takes_the_tightest_limit_on_the_way_up(tmp_path: Path) -> None:
    process(tmp_path, "0::/a/b", "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw")
    top = tmp_path / "sys/fs/cgroup"
    board_tree.write(top / "a/memory.max", 3 << 30)
    board_tree.write(top / "a/b/memory.max", "max")
    cgroup = hostfiles.memory_cgroup(tmp_path, 9)
    assert cgroup is not None
    assert hostfiles.cgroup_limit_bytes(cgroup) == 3 << 30
    sample, absent = memory.sample("x", tmp_path, 9)
    assert sample.cgroup_peak_bytes is None
    assert "version 2" in absent["cgroup_peak_bytes"]


def test_this_process() -> None:
    before = memory.sample("before")[0]
    block = bytearray(os.urandom(1)) * (64 << 20)
    after = memory.sample("after")[0]
    assert before.vm_hwm_bytes is not None
    assert after.vm_hwm_bytes is not None
    assert after.rss_bytes is not None
    assert before.rss_bytes is not None
    assert after.rss_bytes - before.rss_bytes > 32 << 20
    assert after.vm_hwm_bytes >= after.rss_bytes
    assert len(block) == 64 << 20
    assert (memory.ceiling_bytes() or 0) > after.rss_bytes


def test_layout_of_the_macos_account_is_that_of_the_header() -> None:
    """16 bytes of UUID and 35 numbers; phys_footprint is the 8th, the lifetime maximum the 29th (sys/resource.h)."""
    info = darwin.RusageInfoV4
    assert info.phys_footprint.offset == 16 + 7 * 8
    assert info.lifetime_max_phys_footprint.offset == 16 + 28 * 8


def test_counters_of_this_process_and_of_the_machine() -> None:
    before = counters()
    total = 0
    while counters().cpu_ns - before.cpu_ns < 60_000_000:  # six steps of the machine's clock
        total += sum(range(1000))
    gone = spent(before, counters())
    assert total > 0
    assert gone.cpu_ns >= 60_000_000
    assert gone.minor_faults >= 0
    assert gone.foreign_cpu_ns is not None
    assert gone.steal_ns is not None


def test_foreign_time_is_what_the_machine_spent_beyond_this_process() -> None:
    zero = Counters(
        major_faults=1,
        minor_faults=2,
        voluntary_switches=3,
        involuntary_switches=4,
        cpu_ns=5,
        machine_busy_ns=100,
        steal_ns=7,
    )
    later = Counters(
        major_faults=2,
        minor_faults=4,
        voluntary_switches=6,
        involuntary_switches=8,
        cpu_ns=35,
        machine_busy_ns=180,
        steal_ns=17,
    )
    gone = spent(zero, later)
    assert (gone.major_faults, gone.minor_faults, gone.voluntary_switches, gone.involuntary_switches) == (1, 2, 3, 4)
    assert (gone.cpu_ns, gone.foreign_cpu_ns, gone.steal_ns) == (30, 50, 10)


def test_machine_counters_without_procfs_are_null(tmp_path: Path) -> None:
    reading = counters(tmp_path)
    assert (reading.machine_busy_ns, reading.steal_ns) == (None, None)
    assert spent(reading, reading).foreign_cpu_ns is None


def test_first_line_of_stat(tmp_path: Path) -> None:
    board_tree.write(tmp_path / "proc/stat", "cpu  1 2 3 4 5 6 7 8 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1")
    times = hostfiles.cpu_times(tmp_path)
    assert times is not None
    assert times.busy_ns == (1 + 2 + 3 + 6 + 7) * 10_000_000
    assert times.steal_ns == 8 * 10_000_000
