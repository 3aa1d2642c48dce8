"""A study from its first cohort to its last: nothing lost, nothing twice, one bad worker never the end of it."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from studies import FOUR, Listener, ThreadEnvironment, experiment, plan_of, run_study, specs_of, study_of, suite

from harness import cli
from harness.analysis.load import load
from harness.errors import Interrupted
from harness.options import StudyOptions
from harness.records import Burst, GateWait, Record, Taint
from harness.study import plan as planning
from harness.study import prepare, provenance, runner
from harness.study import store as storing
from harness.study.environments.base import Environment
from harness.study.gates import Closed, Gate
from harness.study.plan import Plan
from harness.study.runner import StopFlag
from harness.study.store import RUNS, SUMS, DatasetInfo, Store
from harness.terms import BurstKind, Ending, Origin, RunKind, TaintKind, Weights


@pytest.fixture(autouse=True)
def signals_of_the_tests_own() -> Iterator[None]:
    """A study that was asked to stop leaves both signals ignored: its process is about to end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(
    folder: Path,
    environment: Environment | None = None,
    listener: Listener | None = None,
    plan: Plan | None = None,
    gates: tuple[Gate, ...] = (),
    gate_s: float = 0.0,
    *,
    retry: bool = False,
) -> int:
    """A session of a study with real signal handling; the number of failed runs of the dataset."""
    store = Store.open(folder, resume=True, retry=retry)
    stop = StopFlag()
    try:
        with stop.installed():
            study = study_of(store, environment or ThreadEnvironment(), plan, gates, gate_s)
            return run_study(study, listener, stop).failed
    finally:
        store.close()


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else runs on the machine of the tests taints nothing."""
    monkeypatch.setattr(provenance, "burst_taints", lambda _measured: ())


def records_of(folder: Path) -> list[Record]:
    return list(storing.read(folder / RUNS))


def bursts_of(record: Record) -> tuple[Burst, ...]:
    assert record.measured is not None
    return record.measured.bursts


def ids(folder: Path) -> list[str]:
    return [record.spec.run_id for record in records_of(folder)]


PLANNED = {spec.run_id for spec in specs_of(plan_of())}


def test_every_planned_run_has_one_record(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    assert Counter(ids(tmp_path)) == dict.fromkeys(PLANNED, 1)
    info = msgspec.json.decode((tmp_path / "dataset.json").read_bytes(), type=DatasetInfo)
    assert {planned.run_id for planned in info.planned} == PLANNED
    assert (tmp_path / SUMS).exists()


def test_bursts_are_those_that_were_planned_and_turns_never_overlap(tmp_path: Path) -> None:
    run(tmp_path, plan=plan_of(suite(experiment(models=FOUR, rounds=5, prefill_every=2))))
    bursts = [(record, burst) for record in records_of(tmp_path) for burst in bursts_of(record)]
    kinds = Counter((burst.round, burst.kind) for _, burst in bursts)
    assert kinds == {(r, BurstKind.DECODE): 4 for r in range(5)} | {(r, BurstKind.PREFILL): 4 for r in (0, 2, 4)}
    windows = sorted((burst.start_ns, burst.end_ns) for _, burst in bursts)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(windows))
    cohort = plan_of(suite(experiment(models=FOUR, rounds=5, prefill_every=2))).cohorts[0]
    for number in range(5):
        in_time = sorted((b.start_ns, r.spec.model.name) for r, b in bursts if b.round == number)
        order = list(dict.fromkeys(name for _, name in in_time))
        assert order == [cohort.cells[place].key.name for place in planning.round_order(cohort, number)]


def test_records_of_the_fake_engine_say_so(tmp_path: Path) -> None:
    run(tmp_path)
    assert {record.origin for record in records_of(tmp_path)} == {Origin.SYNTHETIC}


def test_weights_are_touched_where_others_were_at_work_in_between(tmp_path: Path) -> None:
    run(tmp_path)
    for record in records_of(tmp_path):
        for burst in bursts_of(record):
            shared = record.spec.kind is RunKind.ROUNDS and burst.kind is BurstKind.DECODE
            assert (burst.touched_ns is not None) == shared


def test_a_record_without_a_sampler_says_why_it_has_no_energy(tmp_path: Path) -> None:
    run(tmp_path)
    absent = [record.telemetry.absent for record in records_of(tmp_path) if record.telemetry]
    assert absent == [{"energy": "the sampler process did not start"}] * len(PLANNED)


def test_a_worker_that_dies_is_one_failed_run_and_the_others_go_on(tmp_path: Path) -> None:
    listener = Listener()
    assert run(tmp_path, ThreadEnvironment(broken=(FOUR[0],)), listener) == 3
    by_model = {(record.spec.model.name, record.termination.ending) for record in records_of(tmp_path)}
    assert by_model == {(FOUR[0], Ending.PROTOCOL), (FOUR[1], Ending.OK)}
    assert len(listener.failures) == 3
    assert Counter(ids(tmp_path)) == dict.fromkeys(PLANNED, 1)


def test_failures_of_an_earlier_session_are_counted_still(tmp_path: Path) -> None:
    run(tmp_path, ThreadEnvironment(broken=(FOUR[0],)))
    again = ThreadEnvironment()
    assert run(tmp_path, again) == 3
    assert again.started == []


@pytest.mark.usefixtures("calm")
def test_failed_runs_are_measured_once_more_when_asked_for(tmp_path: Path) -> None:
    run(tmp_path, ThreadEnvironment(broken=(FOUR[0],)))
    failed = {record.spec.run_id for record in records_of(tmp_path) if record.termination.ending is not Ending.OK}
    again = ThreadEnvironment()
    assert run(tmp_path, again, retry=True) == 0
    assert set(again.started) == failed
    dataset = load([tmp_path]).datasets[0]
    assert {one.run_id for one in dataset.runs} == PLANNED
    assert dataset.superseded == len(failed) == 3
    assert all(one.termination.ending is Ending.OK for one in dataset.runs)
    assert run(tmp_path, ThreadEnvironment(), retry=True) == 0


@pytest.mark.usefixtures("calm")
def test_disturbed_runs_are_measured_once_more_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taint = Taint(kind=TaintKind.FOREIGN_LOAD, detail="neighbours")
    with monkeypatch.context() as busy:
        busy.setattr(provenance, "burst_taints", lambda _measured: (taint,))
        assert run(tmp_path) == 0
    again = ThreadEnvironment()
    assert run(tmp_path, again) == 0
    assert again.started == []
    assert run(tmp_path, again, retry=True) == 0
    assert set(again.started) == PLANNED
    dataset = load([tmp_path]).datasets[0]
    assert dataset.superseded == len(PLANNED)
    assert all(one.counts for one in dataset.runs)


@pytest.mark.usefixtures("calm")
def test_the_rest_of_a_cohort_pairs_with_itself_and_not_with_what_was_recorded_before(tmp_path: Path) -> None:
    plan = plan_of(suite(experiment(models=FOUR[:3])))
    run(tmp_path, ThreadEnvironment(broken=FOUR[1:3]), plan=plan)
    assert run(tmp_path, ThreadEnvironment(), plan=plan, retry=True) == 0
    cohorts = {one.cell.model.name: one.schedule.cohort for one in load([tmp_path]).runs}
    assert cohorts[FOUR[1]] == cohorts[FOUR[2]] != cohorts[FOUR[0]]


def test_ctrl_c_once_keeps_finished_runs_and_resume_runs_the_rest(tmp_path: Path) -> None:
    def press(rounds: int) -> None:
        if rounds == 5:  # in the second cohort
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="--resume"):
        run(tmp_path, listener=Listener(press))
    kept = ids(tmp_path)
    assert 0 < len(kept) < len(PLANNED)
    assert (tmp_path / SUMS).exists()
    rest = ThreadEnvironment()
    assert run(tmp_path, rest) == 0
    assert set(rest.started) == PLANNED - set(kept)
    assert Counter(ids(tmp_path)) == dict.fromkeys(PLANNED, 1)


def test_sigterm_stops_like_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, listener=Listener(lambda rounds: os.kill(os.getpid(), signal.SIGTERM) if rounds == 5 else None))
    assert 0 < len(ids(tmp_path)) < len(PLANNED)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_request_that_comes_late_changes_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """While the process ends it would turn exit code 130 into a death by signal."""
    with pytest.raises(Interrupted):
        run(tmp_path, listener=Listener(lambda rounds: os.kill(os.getpid(), number) if rounds == 5 else None))
    os.kill(os.getpid(), number)
    assert 0 < len(ids(tmp_path)) < len(PLANNED)


def test_ctrl_c_twice_stops_at_once(tmp_path: Path) -> None:
    def press(_rounds: int) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, listener=Listener(press))
    assert run(tmp_path) == 0
    assert Counter(ids(tmp_path)) == dict.fromkeys(PLANNED, 1)


class NeverOpen:
    name = "temperature"

    def check(self, root: Path) -> Closed | None:
        return Closed("too hot")


def test_a_gate_that_never_opens_fails_the_runs_with_its_reason(tmp_path: Path) -> None:
    environment = ThreadEnvironment()
    assert run(tmp_path, environment, gates=(NeverOpen(),)) == len(PLANNED)
    assert environment.started == []
    for record in records_of(tmp_path):
        assert record.termination.ending is Ending.GATE
        assert "too hot" in record.termination.message
        assert [(wait.gate, wait.opened) for wait in record.gates] == [("temperature", False)]


def test_after_a_gate_that_never_opened_the_next_cohorts_wait_briefly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts_s: list[float] = []
    opened = iter((True, False, False, True, True))

    def waited(gates: tuple[Gate, ...], *, timeout_s: float, **_how: object) -> tuple[GateWait, ...]:
        if not gates:
            return ()
        timeouts_s.append(timeout_s)
        return (GateWait(gate="temperature", waited_ns=1, reason="too hot", opened=next(opened)),)

    monkeypatch.setattr(runner, "wait_until_fit", waited)
    plan = plan_of(suite(*(experiment(name=f"e{number}", models=FOUR[:1], rounds=1) for number in range(5))))
    assert run(tmp_path, plan=plan, gates=(NeverOpen(),), gate_s=600.0) == 2
    assert timeouts_s == [600.0, 600.0, runner.HASTY_S, runner.HASTY_S, 600.0]


def test_ctrl_c_is_heard_while_a_gate_is_closed(tmp_path: Path) -> None:
    class Pressing(NeverOpen):
        def check(self, root: Path) -> Closed | None:
            os.kill(os.getpid(), signal.SIGINT)
            return super().check(root)

    with pytest.raises(Interrupted):
        run(tmp_path, gates=(Pressing(),), gate_s=600.0)
    assert ids(tmp_path) == []


def test_a_command_that_plans_other_runs_keeps_what_was_planned_before(tmp_path: Path) -> None:
    first = plan_of(suite(experiment()))
    second = plan_of(suite(experiment("memory", RunKind.SOLO)))
    run(tmp_path, plan=first)
    run(tmp_path, plan=second)
    info = storing.read_info(tmp_path)
    assert info is not None
    assert {planned.run_id for planned in info.planned} == {
        spec.run_id for spec in (*specs_of(first), *specs_of(second))
    }


def test_resume_plans_with_the_memory_that_the_study_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other memory would put models together that ran apart: other cohorts, and every run once more."""

    class Memory:
        def __init__(self, available: int) -> None:
            self.available = available

    def drafted(available: int, *, resume: bool) -> Plan:
        monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(available))
        options = StudyOptions(
            suite="quick", device="cpu", weights=Weights.PROXY, out=tmp_path, resume=resume, fake=True
        )
        return prepare.draft(cli.ROOT, options).plan

    plan = drafted(64_000_000_000, resume=False)
    assert drafted(3_000_000_000, resume=False) != plan
    store = Store.open(tmp_path, resume=False)
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(Interrupted):
        run_study(study_of(store, ThreadEnvironment(), plan), stop=stop)
    store.close()
    assert drafted(3_000_000_000, resume=True) == plan


def test_the_rest_of_a_cohort_is_not_paired_with_what_ran_before(tmp_path: Path) -> None:
    plan = plan_of(suite(experiment(models=FOUR)))
    run(tmp_path / "whole", plan=plan)
    first = records_of(tmp_path / "whole")[0]
    store = Store.open(tmp_path / "part", resume=False)
    store.append(first)
    store.close()
    run(tmp_path / "part", plan=plan)
    cohorts = {record.spec.run_id: record.spec.schedule.cohort for record in records_of(tmp_path / "part")}
    assert set(cohorts) == set(ids(tmp_path / "whole"))
    assert [cohort == first.spec.schedule.cohort for cohort in cohorts.values()] == [True, False, False, False]


def test_rounds_end_with_their_budget(tmp_path: Path) -> None:
    run(tmp_path, plan=plan_of(suite(experiment(rounds=100_000, budget_seconds=0.2))))
    rounds = [len({burst.round for burst in bursts_of(record)}) for record in records_of(tmp_path)]
    assert len(set(rounds)) == 1
    assert 1 <= rounds[0] < 100_000


def test_a_machine_that_slept_taints_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = iter((0, 3_000_000_000))
    monkeypatch.setattr("harness.study.cohort.asleep_ns", lambda: next(asleep))
    run(tmp_path, plan=plan_of(suite(experiment("memory", RunKind.SOLO, models=FOUR[:1]))))
    taints = [(taint.kind, taint.detail) for record in records_of(tmp_path) for taint in record.taints]
    assert (TaintKind.SUSPENDED, "the machine slept for 3.0 s during the run") in taints


def test_a_record_too_much_is_refused_and_the_dataset_stays(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / RUNS).read_bytes()
    run(tmp_path)
    assert (tmp_path / RUNS).read_bytes() == before
