"""Energy in the report: refused channels by name, too short windows in numbers, drifted runs left out of net only."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import records_factory as factory
from hypothesis import given, settings
from hypothesis import strategies as st
from records_at_scale import powered
from records_factory import LLAMA, OLMOE, Lab

from harness.analysis.energy import energy_ratio
from harness.analysis.energy_truth import STALE_UPDATES, Readings, fault, update_period_ns
from harness.analysis.evidence import Evidence
from harness.analysis.rules import checks
from harness.analysis.tables import energy as table_of_energy
from harness.analysis.tables.base import Table
from harness.records import Channel, Record, Taint, Telemetry
from harness.terms import BurstKind, Origin, Quality, Quantity, RunKind, TaintKind

S = 1_000_000_000
LAB = Lab(origin=Origin.MEASURED, decode_tokens=64)


def with_power(repetitions: int = 3) -> list[Record]:
    made = factory.solos(LAB, (OLMOE, LLAMA), blocks=3, repetitions=repetitions)
    return [powered(record, 7_000.0) for record in made]


def with_channels(record: Record, *channels: Channel) -> Record:
    assert record.telemetry is not None
    return msgspec.structs.replace(record, telemetry=msgspec.structs.replace(record.telemetry, channels=channels))


def rail(record: Record) -> Channel:
    assert record.telemetry is not None
    return record.telemetry.channels[0]


def rows_of(folder: Path, records: list[Record]) -> list[dict[str, Any]]:
    table: Table = table_of_energy.table(Evidence.of([factory.write(folder, records)]))
    keys = [column.key for column in table.columns]
    return [dict(zip(keys, row.values, strict=True)) for row in table.rows]


def test_a_channel_that_was_refused_stands_in_the_table_beside_one_that_was_not(tmp_path: Path) -> None:
    made = []
    for record in with_power():
        good = rail(record)
        stuck = msgspec.structs.replace(good, name="VDD_SOC", scope="rail VDD_SOC", values=(0.0,) * len(good.values))
        made.append(with_channels(record, good, stuck))
    rows = rows_of(tmp_path, made)
    refused = [row for row in rows if row["channel"] == "VDD_SOC"]
    assert len(refused) == 2
    assert all("zero" in row["remark"] and "(3 runs)" in row["remark"] for row in refused)
    assert all(row["gross_j_per_token"] is None for row in refused)
    assert len([row for row in rows if row["channel"] == "VDD_IN" and row["gross_j_per_token"]]) == 4


def test_a_figure_says_which_runs_it_had_to_do_without(tmp_path: Path) -> None:
    made = with_power()
    made[0] = with_channels(made[0], msgspec.structs.replace(rail(made[0]), values=(0.0,) * len(rail(made[0]).values)))
    rows = rows_of(tmp_path, made)
    remarks = [row["remark"] for row in rows if row["remark"]]
    assert len(remarks) == 2  # prefill and decode of one model
    assert all(remark.startswith("without zero") for remark in remarks)


def test_windows_too_short_for_the_sensor_are_refused_in_numbers(tmp_path: Path) -> None:
    """Prefill bursts of a quarter of a second under a sensor that is renewed once a second."""
    made = []
    for record in factory.solos(LAB, (LLAMA,), blocks=1, repetitions=2):
        slow = powered(record, 7_000.0, period_ns=S)
        made.append(slow)
    row = next(row for row in rows_of(tmp_path, made) if row["kind"] == "prefill")
    assert row.get("gross_j_per_token") is None
    assert row["remark"].startswith("no joule: short_window: windows of 0.2")
    assert "shorter than 5 sensor updates, one every 1 s" in row["remark"]


def drifted(record: Record) -> Record:
    """Ten percent more idle power after the run than before it."""
    assert record.telemetry is not None
    channel = rail(record)
    last = record.telemetry.idle_windows[-1][0]
    values = tuple(value + 400.0 * (at_ns >= last) for at_ns, value in zip(channel.at_ns, channel.values, strict=True))
    return with_channels(record, msgspec.structs.replace(channel, values=values))


def test_a_run_whose_idle_power_drifted_is_left_out_of_net_energy_alone(tmp_path: Path) -> None:
    made = with_power()
    one = made.index(next(record for record in made if record.spec.model.name == LLAMA.name))
    whole = rows_of(tmp_path / "whole", made)
    made[one] = drifted(made[one])
    evidence = Evidence.of([factory.write(tmp_path / "drifted", made)])
    rows = rows_of(tmp_path / "drifted", made)
    changed = [row for row in rows if row["remark"]]
    assert {row["remark"] for row in changed} == {"net without 1 of 3 runs: idle power drifted"}
    assert {row["model"] for row in changed} == {"Llama-3.2-1B"}
    assert all(row["net_j_per_token"] for row in rows)
    assert [row["gross_j_per_token"] for row in rows] == [row["gross_j_per_token"] for row in whole]
    (check,) = [check for check in checks(evidence) if check.rule.startswith("Idle power")]
    assert (check.checked, check.run_ids) == (6, (made[one].spec.run_id,))


def test_a_taint_of_drift_spoils_net_energy_but_neither_speed_nor_gross(tmp_path: Path) -> None:
    taint = Taint(kind=TaintKind.IDLE_DRIFT, detail="4000 mW before and 4400 mW after")
    made = [msgspec.structs.replace(record, taints=(taint,)) for record in with_power()]
    rows = rows_of(tmp_path, made)
    assert rows
    assert all(row["gross_j_per_token"] for row in rows)
    assert all(row.get("net_j_per_token") is None for row in rows)
    assert all("no net energy: idle power drifted" in row["remark"] for row in rows)
    evidence = Evidence.of([tmp_path])
    assert all(run.counts for run in evidence.runs)
    other = Taint(kind=TaintKind.THROTTLED, detail="hot")
    spoilt = [msgspec.structs.replace(record, taints=(taint, other)) for record in made]
    assert not any(run.counts for run in Evidence.of([factory.write(tmp_path / "hot", spoilt)]).runs)


def test_a_gap_in_the_readings_leaves_its_window_out_and_is_told(tmp_path: Path) -> None:
    """Half a second without a reading in the first decode burst of the first run."""
    made = with_power()
    channel, measured = rail(made[0]), made[0].measured
    assert measured is not None
    first = next(burst for burst in measured.bursts if burst.kind is BurstKind.DECODE)
    kept = [n for n, at_ns in enumerate(channel.at_ns) if not 0 <= at_ns - first.start_ns - S // 10 <= S // 2]
    holed = msgspec.structs.replace(
        channel, at_ns=tuple(channel.at_ns[n] for n in kept), values=tuple(channel.values[n] for n in kept)
    )
    made[0] = with_channels(made[0], holed)
    rows = rows_of(tmp_path, made)
    assert sorted(row["windows_left_out"] for row in rows) == [0, 0, 0, 1]
    (check,) = [one for one in checks(Evidence.of([tmp_path])) if one.rule.startswith("Power readings")]
    assert (check.checked, check.broken) == (36, 1)
    assert made[0].spec.run_id in check.run_ids


def slow_stale(channel: Channel, work: list[tuple[int, int]]) -> bool:
    """The definition, word by word: every stretch without a change, every window against it."""
    at_ns, values = channel.at_ns, channel.values
    changes = [place for place in range(1, len(values)) if values[place] != values[place - 1]]
    edges = [0, *changes, len(values) - 1]
    gaps = sorted(at_ns[place] - at_ns[place - 1] for place in range(1, len(at_ns)))
    middle = len(gaps) // 2
    median = gaps[middle] if len(gaps) % 2 else (gaps[middle - 1] + gaps[middle]) / 2
    readings = Readings.of(channel)
    usual = max(update_period_ns(readings.at_ns, readings.values), median)
    for start, end in pairwise(edges):
        busy = sum(max(0, min(stop, at_ns[end]) - max(begin, at_ns[start])) for begin, stop in work)
        limit = STALE_UPDATES * usual
        if at_ns[end] - at_ns[start] > limit and end - start >= STALE_UPDATES and busy > limit:
            return True
    return False


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=2, max_size=12),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 200)), max_size=6),
    st.integers(0, 10**16),
)
def test_stale_is_what_its_definition_says(
    stretches: list[tuple[int, bool]], windows: list[tuple[int, int]], origin: int
) -> None:
    """Stretches of readings that stand still or wander, windows anywhere, on a clock that has run for months."""
    values: list[float] = [5000.0]
    for length, still in stretches:
        values += [values[-1]] * length if still else [values[-1] + 1 + n % 3 for n in range(length)]
    tenth = S // 10
    channel = Channel(
        name="VDD_IN",
        quantity=Quantity.POWER_MW,
        source="ina3221",
        scope="rail VDD_IN",
        quality=Quality.MEASURED,
        resolution=1.0,
        at_ns=tuple(origin + place * tenth for place in range(len(values))),
        values=tuple(values),
    )
    work = [(origin + start * tenth, origin + (start + length) * tenth) for start, length in windows]
    readings = Readings.of(channel)
    reason = fault(readings, [readings], work)
    if not reason.startswith(("constant", "missing")):
        assert reason.startswith("stale") == slow_stale(channel, work)


def test_the_reason_of_a_machine_without_a_sensor_stands_in_the_table(tmp_path: Path) -> None:
    made = []
    for record in factory.solos(LAB, (LLAMA,)):
        telemetry = Telemetry(
            period_ns=S,
            missed_ticks=0,
            start_ns=0,
            end_ns=S,
            channels=(),
            absent={"energy": "no sensor: no RAPL domain under /sys/class/powercap"},
        )
        made.append(msgspec.structs.replace(record, telemetry=telemetry))
    table = table_of_energy.table(Evidence.of([factory.write(tmp_path, made)]))
    assert table.rows == ()
    reason = "no sensor: no RAPL domain under /sys/class/powercap"
    assert table.why_empty == f"not measured: energy: unavailable ({reason})"


@pytest.mark.parametrize(
    "changes",
    [
        {"quality": Quality.ESTIMATED},
        {"quality": Quality.MODELLED},
        {"scope": "package VDD_IN"},
        {"source": "tegrastats"},
        {"name": "VIN", "scope": "system input VIN"},
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_joules_of_another_sensor_scope_or_quality_are_never_divided(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = with_power()
    assert len(Evidence.of([factory.write(tmp_path / "same", made)]).energy_ratios) == 1
    other = [
        with_channels(record, msgspec.structs.replace(rail(record), **changes))
        if record.spec.model.name == LLAMA.name
        else record
        for record in made
    ]
    evidence = Evidence.of([factory.write(tmp_path / "other", other)])
    assert evidence.energy_ratios == ()
    one, two = (energy.figures[0] for energy in evidence.energies.values())
    assert str(energy_ratio(one, two)).startswith("not comparable: ")


@pytest.mark.parametrize("kind", [RunKind.PROFILE, RunKind.ROUTING])
def test_only_timed_runs_have_energy(tmp_path: Path, kind: RunKind) -> None:
    made = [
        msgspec.structs.replace(record, spec=msgspec.structs.replace(record.spec, kind=kind)) for record in with_power()
    ]
    assert rows_of(tmp_path, made) == []
