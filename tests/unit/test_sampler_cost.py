"""What the harness itself costs: its sampler in turn with nothing, and workers that wait."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import records_factory as factory
import studies
from records_factory import FOUR, LLAMA, OLMOE, Lab

from harness.analysis.claims import CLAIMS_FILE, ClaimVerdict, Verdict, load_claims
from harness.analysis.evidence import Evidence
from harness.analysis.judge import judge
from harness.analysis.rules import checks
from harness.analysis.sampler_cost import sampler_costs
from harness.analysis.tables import quality
from harness.analysis.tables import sampler_cost as table_of_costs
from harness.protocol import Task
from harness.records import Burst, Record, RunSpec
from harness.report.render import ROOT
from harness.study import config
from harness.study import plan as planning
from harness.study import store as storing
from harness.study.cohort import CohortRun, Session
from harness.study.sampler import SamplerHandle
from harness.study.store import RUNS, Store
from harness.telemetry_protocol import Start
from harness.terms import BurstKind, Origin

MEASURED = Lab(origin=Origin.MEASURED, experiment="sampler-cost", rounds=60, noise=0.01)
CLAIMS = load_claims(ROOT / CLAIMS_FILE)


def both_ways(record: Record, slower: float) -> Record:
    """The record with an unwatched burst beside every decode burst; watched ones took `slower` times as long."""
    assert record.measured is not None
    bursts: list[Burst] = []
    for burst in record.measured.bursts:
        bursts.append(burst)
        if burst.kind is BurstKind.DECODE:
            token_ns = tuple(round(token / slower) for token in burst.token_ns)
            bursts.append(
                msgspec.structs.replace(burst, kind=BurstKind.UNWATCHED, token_ns=token_ns, engine_ns=sum(token_ns))
            )
    return msgspec.structs.replace(record, measured=msgspec.structs.replace(record.measured, bursts=tuple(bursts)))


def waited(record: Record, share: float) -> Record:
    """The record with waits of two seconds before every turn, of which a share was spent computing."""
    assert record.measured is not None
    bursts = tuple(
        msgspec.structs.replace(burst, waited_ns=2 * 10**9, waited_cpu_ns=round(share * 2 * 10**9))
        for burst in record.measured.bursts
    )
    return msgspec.structs.replace(record, measured=msgspec.structs.replace(record.measured, bursts=bursts))


def evidence_of(folder: Path, records: list[Record]) -> Evidence:
    return Evidence.of([factory.write(folder, records)])


def verdict(evidence: Evidence, id_: str) -> ClaimVerdict:
    return next(one for one in judge(evidence, CLAIMS) if one.id == id_)


@pytest.mark.parametrize(
    ("slower", "wanted"), [(1.002, Verdict.REPRODUCED), (1.03, Verdict.NOT_REPRODUCED), (0.95, Verdict.NOT_REPRODUCED)]
)
def test_the_cost_of_the_sampler_is_known_and_judged(tmp_path: Path, slower: float, wanted: Verdict) -> None:
    evidence = evidence_of(tmp_path, [both_ways(one, slower) for one in factory.rounds(MEASURED, (OLMOE, LLAMA))])
    assert [cost.cell.model.name for cost in evidence.sampler_costs] == [OLMOE.name, LLAMA.name]
    for cost in evidence.sampler_costs:
        assert cost.interval.value == pytest.approx(1 / slower, rel=1e-6)
        assert (cost.interval.n, cost.interval.cohorts) == (120, 2)
        assert cost.watched_tokens_per_s * slower == pytest.approx(cost.unwatched_tokens_per_s, rel=1e-6)
    found = verdict(evidence, "B7")
    assert found.verdict is wanted, found.reason
    table = table_of_costs.table(evidence)
    assert len(table.rows) == 2
    assert not table.absent


def test_the_worst_model_decides(tmp_path: Path) -> None:
    made = [both_ways(one, 1.03 if one.spec.model.name == OLMOE.name else 1.0) for one in factory.rounds(MEASURED)]
    assert verdict(evidence_of(tmp_path, made), "B7").verdict is Verdict.NOT_REPRODUCED


def test_without_the_experiment_there_is_no_cost_and_a_reason(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, list(factory.rounds(MEASURED)))
    assert sampler_costs(evidence.cells) == ()
    assert "--suite telemetry" in table_of_costs.table(evidence).absent
    assert verdict(evidence, "B7").verdict is Verdict.NOT_RUN


def test_unwatched_bursts_are_no_decode_bursts(tmp_path: Path) -> None:
    plain = list(factory.rounds(MEASURED, (LLAMA,)))
    alone = evidence_of(tmp_path / "alone", plain).cells[0].decode
    beside = evidence_of(tmp_path / "beside", [both_ways(one, 1.5) for one in plain]).cells[0].decode
    assert alone is not None
    assert beside is not None
    assert beside.tokens_per_s == alone.tokens_per_s


@pytest.mark.parametrize(("share", "wanted"), [(0.001, Verdict.REPRODUCED), (0.05, Verdict.NOT_REPRODUCED)])
def test_waiting_workers_are_counted_and_judged(tmp_path: Path, share: float, wanted: Verdict) -> None:
    evidence = evidence_of(tmp_path, [waited(one, share) for one in factory.rounds(MEASURED)])
    assert [runs.waiting_fraction for runs in evidence.timed] == [pytest.approx(share)] * len(FOUR)
    assert verdict(evidence, "B8").verdict is wanted
    table = quality.table(evidence)
    place = next(i for i, column in enumerate(table.columns) if column.key == "waiting_fraction")
    assert [row.values[place] for row in table.rows] == [pytest.approx(share)] * len(FOUR)
    (check,) = [check for check in checks(evidence) if check.rule.startswith("A waiting worker")]
    assert (check.checked, check.broken) == (4, 0 if share < 0.005 else 4)


def test_who_never_waited_tells_nothing_of_waiting(tmp_path: Path) -> None:
    for records in (list(factory.rounds(MEASURED)), [waited(one, 0.2) for one in factory.solos(MEASURED)]):
        evidence = evidence_of(tmp_path / str(len(records)), records)
        assert {runs.waiting_fraction for runs in evidence.timed} == {None}
        assert verdict(evidence, "B8").verdict is Verdict.NOT_RUN


# --- the study ---


def test_the_suite_decodes_both_ways_in_random_order() -> None:
    suite = config.load_suite(ROOT, "telemetry")
    cohorts = studies.plan_of(suite).cohorts
    assert {len(cohort.cells) for cohort in cohorts} == {2}
    turns = [planning.turns(cohorts[0], number) for number in range(40)]
    assert set(turns) == {
        (BurstKind.DECODE, BurstKind.UNWATCHED),
        (BurstKind.UNWATCHED, BurstKind.DECODE),
    }


def test_an_unwatched_burst_is_one_turn_with_the_sampler_paused() -> None:
    """What the sampler is told, between the turns that workers took; it is awake when the cohort ends."""
    told: list[str] = []
    plan = studies.plan_of(studies.suite(studies.experiment(sampler_cost=True, prefill_every=0, rounds=4)))
    (cohort,) = plan.cohorts
    tasks = {place: task(spec) for place, spec in enumerate(studies.specs_of(plan))}
    session = Session(
        environment=studies.ThreadEnvironment(),
        progress=studies.Listener(lambda _rounds: told.append("round")),
        stop_requested=lambda: False,
        on_telemetry=lambda wanted: told.append("on" if wanted else "off"),
    )
    outcomes = CohortRun(cohort, tasks, session).run()
    kinds = [burst.kind for outcome in outcomes for burst in (outcome.measured.bursts if outcome.measured else ())]
    assert kinds.count(BurstKind.UNWATCHED) == kinds.count(BurstKind.DECODE) == 8
    switches = [word for word in told if word != "round"]
    assert switches[0] == "off"
    assert switches[-1] == "on"
    assert all(one != other for one, other in pairwise(switches))


def task(spec: RunSpec) -> Task:
    return Task(spec=spec, model_path="/nowhere")


def test_an_ordinary_cohort_never_touches_the_sampler() -> None:
    told: list[bool] = []
    plan = studies.plan_of(studies.suite(studies.experiment()))
    (cohort,) = plan.cohorts
    session = Session(
        environment=studies.ThreadEnvironment(),
        progress=studies.Listener(),
        stop_requested=lambda: False,
        on_telemetry=told.append,
    )
    CohortRun(cohort, {place: task(spec) for place, spec in enumerate(studies.specs_of(plan))}, session).run()
    assert told == []


def test_a_study_pauses_the_sampler_process_and_wakes_it_again(tmp_path: Path) -> None:
    plan = studies.plan_of(studies.suite(studies.experiment(sampler_cost=True, prefill_every=0, rounds=3)))
    store = Store.open(tmp_path, resume=True)
    with SamplerHandle.start(Start(root=str(tmp_path / "empty"))) as handle:
        study = studies.study_of(store, studies.ThreadEnvironment(), plan)
        studies.run_study(study, sampler=handle)
        assert handle.collect(0, 1).period_ns > 0
    store.close()
    records = list(storing.read(tmp_path / RUNS))
    assert {record.termination.ending.value for record in records} == {"ok"}
    for record in records:
        assert record.measured is not None
        assert record.telemetry is not None
        assert not record.telemetry.absent.get("energy", "").startswith("the sampler")
        rounds = [burst.round for burst in record.measured.bursts if burst.kind is BurstKind.UNWATCHED]
        assert rounds == [0, 1, 2]
