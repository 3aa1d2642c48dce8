"""The memory-ceiling experiment: limits planned, never run natively, killed runs as results, the smallest found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import records_factory as factory
import studies
from msgspec.structs import replace
from records_factory import LLAMA, OLMOE, Lab, Model

from harness import cli, protocol
from harness.analysis.ceiling import Curve, curves
from harness.analysis.evidence import Evidence
from harness.analysis.figures import ceiling as figure
from harness.analysis.tables import memory_ceiling, memory_needed
from harness.errors import ExitCode, UsageError
from harness.options import StudyOptions
from harness.protocol import Task
from harness.records import Record, Settings, Taint
from harness.study import prepare
from harness.study.conduct import Watchers, conduct
from harness.study.config import Variation, load_suite
from harness.study.environments.base import Exit
from harness.study.runner import Runner, StopFlag
from harness.study.store import Store, read
from harness.terms import Ending, EnvironmentKind, RunKind, TaintKind

ROOT = Path(__file__).resolve().parents[2]
GB = 1_000_000_000
Tried = tuple[int, float]  # limit, share of the speed without one; 0: killed for memory


def under_limits(
    model: Model, tried: Sequence[Tried], *, use_mmap: bool = True, repack: bool = True, faults: int = 3
) -> list[Record]:
    """Runs alone, without a limit and under those given; slow ones with major faults in every burst."""
    lab = Lab(experiment="ceiling", environment=EnvironmentKind.CONTAINER, noise=0.001)
    records: list[Record] = []
    for limit, share in ((0, 1.0), *tried):
        settings = Settings(threads=2, use_mmap=use_mmap, repack=repack, memory_limit_bytes=limit, variant=f"m={limit}")
        slowed = dataclasses.replace(model, token_ns=round(model.token_ns / (share or 1)))
        chosen = lab.with_(settings=settings, ending=Ending.OK if share else Ending.OOM)
        made = factory.solos(chosen, (slowed,))
        records += [faulting(one, faults) for one in made] if 0 < share < 1 else made
    return records


def faulting(record: Record, faults: int) -> Record:
    assert record.measured is not None
    bursts = tuple(replace(burst, major_faults=faults) for burst in record.measured.bursts)
    return replace(record, measured=replace(record.measured, bursts=bursts))


def curves_of(folder: Path, records: Sequence[Record]) -> tuple[Curve, ...]:
    return curves(Evidence.of([factory.write(folder, records)]))


@pytest.mark.parametrize(
    ("tried", "smallest", "killed"),
    [
        ([(8 * GB, 1.0), (6 * GB, 0.98), (5 * GB, 0.93), (4 * GB, 0.5), (3 * GB, 0.0)], 5 * GB, 3 * GB),
        ([(8 * GB, 1.0), (6 * GB, 0.5), (5 * GB, 0.99)], 8 * GB, None),  # a smaller limit can't be better: noise
        ([(8 * GB, 0.7), (6 * GB, 0.0), (5 * GB, 0.0)], None, 6 * GB),
        ([(8 * GB, 0.0)], None, 8 * GB),
        ([(8 * GB, 1.0), (750_000_000, 0.91)], 750_000_000, None),
    ],
)
def test_the_smallest_memory_is_found(
    tmp_path: Path, tried: list[Tried], smallest: int | None, killed: int | None
) -> None:
    (curve,) = curves_of(tmp_path, under_limits(OLMOE, tried))
    assert (curve.smallest.limit_bytes if curve.smallest else None) == smallest
    assert (curve.killed_at.limit_bytes if curve.killed_at else None) == killed
    for point, (_, share) in zip(curve.points[1:], sorted(tried, reverse=True), strict=True):
        assert curve.share(point) == pytest.approx(share, rel=0.02)


def test_speed_that_was_lost_without_a_major_fault_was_not_lost_to_the_limit(tmp_path: Path) -> None:
    tried = [(8 * GB, 0.7), (5 * GB, 0.8), (3 * GB, 0.0)]
    (calm,) = curves_of(tmp_path / "calm", under_limits(OLMOE, tried, faults=0))
    assert calm.smallest is not None
    assert calm.smallest.limit_bytes == 5 * GB
    (waiting,) = curves_of(tmp_path / "waiting", under_limits(OLMOE, tried))
    assert waiting.smallest is None


def test_a_point_that_a_neighbour_spoiled_says_nothing_of_the_smaller_ones(tmp_path: Path) -> None:
    records = under_limits(OLMOE, [(8 * GB, 1.0), (6 * GB, 1.0), (5 * GB, 0.95)])
    spoiled = [
        replace(one, taints=(Taint(kind=TaintKind.FOREIGN_LOAD, detail="made"),))
        if one.spec.settings.memory_limit_bytes == 6 * GB
        else one
        for one in records
    ]
    (curve,) = curves_of(tmp_path, spoiled)
    assert curve.smallest is not None
    assert curve.smallest.limit_bytes == 5 * GB


def test_an_experiment_that_sets_limits_stands_in_tables_of_its_own(tmp_path: Path) -> None:
    others = factory.solos(Lab(experiment="memory"), (OLMOE,))
    limited = under_limits(OLMOE, [(8 * GB, 1.0), (5 * GB, 0.95)])
    evidence = Evidence.of([factory.write(tmp_path, [*others, *limited])])
    for cells in (evidence.timed, evidence.alone):
        assert [runs.cell.experiment for runs in cells] == ["memory"]
    assert len(memory_ceiling.table(evidence).rows) == 3


def test_ways_of_loading_are_curves_of_their_own(tmp_path: Path) -> None:
    records = [
        record
        for model in (LLAMA, OLMOE)
        for use_mmap in (False, True)
        for repack in (False, True)
        for record in under_limits(model, [(8 * GB, 1.0)], use_mmap=use_mmap, repack=repack)
    ]
    found = curves_of(tmp_path, records)
    ways = ["mapped, repacked", "mapped, not repacked", "read, repacked", "read, not repacked"]
    assert [(curve.model.name, curve.way) for curve in found] == [
        (name, way) for name in ("olmoe-1b-7b", "llama-3.2-1b") for way in ways
    ]


def test_waiting_for_the_disk_counts_and_a_neighbour_does_not(tmp_path: Path) -> None:
    records = under_limits(OLMOE, [(4 * GB, 0.95)])
    limited = [record for record in records if record.spec.settings.memory_limit_bytes]
    others = [record for record in records if record not in limited]
    for kind, counted in ((TaintKind.MAJOR_FAULTS, True), (TaintKind.FOREIGN_LOAD, False)):
        tainted = [replace(record, taints=(Taint(kind=kind, detail="made"),)) for record in limited]
        (curve,) = curves_of(tmp_path / kind.value, [*others, *tainted])
        assert (curve.points[1].tokens_per_s is not None) is counted
        assert (curve.smallest is not None) is counted


def silenced(record: Record) -> Record:
    """As the study writes it when the worker was killed while it loaded: no machine, no build."""
    host = replace(record.provenance.host, fingerprint="", cpu_model="not told")
    told = replace(record.provenance, host=host, llama_cpp_commit="not told", build_flags="not told")
    return replace(record, provenance=told)


def test_a_worker_that_was_killed_before_it_spoke_belongs_to_the_machine_of_the_others(tmp_path: Path) -> None:
    records = under_limits(OLMOE, [(8 * GB, 1.0), (3 * GB, 0.0)])
    mute = [silenced(one) if one.termination.ending is Ending.OOM else one for one in records]
    evidence = Evidence.of([factory.write(tmp_path / "one", mute)])
    (curve,) = curves(evidence)
    assert len(evidence.setups) == 1
    assert curve.killed_at is not None
    assert curve.killed_at.limit_bytes == 3 * GB


def test_where_several_machines_are_in_question_it_belongs_to_none(tmp_path: Path) -> None:
    records = under_limits(OLMOE, [(8 * GB, 1.0), (3 * GB, 0.0)])
    mute = [silenced(one) if one.termination.ending is Ending.OOM else one for one in records]
    other = Lab(environment=EnvironmentKind.CONTAINER, llama_cpp_commit="ab" * 20)
    evidence = Evidence.of([factory.write(tmp_path, [*mute, *factory.solos(other, (LLAMA,))])])
    assert len(evidence.setups) == 3
    assert {one.killed_at is not None for one in curves(evidence)} == {False, True}
    alone = Evidence.of(
        [factory.write(tmp_path / "alone", [one for one in mute if not one.provenance.host.fingerprint])]
    )
    assert len(alone.setups) == 1


def test_without_an_unlimited_run_nothing_is_compared(tmp_path: Path) -> None:
    records = [one for one in under_limits(OLMOE, [(8 * GB, 1.0)]) if one.spec.settings.memory_limit_bytes]
    evidence = Evidence.of([factory.write(tmp_path, records)])
    assert memory_needed.table(evidence).rows == ()
    assert len(memory_ceiling.table(evidence).rows) == 1
    dataset, setup = evidence.setups[0]
    assert list(figure.draw(evidence, dataset, setup, "")) == []


def test_tables_and_figure_say_the_same(tmp_path: Path) -> None:
    records = under_limits(OLMOE, [(8 * GB, 1.0), (5 * GB, 0.95), (3 * GB, 0.0)])
    evidence = Evidence.of([factory.write(tmp_path, records)])
    every = memory_ceiling.table(evidence)
    keys = [column.key for column in every.columns]
    shares = [row.values[keys.index("share_of_unlimited")] for row in every.rows]
    assert shares == [None, pytest.approx(1.0, rel=0.02), pytest.approx(0.95, rel=0.02), 0.0]
    assert [row.values[keys.index("endings")] for row in every.rows] == ["2 ok", "2 ok", "2 ok", "2 oom"]
    needed = memory_needed.table(evidence)
    (row,) = needed.rows
    told = dict(zip((column.key for column in needed.columns), row.values, strict=True))
    assert (told["smallest_limit_bytes"], told["out_of_memory_bytes"]) == (5 * GB, 3 * GB)
    assert told["smallest_over_size"] == pytest.approx(5 * GB / OLMOE.size_bytes)
    (drawn,) = figure.draw(evidence, *evidence.setups[0], "")
    assert "5 GB" in drawn.inline
    assert "killed for memory at 3 GB" in drawn.inline
    assert drawn.marks  # proxies


def test_the_suite_goes_from_8_gb_down_with_every_way_of_loading() -> None:
    suite = load_suite(ROOT, "memory-ceiling")
    models = {model for experiment in suite.experiments for model in experiment.models}
    assert models == {"olmoe-1b-7b", "llama-3.2-1b", "qwen2.5-1.5b", "gemma-2-2b"}
    for experiment in suite.experiments:
        limits = experiment.vary.memory_limit_bytes
        assert limits[:2] == (0, 8 * GB)
        assert list(limits[1:]) == sorted(limits[1:], reverse=True)
        assert experiment.vary.use_mmap == experiment.vary.repack == (True, False)
        assert experiment.kind is RunKind.SOLO


def test_the_plan_says_about_as_many_minutes_as_the_suite() -> None:
    options = StudyOptions(device="cpu", suite="memory-ceiling", out=Path("nowhere"), fake=True)
    minutes = prepare.planned_minutes(prepare.draft(ROOT, options))
    assert minutes == pytest.approx(load_suite(ROOT, "memory-ceiling").minutes, rel=0.05)


def test_natively_limits_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    options = StudyOptions(device="cpu", suite="memory-ceiling", out=tmp_path / "out", fake=True)
    drafted = prepare.draft(ROOT, options)
    store = Store.open(options.out, resume=False)
    quiet: Watchers = Watchers(weights=None, study=studies.Listener())  # type: ignore[arg-type]  # nothing is fetched
    with pytest.raises(
        UsageError, match=r"--env: memory limits need containers .*ceiling-dense, ceiling-moe"
    ) as refused:
        conduct(cli.ROOT, options, drafted, store, quiet)
    store.close()
    assert refused.value.exit_code is ExitCode.USAGE
    assert not (options.out / "runs.jsonl").read_bytes()


SMALL = 1_000_000


class Killed(studies.ThreadProcess):
    """A worker that the kernel has killed for memory."""

    def wait(self) -> Exit:
        super().wait()
        return Exit(None, 9, oom_killed=True)

    def read_line(self, timeout_s: float) -> bytes:
        return b""


class Tight(studies.ThreadEnvironment):
    """The fake engine, where a small limit kills."""

    def start(self, task: Task) -> studies.ThreadProcess:
        if task.spec.settings.memory_limit_bytes == SMALL:
            self.started.append(task.spec.run_id)
            process = Killed(lambda heard, _told: 1 if heard.read() else 0)
            process.write(protocol.encode(task))
            return process
        return super().start(task)


def test_killed_for_memory_is_a_result_under_a_limit_and_a_failure_without(tmp_path: Path) -> None:
    for limits, failed in (((0, 2 * GB, SMALL), 0), ((SMALL,), 0)):
        vary = Variation(memory_limit_bytes=limits)
        chosen = studies.experiment("ceiling", RunKind.SOLO, rounds=1, vary=vary)
        store = Store.open(tmp_path / str(len(limits)), resume=False)
        runner = Runner(
            studies.study_of(store, Tight(), studies.plan_of(studies.suite(chosen))),
            None,
            studies.Listener(),
            StopFlag(),
        )
        runner.run()
        store.close()
        ends = {
            (one.spec.settings.memory_limit_bytes, one.termination.ending) for one in read(store.folder / "runs.jsonl")
        }
        assert ends == {(limit, Ending.OOM if limit == SMALL else Ending.OK) for limit in limits}
        assert runner.failed == failed
    unlimited = factory.solos(Lab(ending=Ending.OOM), (OLMOE,))
    store = Store.open(tmp_path / "without", resume=False)
    for record in unlimited:
        store.append(record)
    assert len(store.failed) == 2
    store.close()
