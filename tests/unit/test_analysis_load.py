"""Loading: what is refused, with its line; what is left out, with its reason."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import msgspec
import pytest
import records_factory as factory
from records_factory import OLMOE, Lab

from harness.analysis.accounting import NO_REASON, accounts
from harness.analysis.evidence import Evidence
from harness.analysis.load import load
from harness.errors import ExitCode, IntegrityError, UsageError
from harness.records import Record, Taint, encode
from harness.terms import Ending, TaintKind

SMALL = Lab(rounds=6, cohorts=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return factory.write(tmp_path / "data", factory.study(SMALL))


def change_line(folder: Path, number: int, line: bytes) -> None:
    """Puts another line in the place of one, counted from 1."""
    path = folder / "runs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = line
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    "line", [b'{"spec": {"schema": 1\n', b"\n{}\n", b'"text"\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n"]
)
def test_a_broken_line_is_named(folder: Path, line: bytes) -> None:
    change_line(folder, 3, line)
    with pytest.raises(IntegrityError, match=r"runs\.jsonl, line [34]") as caught:
        load([folder])
    assert caught.value.exit_code is ExitCode.INTEGRITY
    assert caught.value.cure


def test_a_field_that_does_not_fit_is_named(folder: Path) -> None:
    lines = (folder / "runs.jsonl").read_bytes().splitlines()
    change_line(folder, 2, lines[1].replace(b'"load_ns":2000000000', b'"load_ns":"soon"') + b"\n")
    with pytest.raises(IntegrityError, match=r"line 2: .*load_ns"):
        load([folder])


def test_a_negative_time_is_named(folder: Path) -> None:
    lines = (folder / "runs.jsonl").read_bytes().splitlines()
    before, token_ns, after = lines[1].rpartition(b'"token_ns":[')  # that of the last burst
    change_line(folder, 2, before + token_ns + b"-5," + after + b"\n")
    with pytest.raises(IntegrityError, match=r"line 2: .*>= 0.*token_ns"):
        load([folder])


def test_an_unknown_schema_is_refused_with_its_version(folder: Path) -> None:
    lines = (folder / "runs.jsonl").read_bytes().splitlines()
    change_line(folder, 4, lines[3].replace(b'"schema":1', b'"schema":7') + b"\n")
    with pytest.raises(UsageError, match=r"line 4: schema version 7"):
        load([folder])


def test_an_unknown_schema_explains_fields_that_do_not_fit(folder: Path) -> None:
    change_line(folder, 1, b'{"spec": {"schema": 2, "unheard": true}}\n')
    with pytest.raises(UsageError, match="schema version 2"):
        load([folder])


def test_a_torn_last_line_is_broken_and_not_swallowed(folder: Path) -> None:
    path = folder / "runs.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(IntegrityError, match="line 12"):
        load([folder])


def test_missing_data_is_a_usage_error(tmp_path: Path) -> None:
    for path, words in ((tmp_path, r"no runs\.jsonl"), (tmp_path / "none", "no such file")):
        with pytest.raises(UsageError, match=words):
            load([path])
    (tmp_path / "runs.jsonl").touch()
    with pytest.raises(UsageError, match="no records"):
        load([tmp_path])


def test_a_broken_plan_and_a_plan_of_another_schema_are_refused(folder: Path) -> None:
    (folder / "dataset.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"dataset\.json"):
        load([folder])
    (folder / "dataset.json").write_text('{"schema": 9}')
    with pytest.raises(UsageError, match="schema version 9"):
        load([folder])


def test_compressed_and_bare_files_hold_the_same(folder: Path, tmp_path: Path) -> None:
    data = (folder / "runs.jsonl").read_bytes()
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "runs.jsonl.gz").write_bytes(gzip.compress(data))
    digests = {load([path]).datasets[0].digest for path in (folder, packed, folder / "runs.jsonl")}
    assert len(digests) == 1
    (packed / "runs.jsonl.gz").write_bytes(gzip.compress(data)[:-400])
    with pytest.raises(IntegrityError, match="compression"):
        load([packed])


def test_the_order_of_lines_has_no_effect(folder: Path) -> None:
    before = load([folder])
    path = folder / "runs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    random.Random(4).shuffle(lines)
    path.write_bytes(b"".join(lines))
    after = load([folder])
    assert [run.run_id for run in before.runs] == [run.run_id for run in after.runs]
    assert before.datasets[0].digest == after.datasets[0].digest
    wanted = [name for name in before.bursts.frame.columns if name != "first_token"]
    assert before.bursts.frame[wanted].equals(after.bursts.frame[wanted])
    assert (before.bursts.tokens_of(before.bursts.frame) == after.bursts.tokens_of(after.bursts.frame)).all()


def test_a_line_that_stands_twice_counts_once(folder: Path) -> None:
    path = folder / "runs.jsonl"
    before = load([folder])
    path.write_bytes(path.read_bytes() * 2)
    assert len(load([folder]).bursts.frame) == len(before.bursts.frame)


def test_a_failed_attempt_gives_way_to_the_completed_one(folder: Path) -> None:
    first = factory.study(SMALL)[0]
    failed = msgspec.structs.replace(
        first, measured=None, termination=msgspec.structs.replace(first.termination, ending=Ending.CRASH)
    )
    path = folder / "runs.jsonl"
    path.write_bytes(encode(failed) + path.read_bytes())
    dataset = load([folder]).datasets[0]
    assert dataset.superseded == 1
    assert all(run.counts for run in dataset.runs)


def test_a_disturbed_attempt_gives_way_to_the_sound_one_wherever_it_stands(folder: Path) -> None:
    path, first = folder / "runs.jsonl", factory.study(SMALL)[0]
    taint = Taint(kind=TaintKind.FOREIGN_LOAD, detail="neighbours")
    disturbed = encode(msgspec.structs.replace(first, taints=(taint,)))
    lines = path.read_bytes()
    for data in (disturbed + lines, lines + disturbed):
        path.write_bytes(data)
        dataset = load([folder]).datasets[0]
        assert dataset.superseded == 1
        assert all(run.counts for run in dataset.runs)


def test_of_two_disturbed_attempts_one_stands_whatever_their_order(folder: Path) -> None:
    path, (first, *others) = folder / "runs.jsonl", factory.study(SMALL)
    both = [
        encode(msgspec.structs.replace(first, taints=(Taint(kind=TaintKind.FOREIGN_LOAD, detail=detail),)))
        for detail in ("in the first minute", "in the second")
    ]
    found = set()
    for attempts in (both, both[::-1]):
        path.write_bytes(b"".join(attempts) + b"".join(map(encode, others)))
        run = next(run for run in load([folder]).runs if run.run_id == first.spec.run_id)
        found.add(run.taints)
    assert len(found) == 1


def test_two_different_results_of_one_run_contradict_each_other(folder: Path) -> None:
    first = factory.study(SMALL)[0]
    assert first.measured is not None
    other = msgspec.structs.replace(first, measured=msgspec.structs.replace(first.measured, load_ns=1))
    path = folder / "runs.jsonl"
    path.write_bytes(path.read_bytes() + encode(other))
    with pytest.raises(IntegrityError, match=r"line 13: two different records .* line 1"):
        load([folder])


def test_tokens_longer_than_four_seconds_are_kept(tmp_path: Path) -> None:
    slow = factory.Model("slow", "llama", 1, 1, 1, 6_000_000_000, 1)
    loaded = load([factory.write(tmp_path, list(factory.rounds(Lab(rounds=2, cohorts=1), (slow,))))])
    assert loaded.bursts.token_ns.max() > 2**32


def excluded(records: list[Record]) -> list[Record]:
    """The first run failed, the second was tainted."""
    failed = msgspec.structs.replace(
        records[0],
        measured=None,
        termination=msgspec.structs.replace(records[0].termination, ending=Ending.OOM, message="killed at 8 GB"),
    )
    taint = Taint(kind=TaintKind.THROTTLED, detail="throttle flag rose")
    return [failed, msgspec.structs.replace(records[1], taints=(taint,)), *records[2:]]


def test_planned_is_counted_plus_left_out(tmp_path: Path) -> None:
    records = excluded(factory.study(SMALL))
    folder = factory.write(tmp_path, records[:-1], not_run={"r1": "needs containers", "r2": "needs containers"})
    plan = json.loads((folder / "dataset.json").read_text())
    plan["planned"].append({"run_id": records[-1].spec.run_id, "model": OLMOE.name})
    (folder / "dataset.json").write_text(json.dumps(plan))
    (account,) = accounts(Evidence.of([folder]))
    assert account.planned == len(records) + 2
    assert account.planned == account.counted + sum(len(group.run_ids) for group in account.left_out)
    reasons = {group.reason: len(group.run_ids) for group in account.left_out}
    assert reasons == {"ended: oom": 1, "tainted: throttled": 1, "not run: needs containers": 2, NO_REASON: 1}


def test_excluded_runs_do_not_count(tmp_path: Path) -> None:
    records = list(factory.rounds(SMALL))
    everything = Evidence.of([factory.write(tmp_path / "a", records)])
    some = Evidence.of([factory.write(tmp_path / "b", excluded(records))])
    assert len(some.timed) == len(everything.timed) - 2
