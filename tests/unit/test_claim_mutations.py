"""Every claim, five ways to spoil its evidence: ratio moved, interval widened, device or weights changed, runs tainted.

A claim that names no device or weights is judged on what there is: then the verdict stays, and says what it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
import records_factory as factory
from lab_hosts import CPU_HOST, JETSON_HOST, MAC_HOST
from records_factory import LLAMA, OLMOE, Lab
from test_analysis_claims import CLAIMS, JETSON, MAC, MEASURED, SWAPPED, TAINT, clone, drawing, family, pair, peaking
from test_crosscheck import cell_of, check_of

from harness import crosscheck_file
from harness.analysis.claims import ClaimVerdict, Verdict
from harness.analysis.evidence import Evidence
from harness.analysis.judge import judge
from harness.crosscheck_file import Crosscheck
from harness.records import Record
from harness.terms import DeviceKind, NodeCategory, Weights

Records = Iterable[Record]
Make = Callable[[Lab], Records]
MUTATIONS = ("moved", "widened", "device", "weights", "tainted")
OTHER_MACHINE = {"device": DeviceKind.CPU, "host": CPU_HOST}


@dataclass(frozen=True)
class Case:
    """Evidence that satisfies a claim, the same out of tolerance, the same with a wide interval; and the verdicts."""

    lab: Lab
    good: Make
    moved: Make
    widened: Make
    verdicts: dict[str, Verdict]


def expect(moved: Verdict, widened: Verdict, device: Verdict, weights: Verdict, tainted: Verdict) -> dict[str, Verdict]:
    return dict(zip(MUTATIONS, (moved, widened, device, weights, tainted), strict=True))


YES, SIDE, NO = Verdict.REPRODUCED, Verdict.DIRECTION_ONLY, Verdict.NOT_REPRODUCED
NONE, OTHER = Verdict.NOT_RUN, Verdict.NOT_COMPARABLE


def speed(lab: Lab, ratio: float) -> Case:
    return Case(
        lab=lab,
        good=lambda lab: pair(lab, ratio),
        moved=lambda lab: pair(lab, ratio * 0.85),
        widened=lambda lab: pair(lab.with_(noise=1.5, rounds=8), ratio),
        verdicts=expect(SIDE, OTHER, OTHER, OTHER, NONE),
    )


def restless(lab: Lab) -> Records:
    """Energy whose power differs from block to block, for one model up and for the other down."""
    for record in drawing(lab, 2.1):
        assert record.telemetry is not None
        (channel,) = record.telemetry.channels
        place = record.spec.schedule.block if record.spec.model.expert_count else 2 - record.spec.schedule.block
        changed = msgspec.structs.replace(channel, values=tuple(v * (0.8, 1.0, 1.2)[place] for v in channel.values))
        yield msgspec.structs.replace(record, telemetry=msgspec.structs.replace(record.telemetry, channels=(changed,)))


def profile(lab: Lab, router_ns: int, spread: float = 0.0) -> Record:
    """OLMoE with experts of 20 ms, its unprofiled token as long as its nodes."""
    parts = {
        NodeCategory.ATTENTION: 9_000_000,
        NodeCategory.ROUTER: router_ns,
        NodeCategory.EXPERT_GATE: 10_000_000,
        NodeCategory.EXPERT_DOWN: 10_000_000,
    }
    model = replace(OLMOE, token_ns=sum(parts.values()))
    return factory.profiled(lab, model, parts, spread=spread)


def gap(lab: Lab, router_ns: int, spread: float = 0.0) -> Records:
    """Beside a dense model whose token takes 20 ms."""
    dense = {NodeCategory.ATTENTION: 5_000_000, NodeCategory.DENSE_FFN: 15_000_000}
    yield profile(lab, router_ns, spread)
    yield factory.profiled(lab, LLAMA, dense)


def additive(lab: Lab, factor: float, noise: float = 0.02) -> Records:
    """Nodes that add up to `factor` of the unprofiled token."""
    parts = {NodeCategory.ATTENTION: 5_000_000, NodeCategory.EXPERT_DOWN: 25_000_000}
    model = replace(OLMOE, token_ns=round(30_000_000 / factor))
    yield factory.profiled(lab.with_(noise=noise), model, parts)


def one_bad_window(lab: Lab) -> Records:
    """A hundred windows that keep the bound and one that does not."""
    yield from factory.rounds(lab, (OLMOE,))
    bad = factory.rounds(lab.with_(overhead_ns=90_000_000, rounds=1, cohorts=1, seed=9), (OLMOE,))
    yield from (msgspec.structs.replace(r, spec=msgspec.structs.replace(r.spec, run_id="bad")) for r in bad)


def totals(lab: Lab, noise: float = 0.02, rounds: int = 30) -> Records:
    return family(lab.with_(noise=noise, rounds=rounds), lambda total, _active: 0.02 * total)


def actives(lab: Lab) -> Records:
    return family(lab, lambda _total, active: 0.02 * active)


def two_peaks(lab: Lab) -> Records:
    """One run at the ceiling, one far below it."""
    high, low = peaking(lab, 7_600_000_000), peaking(lab, 3_000_000_000)
    yield high[0]
    model = msgspec.structs.replace(low[1].spec, model=high[1].spec.model)
    yield msgspec.structs.replace(low[1], spec=model)


SPARSE = JETSON.with_(weights=Weights.PROXY)
CASES = {
    "C1": speed(MAC, 0.90),
    "C2": speed(JETSON, 0.69),
    "C3": Case(
        lab=JETSON.with_(decode_tokens=64),
        good=lambda lab: drawing(lab, 2.1),
        moved=lambda lab: drawing(lab, 1.4),
        widened=restless,
        verdicts=expect(SIDE, OTHER, OTHER, OTHER, NONE),
    ),
    "C4": Case(
        lab=JETSON,
        good=lambda lab: peaking(lab, 7_600_000_000),
        moved=lambda lab: peaking(lab, 6_000_000_000),
        widened=two_peaks,
        verdicts=expect(SIDE, OTHER, OTHER, OTHER, NONE),
    ),
    "C5": Case(
        lab=JETSON,
        good=lambda lab: [profile(lab, 1_000_000)],
        moved=lambda lab: [profile(lab, 4_000_000)],
        widened=lambda lab: [profile(lab, 1_000_000, spread=1.2)],
        verdicts=expect(NO, OTHER, OTHER, OTHER, NONE),
    ),
    "C6": Case(
        lab=SPARSE,
        good=totals,
        moved=actives,
        widened=lambda lab: totals(lab, noise=4, rounds=8),
        verdicts=expect(NO, OTHER, OTHER, YES, NONE),  # the family exists as proxies only: weights are not in its scope
    ),
    "C7": Case(
        lab=JETSON,
        good=lambda lab: gap(lab, 1_000_000),
        moved=lambda lab: gap(lab, 30_000_000),
        widened=lambda lab: gap(lab, 6_000_000, spread=0.75),
        verdicts=expect(NO, OTHER, OTHER, OTHER, NONE),
    ),
    "B1": Case(
        lab=MEASURED,
        good=lambda lab: clone(1.0, lab),
        moved=lambda lab: clone(1.2, lab),
        widened=lambda lab: clone(1.0, lab.with_(noise=0.5)),
        verdicts=expect(NO, OTHER, YES, NONE, NONE),
    ),
    "B2": Case(
        lab=MEASURED,
        good=lambda lab: additive(lab, 1.0),
        moved=lambda lab: additive(lab, 1.4),
        widened=lambda lab: additive(lab, 1.0, noise=0.5),
        verdicts=expect(NO, OTHER, YES, YES, NONE),
    ),
    "B4": Case(
        lab=MEASURED,
        good=factory.rounds,
        moved=lambda lab: factory.rounds(lab.with_(overhead_ns=40_000_000)),
        widened=one_bad_window,  # its interval is the worst window
        verdicts=expect(NO, NO, YES, YES, NONE),
    ),
    "B5": Case(
        lab=MEASURED,
        good=totals,
        moved=actives,
        widened=lambda lab: totals(lab, noise=4, rounds=8),
        verdicts=expect(NO, OTHER, YES, YES, NONE),
    ),
    "B6": Case(
        lab=MEASURED,
        good=lambda lab: gap(lab, 1_000_000),
        moved=lambda lab: gap(lab, 30_000_000),
        widened=lambda lab: gap(lab, 6_000_000, spread=0.75),
        verdicts=expect(NO, OTHER, YES, YES, NONE),
    ),
}


def flipped(lab: Lab) -> Lab:
    """The same lab with the other kind of weights."""
    return lab.with_(weights=Weights.PROXY if lab.weights is Weights.RELEASED else Weights.RELEASED)


def spoilt(id_: str, case: Case, mutation: str) -> list[Record]:
    """The evidence of a claim with one thing wrong."""
    match mutation:
        case "moved":
            return list(case.moved(case.lab))
        case "widened":
            return list(case.widened(case.lab))
        case "device":
            other = OTHER_MACHINE if case.lab.host is not CPU_HOST else {"device": DeviceKind.MAC, "host": MAC_HOST}
            return list(case.good(case.lab.with_(**other)))
        case "weights" if id_ == "B1":  # both sides of the pair are proxies then
            made = list(case.good(case.lab))
            return [factory_with_weights(record, Weights.PROXY) for record in made]
        case "weights":
            return list(case.good(flipped(case.lab)))
        case _:  # C4 is about memory: swapping spoils it, heat does not
            return list(case.good(case.lab.with_(taints=(SWAPPED if id_ == "C4" else TAINT,))))


def factory_with_weights(record: Record, weights: Weights) -> Record:
    model = msgspec.structs.replace(record.spec.model, weights=weights)
    return msgspec.structs.replace(record, spec=msgspec.structs.replace(record.spec, model=model))


def verdict(folder: Path, id_: str, records: list[Record], check: Crosscheck | None = None) -> ClaimVerdict:
    data = factory.write(folder, records)
    if check is not None:
        (data / "crosscheck.json").write_bytes(crosscheck_file.encode(check))
    (found,) = judge(Evidence.of([data]), {id_: CLAIMS[id_]})
    return found


def test_every_claim_has_its_mutations() -> None:
    paper, own = {f"C{number}" for number in range(1, 8)}, {f"B{number}" for number in range(1, 7)}
    assert {*CASES, "B3"} == paper | own <= set(CLAIMS)
    assert all(set(case.verdicts) == set(MUTATIONS) for case in CASES.values())


@pytest.mark.parametrize("id_", CASES)
def test_good_evidence_satisfies_the_claim(tmp_path: Path, id_: str) -> None:
    found = verdict(tmp_path, id_, list(CASES[id_].good(CASES[id_].lab)))
    assert found.verdict is Verdict.REPRODUCED, found.reason


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("id_", CASES)
def test_spoilt_evidence_flips_the_verdict(tmp_path: Path, id_: str, mutation: str) -> None:
    found = verdict(tmp_path, id_, spoilt(id_, CASES[id_], mutation))
    assert found.verdict is CASES[id_].verdicts[mutation], found.reason


@pytest.mark.parametrize("id_", [id_ for id_, case in CASES.items() if case.verdicts["device"] is YES])
def test_a_claim_about_any_machine_names_the_machine(tmp_path: Path, id_: str) -> None:
    assert "Apple M2 Pro" in verdict(tmp_path, id_, spoilt(id_, CASES[id_], "device")).setup


@pytest.mark.parametrize("id_", [id_ for id_, case in CASES.items() if case.verdicts["weights"] is YES])
def test_a_claim_about_any_weights_says_which(tmp_path: Path, id_: str) -> None:
    case = CASES[id_]
    marks = {
        lab.weights: verdict(tmp_path / lab.weights, id_, list(case.good(lab))).watermarks
        for lab in (case.lab, flipped(case.lab))
    }
    assert marks == {Weights.PROXY: ("proxy",), Weights.RELEASED: ()}


HERE = "f"  # the fingerprint of the cross-check's machine


def beside(check: Crosscheck | None, folder: Path, fingerprint: str = HERE) -> ClaimVerdict:
    """B3 from a cross-check beside records of a machine."""
    lab = MEASURED.with_(host=msgspec.structs.replace(CPU_HOST, fingerprint=fingerprint), rounds=2, cohorts=1)
    return verdict(folder, "B3", list(factory.rounds(lab)), check)


@pytest.mark.parametrize(
    ("check", "wanted", "words"),
    [
        (None, Verdict.NOT_RUN, "no data for"),
        (check_of(cell_of(1.0)), Verdict.REPRODUCED, "27 pairs"),
        (check_of(cell_of(1.12)), Verdict.NOT_REPRODUCED, "outside"),
        (check_of(cell_of(0.97)), Verdict.DIRECTION_ONLY, "a difference was detected"),
        (check_of(cell_of(1.0, noise=0.2)), Verdict.NOT_COMPARABLE, "too wide"),
        (check_of(cell_of(1.0), commit="f" * 40), Verdict.NOT_COMPARABLE, "commit"),
        (check_of(cell_of(1.0), cell_of(1.12)), Verdict.NOT_REPRODUCED, "outside"),
        (check_of(cell_of(1.0), cell_of(1.0, incomplete="no memory")), Verdict.NOT_COMPARABLE, "no memory"),
        (check_of(cell_of(1.0, incomplete="no memory")), Verdict.NOT_RUN, "no data for"),
        (msgspec.structs.replace(check_of(cell_of(1.0)), synthetic=True), Verdict.NOT_COMPARABLE, "fake engine"),
    ],
)
def test_b3_is_judged_by_the_cross_check(tmp_path: Path, check: Crosscheck | None, wanted: Verdict, words: str) -> None:
    found = beside(check, tmp_path)
    assert found.verdict is wanted, found.reason
    assert words in found.reason


def test_b3_of_another_machine_than_the_records_says_nothing(tmp_path: Path) -> None:
    found = beside(check_of(cell_of(1.0)), tmp_path, fingerprint="elsewhere")
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert "another machine" in found.reason


def test_b3_says_on_which_weights(tmp_path: Path) -> None:
    marks = []
    for weights in Weights:
        cell = cell_of(1.0)
        check = check_of(msgspec.structs.replace(cell, model=msgspec.structs.replace(cell.model, weights=weights)))
        marks.append(beside(check, tmp_path / weights).watermarks)
    assert marks == [(), ("proxy",)]


def test_b3_does_not_hang_on_runs_that_were_tainted(tmp_path: Path) -> None:
    """The cross-check has turns of its own: records beside it only tell the machine."""
    host = msgspec.structs.replace(JETSON_HOST, fingerprint=HERE)
    lab = MEASURED.with_(host=host, taints=(TAINT,), rounds=2, cohorts=1)
    found = verdict(tmp_path, "B3", list(factory.rounds(lab)), check_of(cell_of(1.0)))
    assert found.verdict is Verdict.REPRODUCED, found.reason
