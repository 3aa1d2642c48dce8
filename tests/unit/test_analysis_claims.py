"""Verdicts flip when data are mutated: ratio moved, interval widened, device or weights changed, runs tainted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import records_factory as factory
from lab_hosts import CPU_HOST, JETSON_HOST, MAC_HOST
from records_at_scale import powered
from records_factory import LLAMA, OLMOE, Lab, Model

from harness.analysis.claims import CLAIMS_FILE, ClaimVerdict, Origin, Verdict, load_claims
from harness.analysis.evidence import Evidence
from harness.analysis.judge import judge, to_json
from harness.errors import ConfigError
from harness.records import Record, Settings, Taint
from harness.terms import DeviceKind, Ending, EngineKind, NodeCategory, Quality, TaintKind, Weights
from harness.terms import Origin as RecordOrigin

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(ROOT / CLAIMS_FILE)
TAINT = Taint(kind=TaintKind.THROTTLED, detail="throttle flag rose")
SWAPPED = Taint(kind=TaintKind.SWAPPED, detail="swap rose by 40 MB")
MEASURED = Lab(origin=RecordOrigin.MEASURED, noise=0.02, rounds=30)
MAC = MEASURED.with_(device=DeviceKind.MAC, host=MAC_HOST, weights=Weights.RELEASED)
JETSON = MEASURED.with_(device=DeviceKind.JETSON, host=JETSON_HOST, weights=Weights.RELEASED, power_mode="nvpmodel 15W")


def verdict(folder: Path, id_: str, records: Iterable[Record]) -> ClaimVerdict:
    """The verdict on one claim."""
    (found,) = judge(Evidence.of([factory.write(folder, list(records))]), {id_: CLAIMS[id_]})
    return found


def pair(lab: Lab, ratio: float) -> list[Record]:
    """OLMoE at `ratio` times the speed of Llama, in rounds."""
    return list(factory.rounds(lab, (replace(OLMOE, token_ns=int(LLAMA.token_ns / ratio)), LLAMA)))


SPEED_CLAIMS = pytest.mark.parametrize(("id_", "lab", "ratio"), [("C1", MAC, 0.90), ("C2", JETSON, 0.69)])


@SPEED_CLAIMS
def test_the_published_ratio_on_the_published_machine_is_reproduced(
    tmp_path: Path, id_: str, lab: Lab, ratio: float
) -> None:
    found = verdict(tmp_path, id_, pair(lab, ratio))
    assert found.verdict is Verdict.REPRODUCED
    assert found.low is not None
    assert found.high is not None
    assert found.tolerance_low <= found.low < ratio < found.high <= found.tolerance_high
    assert len(found.run_ids) == 4
    assert found.watermarks == ()


@SPEED_CLAIMS
@pytest.mark.parametrize(
    ("changes", "factor", "wanted"),
    [
        ({}, 0.85, Verdict.DIRECTION_ONLY),
        ({}, 1.7, Verdict.NOT_REPRODUCED),
        ({"noise": 1.5, "rounds": 8}, 1.0, Verdict.NOT_COMPARABLE),
        ({"rounds": 2, "cohorts": 1}, 1.0, Verdict.NOT_COMPARABLE),
        ({"device": DeviceKind.CPU}, 1.0, Verdict.NOT_COMPARABLE),
        ({"weights": Weights.PROXY}, 1.0, Verdict.NOT_COMPARABLE),
        ({"origin": RecordOrigin.SYNTHETIC}, 1.0, Verdict.NOT_COMPARABLE),
        ({"origin": RecordOrigin.EMULATED}, 1.0, Verdict.NOT_COMPARABLE),
        ({"engine": EngineKind.FAKE}, 1.0, Verdict.NOT_COMPARABLE),
        ({"taints": (TAINT,)}, 1.0, Verdict.NOT_RUN),
        ({"host": CPU_HOST}, 1.0, Verdict.DIRECTION_ONLY),
        ({"host": CPU_HOST}, 1.7, Verdict.NOT_REPRODUCED),
        ({"settings": Settings(threads=2, variant="threads=2")}, 1.0, Verdict.NOT_RUN),
    ],
)
def test_mutated_data_flip_the_verdict(
    tmp_path: Path, id_: str, lab: Lab, ratio: float, changes: dict[str, object], factor: float, wanted: Verdict
) -> None:
    found = verdict(tmp_path, id_, pair(lab.with_(**changes), ratio * factor))
    assert found.verdict is wanted, found.reason


def test_another_power_mode_is_judged_by_direction(tmp_path: Path) -> None:
    found = verdict(tmp_path, "C2", pair(JETSON.with_(power_mode="nvpmodel MAXN_SUPER"), 0.69))
    assert found.verdict is Verdict.DIRECTION_ONLY
    assert "15W" in found.reason


def test_a_tiny_model_says_nothing_of_the_real_one(tmp_path: Path) -> None:
    tiny = [replace(model, variant="tiny") for model in (OLMOE, LLAMA)]
    assert verdict(tmp_path, "C1", factory.rounds(MAC, tiny)).verdict is Verdict.NOT_RUN


def test_excluded_runs_are_told(tmp_path: Path) -> None:
    assert (
        "4 runs of these models were excluded" in verdict(tmp_path, "C1", pair(MAC.with_(taints=(TAINT,)), 0.9)).reason
    )


def test_the_right_machine_is_preferred_among_several(tmp_path: Path) -> None:
    records = [*pair(MAC.with_(weights=Weights.PROXY, experiment="other"), 1.3), *pair(MAC, 0.9), *pair(MEASURED, 1.3)]
    assert verdict(tmp_path, "C1", records).verdict is Verdict.REPRODUCED


def test_what_a_suite_varies_besides_does_not_speak_for_a_claim(tmp_path: Path) -> None:
    """However narrow its interval, and wherever it stands in the plan."""
    context = list(pair(MAC.with_(experiment="context", noise=0.001, cohorts=4), 0.5))
    records = [*context, *pair(MAC, 0.9)]
    assert verdict(tmp_path / "both", "C1", records).verdict is Verdict.REPRODUCED
    assert verdict(tmp_path / "alone", "C1", context).verdict is Verdict.DIRECTION_ONLY


def drawing(lab: Lab, ratio: float) -> list[Record]:
    """Solo runs in which a token of OLMoE costs `ratio` times the energy of one of Llama."""
    work_mw = {OLMOE.name: 6_000 * ratio * LLAMA.token_ns / OLMOE.token_ns, LLAMA.name: 6_000.0}
    records = factory.solos(lab, (OLMOE, LLAMA), blocks=3, repetitions=4)
    return [powered(record, work_mw[record.spec.model.name]) for record in records]


@pytest.mark.parametrize(
    ("lab", "ratio", "wanted"),
    [
        (JETSON, 2.1, Verdict.REPRODUCED),
        (JETSON, 1.4, Verdict.DIRECTION_ONLY),
        (JETSON, 0.7, Verdict.NOT_REPRODUCED),
        (JETSON.with_(power_mode="nvpmodel MAXN_SUPER"), 2.1, Verdict.DIRECTION_ONLY),
        (JETSON.with_(weights=Weights.PROXY), 2.1, Verdict.NOT_COMPARABLE),
        (JETSON.with_(origin=RecordOrigin.EMULATED), 2.1, Verdict.NOT_COMPARABLE),
        (MAC, 2.1, Verdict.NOT_COMPARABLE),
        (JETSON.with_(taints=(TAINT,)), 2.1, Verdict.NOT_RUN),
    ],
)
def test_c3_energy_per_token(tmp_path: Path, lab: Lab, ratio: float, wanted: Verdict) -> None:
    found = verdict(tmp_path, "C3", drawing(lab.with_(decode_tokens=64), ratio))
    assert found.verdict is wanted, found.reason


def test_c3_needs_joules_of_one_measuring_sensor(tmp_path: Path) -> None:
    assert verdict(tmp_path / "none", "C3", pair(JETSON, 0.69)).verdict is Verdict.NOT_RUN
    for field, value in (("quality", Quality.ESTIMATED), ("values", None)):
        records = drawing(JETSON.with_(decode_tokens=64), 2.1)
        for place, record in enumerate(records):
            assert record.telemetry is not None
            (channel,) = record.telemetry.channels
            changed = value if value is not None else (0.0,) * len(channel.values)
            telemetry = msgspec.structs.replace(
                record.telemetry, channels=(msgspec.structs.replace(channel, **{field: changed}),)
            )
            records[place] = msgspec.structs.replace(record, telemetry=telemetry)
        assert verdict(tmp_path / field, "C3", records).verdict is Verdict.NOT_RUN


def peaking(lab: Lab, peak_bytes: int) -> list[Record]:
    """Solo runs of OLMoE whose peak stands at `peak_bytes`."""
    model = replace(OLMOE, size_bytes=peak_bytes - 300_000_000)
    return list(factory.solos(lab, (model,)))


@pytest.mark.parametrize(
    ("lab", "peak_bytes", "wanted"),
    [
        (JETSON, 7_600_000_000, Verdict.REPRODUCED),
        (JETSON, 6_000_000_000, Verdict.DIRECTION_ONLY),
        (JETSON, 3_000_000_000, Verdict.NOT_REPRODUCED),
        (JETSON.with_(weights=Weights.PROXY), 7_600_000_000, Verdict.NOT_COMPARABLE),
        (MAC, 7_600_000_000, Verdict.NOT_COMPARABLE),
        (JETSON.with_(taints=(SWAPPED,)), 7_600_000_000, Verdict.NOT_RUN),
        (JETSON.with_(ending=Ending.OOM), 7_600_000_000, Verdict.NOT_RUN),
        (JETSON.with_(taints=(TAINT,)), 7_600_000_000, Verdict.REPRODUCED),  # heat does not change memory
    ],
)
def test_c4_memory_at_the_ceiling(tmp_path: Path, lab: Lab, peak_bytes: int, wanted: Verdict) -> None:
    found = verdict(tmp_path, "C4", peaking(lab, peak_bytes))
    assert found.verdict is wanted, found.reason


def moe_profile(lab: Lab, router_ns: int, experts_ns: int = 20_000_000) -> list[Record]:
    """A profile of OLMoE with two fresh processes."""
    parts = {
        NodeCategory.ATTENTION: 5_000_000,
        NodeCategory.ROUTER: router_ns,
        NodeCategory.EXPERT_GATE: experts_ns // 2,
        NodeCategory.EXPERT_DOWN: experts_ns // 2,
    }
    return [factory.profiled(lab, OLMOE, parts)]


@pytest.mark.parametrize(
    ("lab", "router_ns", "wanted"),
    [
        (JETSON, 1_000_000, Verdict.REPRODUCED),
        (JETSON, 4_000_000, Verdict.NOT_REPRODUCED),
        (JETSON.with_(weights=Weights.PROXY), 1_000_000, Verdict.NOT_COMPARABLE),
        (MEASURED, 1_000_000, Verdict.NOT_COMPARABLE),
        (JETSON.with_(taints=(TAINT,)), 1_000_000, Verdict.NOT_RUN),
    ],
)
def test_c5_share_of_routing(tmp_path: Path, lab: Lab, router_ns: int, wanted: Verdict) -> None:
    found = verdict(tmp_path, "C5", moe_profile(lab, router_ns))
    assert found.verdict is wanted, found.reason


def test_c5_subtracts_what_the_callbacks_cost(tmp_path: Path) -> None:
    found = verdict(tmp_path, "C5", moe_profile(JETSON, 1_000_000))
    assert found.value == pytest.approx(1 / 21, rel=0.01)


def family(lab: Lab, time: Callable[[float, float], float]) -> list[Record]:
    """Four models whose total and active bytes vary apart; `time` gives nanoseconds a token."""
    members = []
    for experts, used in ((64, 8), (16, 8), (64, 2), (16, 2)):
        total, active = 60_000_000.0 * experts, 300_000_000.0 + 60_000_000 * used
        members.append(
            Model(
                name="olmoe-1b-7b",
                architecture="olmoe",
                size_bytes=int(total) + 700_000,
                parameters_total=1,
                parameters_active=1,
                token_ns=int(time(total, active)),
                active_bytes=int(active),
                experts=experts,
                used=used,
                variant=f"experts={experts},used={used}",
            )
        )
    return list(factory.rounds(lab.with_(experiment="sparsity"), members))


@pytest.mark.parametrize(("id_", "lab"), [("C6", JETSON.with_(weights=Weights.PROXY)), ("B5", MEASURED)])
@pytest.mark.parametrize(
    ("time", "wanted"),
    [
        (lambda total, active: 0.02 * total, Verdict.REPRODUCED),
        (lambda total, active: 0.02 * active, Verdict.NOT_REPRODUCED),
    ],
)
def test_c6_total_against_active_bytes(
    tmp_path: Path, id_: str, lab: Lab, time: Callable[[float, float], float], wanted: Verdict
) -> None:
    found = verdict(tmp_path, id_, family(lab, time))
    assert found.verdict is wanted, found.reason


def test_c6_knows_the_elasticities(tmp_path: Path) -> None:
    found = verdict(tmp_path, "B5", family(MEASURED, lambda total, active: 0.5 * total**0.7 * active**0.2))
    assert found.value == pytest.approx(0.5, abs=0.03)


def test_c6_is_not_judged_elsewhere_nor_from_tainted_runs(tmp_path: Path) -> None:
    records = family(MEASURED, lambda total, active: 0.02 * total)
    assert verdict(tmp_path / "cpu", "C6", records).verdict is Verdict.NOT_COMPARABLE
    tainted = family(MEASURED.with_(taints=(TAINT,)), lambda total, active: 0.02 * total)
    assert verdict(tmp_path / "tainted", "B5", tainted).verdict is Verdict.NOT_RUN


def gap(lab: Lab, router_ns: int, experts_ns: int) -> list[Record]:
    """OLMoE beside a dense model whose token takes 20 ms."""
    dense = {NodeCategory.ATTENTION: 5_000_000, NodeCategory.DENSE_FFN: 15_000_000}
    return [*moe_profile(lab, router_ns, experts_ns), factory.profiled(lab, LLAMA, dense)]


@pytest.mark.parametrize(("id_", "lab"), [("C7", JETSON), ("B6", MEASURED)])
@pytest.mark.parametrize(
    ("router_ns", "experts_ns", "wanted"),
    [
        (1_000_000, 24_000_000, Verdict.REPRODUCED),
        (9_000_000, 16_000_000, Verdict.NOT_REPRODUCED),
        (500_000, 10_000_000, Verdict.NOT_COMPARABLE),  # no gap that could be explained
    ],
)
def test_c7_routing_and_the_gap(
    tmp_path: Path, id_: str, lab: Lab, router_ns: int, experts_ns: int, wanted: Verdict
) -> None:
    found = verdict(tmp_path, id_, gap(lab, router_ns, experts_ns))
    assert found.verdict is wanted, found.reason


def test_c7_tells_what_was_seen_where_there_is_no_gap(tmp_path: Path) -> None:
    found = verdict(tmp_path, "C7", gap(JETSON, 500_000, 10_000_000))
    assert re.search(r"no gap to explain: .* are -\d\.\d\d ms a token \(-\d\.\d\d to -\d\.\d\d\)", found.reason)


@pytest.mark.parametrize("joined", [(0, 4), (4, 0)])
def test_c7_looks_at_rounds_that_both_took_part_in(tmp_path: Path, joined: tuple[int, int]) -> None:
    records = gap(JETSON, 1_000_000, 24_000_000)  # 1 of the 10 ms that a token takes longer
    found = verdict(tmp_path, "C7", [factory.disturbed(one, first) for one, first in zip(records, joined, strict=True)])
    assert found.value == pytest.approx(0.1, abs=0.005), found.reason
    assert found.verdict is Verdict.REPRODUCED


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"weights": Weights.PROXY}, Verdict.NOT_COMPARABLE),
        ({"device": DeviceKind.CPU}, Verdict.NOT_COMPARABLE),
        ({"taints": (TAINT,)}, Verdict.NOT_RUN),
    ],
)
def test_c7_mutations(tmp_path: Path, changes: dict[str, object], wanted: Verdict) -> None:
    assert verdict(tmp_path, "C7", gap(JETSON.with_(**changes), 1_000_000, 24_000_000)).verdict is wanted


def clone(ratio: float, lab: Lab = MEASURED) -> list[Record]:
    """A proxy at `ratio` times the speed of the released weights, in the same rounds."""
    fast = replace(LLAMA, name="smollm2-135m", variant="clone", token_ns=int(LLAMA.token_ns / ratio))
    real = replace(LLAMA, name="smollm2-135m")
    records = []
    for record in factory.rounds(lab, (fast, real)):
        weights = Weights.PROXY if record.spec.model.variant else Weights.RELEASED
        model = msgspec.structs.replace(record.spec.model, weights=weights)
        records.append(msgspec.structs.replace(record, spec=msgspec.structs.replace(record.spec, model=model)))
    return records


@pytest.mark.parametrize(("ratio", "wanted"), [(1.01, Verdict.REPRODUCED), (1.2, Verdict.NOT_REPRODUCED)])
def test_b1_proxy_validity(tmp_path: Path, ratio: float, wanted: Verdict) -> None:
    found = verdict(tmp_path, "B1", clone(ratio))
    assert found.verdict is wanted, found.reason
    assert found.watermarks == ("proxy",)


def test_b1_mutations(tmp_path: Path) -> None:
    assert verdict(tmp_path / "a", "B1", clone(1.0, MEASURED.with_(taints=(TAINT,)))).verdict is Verdict.NOT_RUN
    assert verdict(tmp_path / "b", "B1", clone(1.0, Lab())).verdict is Verdict.NOT_COMPARABLE
    wide = clone(1.0, MEASURED.with_(noise=0.5))
    assert verdict(tmp_path / "c", "B1", wide).verdict is Verdict.NOT_COMPARABLE


@pytest.mark.parametrize(
    ("experts_ns", "wanted"), [(24_000_000, Verdict.REPRODUCED), (60_000_000, Verdict.NOT_REPRODUCED)]
)
def test_b2_node_times_add_up(tmp_path: Path, experts_ns: int, wanted: Verdict) -> None:
    found = verdict(tmp_path, "B2", moe_profile(MEASURED, 1_000_000, experts_ns))
    assert found.verdict is wanted, found.reason


@pytest.mark.parametrize(
    ("overhead_ns", "interrupted_ns", "wanted"),
    [
        (40_000, 0, Verdict.REPRODUCED),
        (40_000_000, 0, Verdict.NOT_REPRODUCED),
        (40_000, 40_000_000, Verdict.REPRODUCED),
    ],
)
def test_b4_harness_overhead(tmp_path: Path, overhead_ns: int, interrupted_ns: int, wanted: Verdict) -> None:
    lab = MEASURED.with_(overhead_ns=overhead_ns, interrupted_ns=interrupted_ns)
    found = verdict(tmp_path, "B4", factory.rounds(lab))
    assert found.verdict is wanted, found.reason
    assert ("the system took at most 0 %" in found.reason) is (interrupted_ns == 0), found.reason


def test_claims_without_data_are_not_run_and_none_is_passed(tmp_path: Path) -> None:
    records = list(factory.rounds(MEASURED, (LLAMA,)))
    found = {v.id: v.verdict for v in judge(Evidence.of([factory.write(tmp_path, records)]), CLAIMS)}
    assert found.pop("B4") is Verdict.REPRODUCED
    assert set(found.values()) == {Verdict.NOT_RUN}


def test_every_claim_of_the_study_stands_in_the_file() -> None:
    paper = [id_ for id_, claim in CLAIMS.items() if claim.origin is Origin.PAPER]
    assert paper == ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]
    assert all(claim.scope.device for id_, claim in CLAIMS.items() if id_ in paper)


def test_verdicts_as_json_hold_numbers_and_run_ids(tmp_path: Path) -> None:
    found = judge(Evidence.of([factory.write(tmp_path, pair(MAC, 0.9))]), CLAIMS)
    first = json.loads(to_json(found))[0]
    assert first["id"] == "C1"
    assert first["verdict"] == "reproduced"
    assert first["value"] == found[0].value
    assert len(first["run_ids"]) == 4


def test_faults_of_the_claims_file_are_told_at_once(tmp_path: Path) -> None:
    text = (ROOT / CLAIMS_FILE).read_text(encoding="utf-8")
    broken = tmp_path / "claims.toml"
    broken.write_text(text.replace("low = 0.85, high = 0.95", "low = 0.95, high = 0.85"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"claims\.C1\.tolerance"):
        load_claims(broken)
    broken.write_text(text.replace('formula = "decode_ratio"', 'formula = "magic"', 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"claims\.C1\.formula"):
        load_claims(broken)
