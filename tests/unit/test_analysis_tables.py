"""Tables of the extensions: each has rows where its experiment was run, and its reason where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import records_factory as factory
from records_factory import LLAMA, OLMOE, Lab

from harness.analysis.evidence import Evidence
from harness.analysis.rules import checks
from harness.analysis.tables import tables
from harness.analysis.tables.base import Table
from harness.records import BandwidthSample, Channel, Measured, Record, RoutingTrace, Settings, Telemetry, Workload
from harness.terms import Ending, NodeCategory, Quality, Quantity, RunKind

LAB = Lab(rounds=8, cohorts=1)


def table_of(folder: Path, id_: str, records: list[Record]) -> Table:
    """One table of a report on some records."""
    made = {table.id: table for table in tables(Evidence.of([factory.write(folder, records)]))}
    return made[id_]


def column(table: Table, key: str) -> list[Any]:
    """Values of one column."""
    place = next(i for i, column in enumerate(table.columns) if column.key == key)
    return [row.values[place] for row in table.rows]


def varied(record: Record, workload: dict[str, Any], settings: dict[str, Any], run_id: str) -> Record:
    """The record with another workload and settings."""
    spec = msgspec.structs.replace(
        record.spec,
        run_id=record.spec.run_id[:8] + run_id,
        workload=msgspec.structs.replace(record.spec.workload, **workload),
        settings=msgspec.structs.replace(record.spec.settings, **settings),
    )
    return msgspec.structs.replace(record, spec=spec)


def test_an_empty_table_says_why(tmp_path: Path) -> None:
    for table in tables(Evidence.of([factory.write(tmp_path, list(factory.rounds(LAB)))])):
        assert table.rows or table.absent, table.id


def test_sequences_decoded_together_are_told_one_by_one_and_in_all(tmp_path: Path) -> None:
    alone = list(factory.rounds(LAB, (LLAMA,)))
    wide = [varied(record, {"batch_width": 4}, {"variant": "batch_width=4"}, "-wide") for record in alone]
    table = table_of(tmp_path, "throughput", [*alone, *wide])
    one, other = column(table, "decode_tokens_per_s")
    assert one == other
    assert column(table, "decode_all_tokens_per_s") == [None, 4 * other]


def test_context_is_relative_to_the_smallest_depth(tmp_path: Path) -> None:
    depths = {128: 1.0, 1024: 1.25}
    records = []
    for depth, slower in depths.items():
        models = [replace(model, token_ns=int(model.token_ns * slower)) for model in (OLMOE, LLAMA)]
        made = factory.rounds(LAB.with_(noise=0.01, experiment="context"), models)
        change = {"depth_tokens": depth}, {"variant": f"depth_tokens={depth}"}
        records += [varied(record, *change, f"-{depth}") for record in made]
    table = table_of(tmp_path, "context", records)
    assert column(table, "depth_tokens") == [128, 1024, 128, 1024]
    assert column(table, "relative") == [None, pytest.approx(0.8, rel=0.02)] * 2


def test_quantization_is_relative_to_the_type_of_the_study(tmp_path: Path) -> None:
    slow = replace(LLAMA, file_type="Q8_0", token_ns=LLAMA.token_ns * 2)
    records = [*factory.rounds(LAB, (LLAMA,)), *factory.rounds(LAB, (slow,))]
    table = table_of(tmp_path, "quantization", records)
    assert sorted(zip(column(table, "file_type"), column(table, "relative"), strict=True)) == [
        ("Q4_K_M", None),
        ("Q8_0", pytest.approx(0.5, rel=0.05)),
    ]
    assert "Llama-3.2-1B Q8_0" in column(table, "model")


def test_sparsity_lists_the_family(tmp_path: Path) -> None:
    small = replace(OLMOE, variant="experts=16,used=8", experts=16, size_bytes=1_200_000_000)
    table = table_of(tmp_path, "sparsity", list(factory.rounds(LAB, (OLMOE, small, LLAMA))))
    assert set(column(table, "expert_count")) == {64, 16, None}


def test_memory_ceiling_counts_failures_as_results(tmp_path: Path) -> None:
    records = []
    for limit in (0, 6_000_000_000, 3_000_000_000):
        lab = LAB.with_(experiment="ceiling", settings=Settings(threads=2, memory_limit_bytes=limit))
        if limit == 3_000_000_000:
            lab = lab.with_(ending=Ending.OOM)
        records += list(factory.solos(lab, (OLMOE,)))
    table = table_of(tmp_path, "memory_ceiling", records)
    assert column(table, "memory_limit_bytes") == [None, 6_000_000_000, 3_000_000_000]
    assert column(table, "endings") == ["2 ok", "2 ok", "2 oom"]
    assert column(table, "decode_tokens_per_s")[2] is None


def test_router_overhead_lists_where_a_token_goes(tmp_path: Path) -> None:
    parts = {NodeCategory.ATTENTION: 5_000_000, NodeCategory.ROUTER: 1_000_000, NodeCategory.EXPERT_UP: 9_000_000}
    dense = {NodeCategory.ATTENTION: 5_000_000, NodeCategory.DENSE_FFN: 9_000_000}
    records = [factory.profiled(LAB, OLMOE, parts), factory.profiled(LAB, LLAMA, dense)]
    table = table_of(tmp_path, "router_overhead", records)
    assert column(table, "router_ns") == [pytest.approx(1_000_000, rel=0.02), None]
    assert column(table, "router_share") == [pytest.approx(0.1, rel=0.02), None]
    assert column(table, "dense_ffn_ns") == [None, pytest.approx(9_000_000, rel=0.02)]


def measured(record: Record, **fields: Any) -> Record:
    """The record with other measured fields."""
    assert record.measured is not None
    return msgspec.structs.replace(record, measured=msgspec.structs.replace(record.measured, **fields))


def bare(kind: RunKind) -> Record:
    """A run of a kind without bursts."""
    spec = factory.spec(LAB, OLMOE, kind, 0, 0, Workload(prompt_tokens=1, decode_tokens=1))
    return factory.record(LAB, spec, Measured(load_ns=1, warmup=None, bursts=(), memory=None))


def test_routing_tells_even_from_skewed_use(tmp_path: Path) -> None:
    even = tuple((((2 * i) % 8, (2 * i + 1) % 8),) for i in range(40))
    trace = RoutingTrace(
        expert_count=8, expert_used_count=2, layer_numbers=(0,), batch_width=1, burst_steps=(20, 20), selected=even
    )
    table = table_of(tmp_path / "even", "routing", [measured(bare(RunKind.ROUTING), routing=trace)])
    assert column(table, "effective_experts") == [pytest.approx(8)]
    assert column(table, "busiest_over_even") == [pytest.approx(1)]
    assert column(table, "kept_fraction") == [0]
    same = msgspec.structs.replace(trace, selected=tuple((((0, 1)),) for _ in range(40)))
    table = table_of(tmp_path / "same", "routing", [measured(bare(RunKind.ROUTING), routing=same)])
    assert column(table, "effective_experts") == [pytest.approx(2)]
    assert column(table, "kept_fraction") == [1]


def test_bandwidth_stands_with_the_device(tmp_path: Path) -> None:
    samples = tuple(
        BandwidthSample(
            round=i,
            threads=threads,
            working_set_bytes=1,
            last_cache_bytes=None,
            read_bytes=10_000_000_000,
            duration_ns=1_000_000_000 // threads,
        )
        for i, threads in enumerate((1, 2, 2))
    )
    table = table_of(tmp_path, "devices", [measured(bare(RunKind.BANDWIDTH), bandwidth=samples)])
    assert column(table, "read_bandwidth_bytes_per_s") == [pytest.approx(20e9)]


def test_temperature_is_the_peak_while_at_work(tmp_path: Path) -> None:
    (record,) = factory.solos(LAB, (OLMOE,), blocks=1, repetitions=1)
    assert record.measured is not None
    start = min(burst.start_ns for burst in record.measured.bursts)
    at = tuple(start + i * 100_000_000 for i in (-5, 0, 1, 2, 900))
    channel = Channel(
        name="cpu_thermal",
        quantity=Quantity.TEMPERATURE_CELSIUS,
        source="sysfs",
        scope="SoC",
        quality=Quality.MEASURED,
        resolution=0.001,
        at_ns=at,
        values=(99.0, 50.0, 61.5, 60.0, 99.0),
    )
    telemetry = Telemetry(period_ns=100_000_000, missed_ticks=0, start_ns=at[0], end_ns=at[-1], channels=(channel,))
    table = table_of(tmp_path, "temperature", [msgspec.structs.replace(record, telemetry=telemetry)])
    assert column(table, "peak_celsius") == [61.5]
    assert column(table, "first_celsius") == [50.0]
    assert column(table, "channel") == ["cpu_thermal"]


def test_rules_that_are_kept_and_broken(tmp_path: Path) -> None:
    kept = checks(Evidence.of([factory.write(tmp_path / "kept", list(factory.rounds(Lab(rounds=30))))]))
    assert {check.rule: check.broken for check in kept if check.broken and "first" not in check.rule} == {}
    wild = LAB.with_(rounds=12, noise=0.6, overhead_ns=50_000_000, drift=1.5)
    folder = factory.write(tmp_path / "wild", list(factory.rounds(wild)))
    factory.write_plan(folder, list(factory.rounds(wild)), {"r1": ""})
    broken = {check.rule: check for check in checks(Evidence.of([folder])) if check.broken}
    assert {rule.split()[0] for rule in broken} >= {"Every", "The", "Time", "No", "Speed"}
    assert broken["Every planned run has a record or a reason"].run_ids == ("r1",)
    assert len(broken["Time per token varies by at most 15 % between bursts"].run_ids) == 4


def test_names_tell_apart_what_one_group_compares(tmp_path: Path) -> None:
    records = list(factory.rounds(LAB, (OLMOE, replace(OLMOE, variant="experts=16"), replace(LLAMA, file_type="Q8_0"))))
    names = Evidence.of([factory.write(tmp_path, records)]).names
    found = [names.model(record.spec.model) for record in records]
    assert found == ["OLMoE-1B-7B", "OLMoE-1B-7B [experts=16]", "Llama-3.2-1B Q8_0"]
