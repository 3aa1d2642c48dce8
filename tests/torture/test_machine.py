"""The machine turns against a study: full disks, read-only folders, suspended workers, busy neighbours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from records_factory import LLAMA, OLMOE, QWEN, Lab, rounds
from slow_studies import kinds, measured, slow, workers
from studies import FOUR, Listener, experiment, plan_of, run_study, suite
from torture import ROOT, WHOLE

from harness import records
from harness.errors import BundleError, EnvironmentLacking, UsageError
from harness.records import Record
from harness.study import store as storing
from harness.study.environments.native import NativeEnvironment
from harness.study.runner import Study
from harness.study.store import RUNS, DatasetInfo, Store
from harness.terms import Ending, EngineKind, RunKind, TaintKind

pytestmark = pytest.mark.torture


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def many() -> Iterator[Record]:
    for seed in range(100):
        yield from rounds(Lab(seed=seed, cohorts=1, rounds=4), models=(OLMOE, LLAMA, QWEN))


def fill(store: Store, kept: list[Record]) -> None:
    for record in many():
        store.append(record)
        kept.append(record)


def test_a_full_disk_stops_the_study_and_takes_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 128) as disk:
        store = Store.open(disk / "out", resume=False)
        store.describe(DatasetInfo(schema=1, suite="small", device="cpu", seed=1, planned=()))
        kept: list[Record] = []
        with pytest.raises(EnvironmentLacking, match="the disk is full"):
            fill(store, kept)
        assert kept
        with pytest.raises(EnvironmentLacking, match="the disk is full"):
            store.describe(DatasetInfo(schema=1, suite="x" * 100_000, device="cpu", seed=1, planned=()))
        store.close()
        assert (disk / "out" / RUNS).read_bytes() == b"".join(map(records.encode, kept))
        assert msgspec.json.decode((disk / "out" / "dataset.json").read_bytes())["suite"] == "small"
        assert list((disk / "out").glob("*.part")) == []

        remount(disk, "size=4m")
        store = Store.open(disk / "out", resume=True)
        assert store.notices == ()
        assert store.finished == {record.spec.run_id for record in kept}
        rest = [record for record in many() if record.spec.run_id not in store.finished][:5]
        for record in rest:
            store.append(record)
        store.close()
        assert list(storing.read(disk / "out" / RUNS)) == kept + rest


def test_a_torn_tail_on_a_full_disk_is_told_and_kept(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        line = records.encode(next(many()))
        (disk / RUNS).write_bytes(line + line[:-5])
        # full is what it shall be
        with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while ballast.write(b"0" * 4096):
                pass
        before = (disk / RUNS).read_bytes()
        with pytest.raises(EnvironmentLacking, match="the disk is full"):
            Store.open(disk, resume=True)
        assert (disk / RUNS).read_bytes() == before


def test_a_folder_that_became_read_only_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        Store.open(disk / "out", resume=False).close()
        remount(disk, "ro")
        for out in (disk / "out", disk / "new"):
            with pytest.raises(UsageError, match="Read-only file system -> choose another --out"):
                Store.open(out, resume=True)
        remount(disk, "rw")


@pytest.mark.parametrize("repeat", range(5 if WHOLE else 1))
def test_a_worker_that_stood_suspended_is_tainted(tmp_path: Path, repeat: int) -> None:
    def suspend() -> None:
        time.sleep(0.05 + 0.03 * repeat)  # in the midst of a burst of 0.2 s
        for worker in workers():
            worker.suspend()
        time.sleep(2.0)
        for worker in workers():
            worker.resume()

    helper = threading.Thread(target=suspend)
    listener = Listener(lambda total: helper.start() if total == 5 else None)
    (record,) = measured(tmp_path / "out", listener)
    helper.join()
    assert record.termination.ending is Ending.OK
    assert TaintKind.SUSPENDED in kinds(record), record.taints


def test_a_neighbour_that_takes_the_cores_is_tainted(tmp_path: Path) -> None:
    spin = [sys.executable, "-S", "-c", "while True: pass"]
    neighbours = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    try:
        (record,) = measured(tmp_path / "out", Listener(), count=10)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert TaintKind.FOREIGN_LOAD in kinds(record), record.taints
    assert record.measured is not None
    assert sum(burst.foreign_cpu_ns or 0 for burst in record.measured.bursts) > 0


def test_native_code_that_crashes_in_one_worker_leaves_the_others_whole(tmp_path: Path) -> None:
    def crash(total: int) -> None:
        if total in (3, 6):
            number = signal.SIGSEGV if total == 3 else signal.SIGABRT
            workers()[0].send_signal(number)

    found = measured(tmp_path / "out", Listener(crash), count=10, models=4)
    endings = Counter(record.termination.ending for record in found)
    assert endings == {Ending.CRASH: 2, Ending.OK: 2}
    assert {record.termination.signal for record in found} == {None, signal.SIGSEGV, signal.SIGABRT}
    crashed = next(record for record in found if record.termination.signal == signal.SIGSEGV)
    assert "Segmentation fault" in crashed.termination.message  # faulthandler's words, with the stack
    assert all(len(record.measured.bursts) == 10 for record in found if record.measured)


def test_a_worker_without_memory_is_a_record(tmp_path: Path) -> None:
    """The limit of the address space stands for the ceiling: the worker can't even allocate what it wants to say."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    plan = plan_of(suite(experiment("memory", RunKind.SOLO, models=FOUR[:2], rounds=1)))
    store = Store.open(tmp_path / "out", resume=False)
    study = slow(store, plan)
    starved: list[int] = []

    class Starving(NativeEnvironment):
        def start(self, task: object) -> object:  # type: ignore[override]  # any task
            process = super().start(task)  # type: ignore[arg-type]  # any task
            if not starved:
                starved.append(process.pid)
                resource.prlimit(process.pid, resource.RLIMIT_AS, (1, limits[1]))
            return process

    environment = Starving(ROOT, EngineKind.FAKE.value)
    try:
        run_study(Study(**{**vars(study), "environment": environment}))
    except BundleError as error:  # pragma: no cover - the matrix must go on
        pytest.fail(str(error))
    finally:
        store.close()
    found = list(storing.read(tmp_path / "out" / RUNS))
    assert len(found) == 2
    assert {record.termination.ending for record in found} - {Ending.OK} != set()
    assert Ending.OK in {record.termination.ending for record in found}
