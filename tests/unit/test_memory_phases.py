"""Memory phase by phase: plan and observation side by side, each source by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import records_factory as factory
from records_factory import LLAMA, OLMOE, Lab

from harness.analysis.evidence import Evidence
from harness.analysis.memory_phases import pack, phase_memory, unpack
from harness.analysis.tables import memory, memory_phases
from harness.analysis.tables.base import Table
from harness.records import Channel, MemoryLedger, MemorySample, Record, Telemetry
from harness.terms import EnvironmentKind, Origin, Quality, Quantity

GB = 1_000_000_000
SECOND = 1_000_000_000
LAB = Lab(origin=Origin.MEASURED, experiment="memory")


def sample(phase: str, second: int, **values: int | bool) -> MemorySample:
    fields: dict[str, Any] = {"phase": phase, "at_ns": second * SECOND, "hwm_of_phase": second > 0} | values
    return MemorySample(**fields)


LEDGER = MemoryLedger(
    weights_bytes=4 * GB,
    kv_bytes=GB // 10,
    compute_bytes=GB // 20,
    samples=(
        sample("start", 0, vm_hwm_bytes=GB // 100, available_bytes=7 * GB, device_used_bytes=0, major_faults=0),
        sample("loaded", 10, vm_hwm_bytes=6 * GB, available_bytes=3 * GB, device_used_bytes=GB, major_faults=90),
        sample("warm", 20, vm_hwm_bytes=5 * GB, available_bytes=2 * GB, device_used_bytes=2 * GB, major_faults=100),
        sample("prefill", 30, vm_hwm_bytes=5 * GB, available_bytes=2 * GB, device_used_bytes=2 * GB, major_faults=100),
        sample("decode", 40, vm_hwm_bytes=5 * GB, available_bytes=3 * GB, device_used_bytes=2 * GB, major_faults=103),
    ),
    ceiling_bytes=8 * GB,
)


def channel(name: str, values: list[float]) -> Channel:
    """One reading a second."""
    return Channel(
        name=name,
        quantity=Quantity.MEMORY_BYTES,
        source="procfs",
        scope=name,
        quality=Quality.MEASURED,
        resolution=4096.0,
        at_ns=tuple(second * SECOND for second in range(len(values))),
        values=tuple(values),
    )


def seen(*channels: Channel) -> Telemetry:
    return Telemetry(period_ns=SECOND, missed_ticks=0, start_ns=0, end_ns=50 * SECOND, channels=channels)


def test_a_phase_holds_what_is_planned_by_then_and_what_each_source_saw() -> None:
    load, warm, prefill, decode = phase_memory(LEDGER, EnvironmentKind.NATIVE, None)
    assert [one.phase for one in (load, warm, prefill, decode)] == ["load", "warm-up", "prefill", "decode"]
    assert (load.weights_bytes, load.kv_bytes, load.compute_bytes) == (4 * GB, 0, 0)
    assert (warm.weights_bytes, warm.kv_bytes, warm.compute_bytes) == (4 * GB, GB // 10, GB // 20)
    assert [one.vm_hwm_bytes for one in (load, warm, prefill, decode)] == [6 * GB, 5 * GB, 5 * GB, 5 * GB]
    assert [one.available_fall_bytes for one in (load, warm, prefill, decode)] == [4 * GB, 5 * GB, 5 * GB, 4 * GB]
    assert [one.device_rise_bytes for one in (load, warm, prefill, decode)] == [GB, 2 * GB, 2 * GB, 2 * GB]
    assert [one.major_faults for one in (load, warm, prefill, decode)] == [90, 10, 0, 3]
    assert all(one.hwm_of_phase for one in (load, warm, prefill, decode))
    assert all(one.pss_bytes is None and one.cgroup_peak_bytes is None for one in (load, warm, prefill, decode))


def test_the_sampler_sees_what_happens_between_the_ends_of_phases() -> None:
    """MemAvailable falls to 1 GB in the middle of prefill, and nvmap rises to 3 GB in decode."""
    available = [7e9] * 11 + [2.5e9] * 14 + [1e9] + [2.5e9] * 25
    nvmap = [0.1e9] * 35 + [3.1e9] + [0.1e9] * 15
    telemetry = seen(
        channel("MemAvailable", available), channel("NvMapMemUsed", nvmap), channel("SwapFree", [9e9] * 51)
    )
    _, warm, prefill, decode = phase_memory(LEDGER, EnvironmentKind.NATIVE, telemetry)
    assert warm.available_fall_bytes == 5 * GB  # the sample at its end saw more than the sampler
    assert prefill.available_fall_bytes == 6 * GB
    assert decode.device_rise_bytes == 3 * GB
    assert decode.available_fall_bytes == round(4.5 * GB)


def test_a_cgroup_tells_of_a_run_only_in_a_container() -> None:
    samples = tuple(msgspec.structs.replace(one, cgroup_peak_bytes=9 * GB) for one in LEDGER.samples)
    ledger = msgspec.structs.replace(LEDGER, samples=samples)
    assert phase_memory(ledger, EnvironmentKind.NATIVE, None)[0].cgroup_peak_bytes is None
    assert phase_memory(ledger, EnvironmentKind.CONTAINER, None)[0].cgroup_peak_bytes == 9 * GB


def test_nothing_observed_is_null_and_no_ledger_is_no_phase() -> None:
    bare = MemoryLedger(weights_bytes=1, kv_bytes=1, compute_bytes=1, samples=(sample("start", 0), sample("loaded", 1)))
    (load,) = phase_memory(bare, EnvironmentKind.NATIVE, seen())
    assert (load.vm_hwm_bytes, load.available_fall_bytes, load.device_rise_bytes, load.major_faults) == (None,) * 4
    assert phase_memory(None, EnvironmentKind.NATIVE, None) == ()
    assert unpack(pack((load,))) == (load,)
    assert unpack(pack(())) == ()


def records() -> list[Record]:
    made = []
    for record in factory.solos(LAB, (OLMOE, LLAMA)):
        assert record.measured is not None
        made.append(msgspec.structs.replace(record, measured=msgspec.structs.replace(record.measured, memory=LEDGER)))
    return made


def column(table: Table, key: str) -> list[Any]:
    place = next(i for i, column in enumerate(table.columns) if column.key == key)
    return [row.values[place] for row in table.rows]


def test_the_table_has_one_row_a_phase_with_the_ceiling(tmp_path: Path) -> None:
    table = memory_phases.table(Evidence.of([factory.write(tmp_path, records())]))
    assert column(table, "phase") == ["load", "warm-up", "prefill", "decode"] * 2
    assert column(table, "kv_bytes") == [None, GB // 10, GB // 10, GB // 10] * 2
    assert column(table, "vm_hwm_bytes") == [6 * GB, 5 * GB, 5 * GB, 5 * GB] * 2
    assert set(column(table, "ceiling_bytes")) == {8 * GB}
    assert set(column(table, "vm_hwm_of")) == {"the phase"}
    assert "pss_bytes" not in {column.key for column in table.columns}
    assert not any("total" in column.key or "sum" in column.key for column in table.columns)


def test_a_fall_of_nothing_is_a_number(tmp_path: Path) -> None:
    same = tuple(msgspec.structs.replace(one, available_bytes=7 * GB) for one in LEDGER.samples)
    ledger = msgspec.structs.replace(LEDGER, samples=same)
    made = []
    for record in records():
        assert record.measured is not None
        made.append(msgspec.structs.replace(record, measured=msgspec.structs.replace(record.measured, memory=ledger)))
    table = memory_phases.table(Evidence.of([factory.write(tmp_path, made)]))
    assert set(column(table, "available_fall_bytes")) == {0}


def test_peaks_of_a_run_count_what_the_sampler_saw(tmp_path: Path) -> None:
    fallen = seen(channel("MemAvailable", [7e9] * 11 + [0.5e9] + [3e9] * 40))
    made = [msgspec.structs.replace(record, telemetry=fallen) for record in records()]
    table = memory.table(Evidence.of([factory.write(tmp_path, made)]))
    assert set(column(table, "peak_available_fall_bytes")) == {round(6.5 * GB)}


def test_records_of_older_sessions_have_fewer_phases(tmp_path: Path) -> None:
    table = memory_phases.table(Evidence.of([factory.write(tmp_path, list(factory.solos(LAB, (LLAMA,))))]))
    assert column(table, "phase") == ["load", "rest of the run"]
    assert set(column(table, "vm_hwm_of")) == {"the run so far"}
