"""The dataset folder: nothing acknowledged is lost, whatever cuts a write; damage is named and never skipped."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records_factory import LLAMA, OLMOE, Lab, solos

from harness import records
from harness.errors import BundleError, EnvironmentLacking, ExitCode, IntegrityError, UsageError
from harness.records import Record, Taint
from harness.study import store as storing
from harness.study.store import RUNS, SUMS, DatasetInfo, Store, open_to_append
from harness.terms import Ending, TaintKind

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LAB = Lab(decode_tokens=2)
SOME: tuple[Record, ...] = tuple(solos(LAB, models=(OLMOE, LLAMA), repetitions=1))
ROOT = Path(storing.__file__).parents[2]


def tainted(record: Record, kind: TaintKind) -> Record:
    return msgspec.structs.replace(record, taints=(Taint(kind=kind, detail="in words"),))


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the study's code runs after it."""


class FaultyFile(io.RawIOBase):
    """Takes so many bytes, then does what `fault` says; writes go through to a real file, a few bytes at a time."""

    def __init__(self, path: Path, room: int, fault: BaseException, chunk: int = 1 << 20) -> None:
        self._file = open_to_append(path)
        self._room, self._fault, self._chunk = room, fault, chunk

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, data: ReadableBuffer) -> int:
        if self._room == 0:
            raise self._fault
        taken = self._file.write(memoryview(data)[: min(self._room, self._chunk)])
        self._room -= taken
        return taken

    def close(self) -> None:
        self._file.close()


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def faulty(folder: Path, room: int, fault: BaseException, chunk: int = 1 << 20) -> Store:
    opener = lambda path: FaultyFile(path, room, fault, chunk)  # noqa: E731
    return Store.open(folder, resume=True, opener=opener)  # type: ignore[arg-type]  # a file that fails on purpose


def written(folder: Path, kept: tuple[Record, ...] = SOME[:2]) -> Path:
    store = Store.open(folder, resume=True)
    for record in kept:
        store.append(record)
    store.close()
    return folder


def ids(folder: Path) -> list[str]:
    return [record.spec.run_id for record in storing.read(folder / RUNS)]


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    assert tuple(storing.read(written(tmp_path, SOME) / RUNS)) == SOME


def test_a_folder_that_holds_something_needs_resume(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(UsageError, match="--resume"):
        Store.open(tmp_path, resume=False)
    assert len(ids(tmp_path)) == 2


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UsageError, match="choose another --out"):
            Store.open(tmp_path / "out", resume=resume)
    assert (tmp_path / "out").read_text() == "mine"


def test_resume_knows_what_is_recorded_and_what_failed(tmp_path: Path) -> None:
    ended = msgspec.structs.replace(SOME[1].termination, ending=Ending.OOM)
    failed = msgspec.structs.replace(SOME[1], termination=ended, measured=None)
    store = Store.open(written(tmp_path, (SOME[0], failed)), resume=True)
    assert store.finished == {SOME[0].spec.run_id, failed.spec.run_id}
    assert store.failed == {failed.spec.run_id}
    store.close()


def test_retry_takes_failed_runs_as_open_until_they_are_recorded_again(tmp_path: Path) -> None:
    ended = msgspec.structs.replace(SOME[1].termination, ending=Ending.ERROR)
    failed = msgspec.structs.replace(SOME[1], termination=ended, measured=None)
    store = Store.open(written(tmp_path, (SOME[0], failed)), resume=True, retry=True)
    good, bad = SOME[0].spec.run_id, failed.spec.run_id
    assert [set(one) for one in (store.finished, store.failed, store.recorded)] == [{good}, {bad}, {good, bad}]
    store.append(failed)
    assert [set(one) for one in (store.finished, store.failed)] == [{good, bad}, {bad}]
    store.close()
    store = Store.open(tmp_path, resume=True, retry=True)
    store.append(SOME[1])
    assert [set(one) for one in (store.finished, store.failed)] == [{good, bad}, set()]
    store.close()
    for retry in (False, True):
        store = Store.open(tmp_path, resume=True, retry=retry)
        assert [set(one) for one in (store.finished, store.failed)] == [{good, bad}, set()]
        store.close()
    assert Counter(ids(tmp_path)) == {good: 1, bad: 3}


def test_retry_takes_disturbed_runs_as_open_but_does_not_call_them_failed(tmp_path: Path) -> None:
    disturbed = tainted(SOME[1], TaintKind.FOREIGN_LOAD)
    drifted = tainted(SOME[0], TaintKind.IDLE_DRIFT)  # spoils net energy alone
    store = Store.open(written(tmp_path, (drifted, disturbed)), resume=True, retry=True)
    assert store.finished == {drifted.spec.run_id}
    assert store.failed == set()
    assert store.disturbed == {disturbed.spec.run_id}
    store.append(SOME[1])
    assert store.disturbed == set()
    store.close()


def test_what_a_memory_limit_does_to_a_run_is_no_disturbance(tmp_path: Path) -> None:
    ceiling = msgspec.structs.replace(SOME[1].spec.settings, memory_limit_bytes=10**9)
    limited = msgspec.structs.replace(SOME[1], spec=msgspec.structs.replace(SOME[1].spec, settings=ceiling))
    slow = tainted(limited, TaintKind.MAJOR_FAULTS)
    for record, disturbed in ((slow, 0), (tainted(limited, TaintKind.SUSPENDED), 1)):
        folder = tmp_path / str(disturbed)
        folder.mkdir()
        store = Store.open(written(folder, (record,)), resume=True, retry=True)
        assert len(store.disturbed) == disturbed
        store.close()


def test_no_run_is_recorded_twice(tmp_path: Path) -> None:
    store = Store.open(written(tmp_path), resume=True)
    with pytest.raises(IntegrityError, match="recorded already"):
        store.append(SOME[0])
    store.close()
    assert len(ids(tmp_path)) == 2


def test_the_second_runner_is_told(tmp_path: Path) -> None:
    first = Store.open(tmp_path, resume=False)
    with pytest.raises(EnvironmentLacking, match="another study is writing here"):
        Store.open(tmp_path, resume=True)
    first.close()
    Store.open(tmp_path, resume=True).close()


def test_the_lock_falls_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from harness.study.store import Store;"
        "s = Store.open(Path(sys.argv[1]), resume=False); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False).returncode == -9
    Store.open(tmp_path, resume=True).close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(min_size=1, max_size=300).filter(lambda data: b"\n" not in data))
def test_any_torn_tail_is_set_aside_and_told(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    folder = written(tmp_path_factory.mktemp("torn"))
    with (folder / RUNS).open("ab") as file:
        file.write(tail)
    store = Store.open(folder, resume=True)
    store.append(SOME[2])
    store.close()
    assert store.notices == (
        f"runs.jsonl: the last line was cut off in mid-write ({len(tail)} bytes); set aside as runs.jsonl.torn-1",
    )
    assert (folder / "runs.jsonl.torn-1").read_bytes() == tail
    assert ids(folder) == [record.spec.run_id for record in SOME[:3]]


def test_two_torn_tails_have_two_names(tmp_path: Path) -> None:
    written(tmp_path)
    for number in (1, 2):
        with (tmp_path / RUNS).open("ab") as file:
            file.write(b"{" * number)
        Store.open(tmp_path, resume=True).close()
    assert [(tmp_path / f"runs.jsonl.torn-{number}").read_bytes() for number in (1, 2)] == [b"{", b"{{"]


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.torture, id="every")])
def test_killed_at_every_byte_of_an_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The property of the store: whatever part of a line was written, resume holds all earlier records and no other."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # what a killed process wrote is the kernel's to keep
    short = msgspec.structs.replace(SOME[1], measured=None)
    first, line = records.encode(SOME[0]), records.encode(short)
    for room in sorted({*range(0, len(line), step), 1, len(line) - 1, len(line)}):
        (tmp_path / RUNS).write_bytes(first)
        store = faulty(tmp_path, room, Killed())
        whole = room == len(line)
        with contextlib.nullcontext() if whole else pytest.raises(Killed):
            store.append(short)
        store.close()
        again = Store.open(tmp_path, resume=True)
        assert again.finished == {record.spec.run_id for record in SOME[: 1 + whole]}
        assert bool(again.notices) == (0 < room < len(line))
        if not whole:
            again.append(short)
        again.close()
        assert (tmp_path / RUNS).read_bytes() == first + line
        for torn in tmp_path.glob("*.torn-*"):
            assert line.startswith(torn.read_bytes())
            torn.unlink()


@settings(max_examples=25, deadline=None)
@given(room=st.integers(0, len(records.encode(SOME[1])) - 1), chunk=st.integers(1, 700))
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path_factory: pytest.TempPathFactory, room: int, chunk: int) -> None:
    folder = written(tmp_path_factory.mktemp("full"), SOME[:1])
    before = (folder / RUNS).read_bytes()
    store = faulty(folder, room, full(), chunk)
    with pytest.raises(EnvironmentLacking, match="the disk is full") as caught:
        store.append(SOME[1])
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert (folder / RUNS).read_bytes() == before
    assert SOME[1].spec.run_id not in store.finished
    store.close()


def test_short_writes_are_written_on(tmp_path: Path) -> None:
    store = faulty(tmp_path, room=1 << 30, fault=full(), chunk=7)
    store.append(SOME[0])
    store.close()
    assert tuple(storing.read(tmp_path / RUNS)) == SOME[:1]


def test_another_error_of_the_disk_is_told_in_words(tmp_path: Path) -> None:
    store = faulty(tmp_path, 5, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(BundleError, match="Input/output error"):
        store.append(SOME[0])
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-40] + b"\n",  # cut, newline kept
        lambda line: line.replace(b'"load_ns":', b'"load_ms":'),
        lambda line: b"\0" * (len(line) - 1) + b"\n",  # a block that never reached the disk
        lambda line: b"\n",
        lambda line: b"\xff\xfe" + line,
        lambda line: line[:-1] + line,  # two records without a newline between them
    ],
    ids=["cut", "key", "zeros", "empty", "bytes", "joined"],
)
def test_damage_in_the_middle_is_refused_with_its_line(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    lines = [records.encode(record) for record in SOME]
    (tmp_path / RUNS).write_bytes(lines[0] + damage(lines[1]) + lines[2])
    before = (tmp_path / RUNS).read_bytes()
    with pytest.raises(IntegrityError, match=rf"{RUNS}, line 2: .*--salvage") as caught:
        Store.open(tmp_path, resume=True)
    assert caught.value.exit_code is ExitCode.INTEGRITY
    assert (tmp_path / RUNS).read_bytes() == before
    assert storing.salvage(tmp_path / RUNS, tmp_path / "whole.jsonl") == (2, 1)
    assert tuple(storing.read(tmp_path / "whole.jsonl")) == (SOME[0], SOME[2])
    assert (tmp_path / RUNS).read_bytes() == before


def test_a_refused_folder_is_not_held(tmp_path: Path) -> None:
    (tmp_path / RUNS).write_bytes(b"{}\n")
    for _ in range(2):
        with pytest.raises(IntegrityError, match="line 1"):
            Store.open(tmp_path, resume=True)


def test_salvage_never_overwrites(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(FileExistsError):
        storing.salvage(tmp_path / RUNS, tmp_path / RUNS)
    assert len(ids(tmp_path)) == 2


def test_a_newer_schema_is_named(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SOME[0].spec, schema=99)
    (tmp_path / RUNS).write_bytes(records.encode(msgspec.structs.replace(SOME[0], spec=spec)))
    with pytest.raises(IntegrityError, match="schema version 99, this bundle reads 1"):
        Store.open(tmp_path, resume=True)


def sums_hold(folder: Path) -> bool:
    return subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, check=False).returncode == 0


def test_sums_are_those_of_sha256sum_and_find_a_changed_record(tmp_path: Path) -> None:
    store = Store.open(tmp_path, resume=False)
    store.describe(DatasetInfo(schema=1, suite="small", device="cpu", seed=1, planned=()))
    for record in SOME:
        store.append(record)
    store.seal()
    store.close()
    assert sums_hold(tmp_path)
    data = (tmp_path / RUNS).read_bytes()
    (tmp_path / RUNS).write_bytes(data.replace(b'"load_ns":1', b'"load_ns":2', 1))
    assert (tmp_path / RUNS).read_bytes() != data
    assert not sums_hold(tmp_path)


def test_while_somebody_writes_there_are_no_sums(tmp_path: Path) -> None:
    store = Store.open(tmp_path, resume=False)
    store.seal()
    store.close()
    assert (tmp_path / SUMS).exists()
    store = Store.open(tmp_path, resume=True)
    assert not (tmp_path / SUMS).exists()
    store.close()


def test_dataset_json_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path, resume=False)
    store.describe(DatasetInfo(schema=1, suite="first", device="cpu", seed=1, planned=()))
    before = (tmp_path / "dataset.json").read_bytes()

    def no_room(_descriptor: int) -> None:
        raise full()

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_room)
        with pytest.raises(EnvironmentLacking, match="the disk is full"):
            store.describe(DatasetInfo(schema=1, suite="second", device="cpu", seed=1, planned=()))
    store.close()
    assert (tmp_path / "dataset.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "dataset.json", "runs.jsonl"]
