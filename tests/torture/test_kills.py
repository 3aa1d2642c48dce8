"""kill -9 of runner, worker and sampler at random moments: nothing acknowledged is lost, nothing stands twice.

Bounded by default; MOE_TORTURE=whole runs all of it, MOE_TORTURE_SEED=N at other moments.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torture import SEED, Ground, count, kill

from harness.errors import ExitCode

pytestmark = pytest.mark.torture
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all studies of this module find their tiny proxies."""
    return tmp_path_factory.mktemp("weights") / "models"


def undisturbed(folder: Path, models: Path, engine: str) -> set[str]:
    """Ids of the runs of a study that nobody disturbs."""
    ground = Ground(folder, models, engine)
    assert ground.start().wait(PATIENCE_S) == 0, ground.last_words()
    ground.expect_clean()
    ground.expect_no_process()
    return set(ground.recorded())


class Torturer:
    """Runs the matrix again and again and kills in the midst of it, until enough have died."""

    def __init__(self, folder: Path, models: Path, engine: str, expected: set[str], span_s: float) -> None:
        self._folder, self._models, self._engine, self._expected = folder, models, engine, expected
        self._random = random.Random(f"{SEED}:{engine}")
        self._span_s = span_s  # of a session before the next death
        self.deaths = {"runner": 0, "worker": 0, "sampler": 0}
        self.matrices = self.sessions = self.torn = 0

    def run(self, wanted: int) -> None:
        """Until `wanted` processes have been killed, then to the end of the last matrix."""
        while self.total < wanted:
            self._matrix(wanted)

    @property
    def total(self) -> int:
        return sum(self.deaths.values())

    def __str__(self) -> str:
        killed = f"{self.total} killed {self.deaths} in {self.sessions} sessions of {self.matrices} studies"
        return f"{killed} of {len(self._expected)} runs; {self.torn} torn tails set aside; nothing lost"

    def _matrix(self, wanted: int) -> None:
        ground = Ground(self._folder / str(self.matrices), self._models, self._engine)
        self.matrices += 1
        code: int | None = None
        while code not in (ExitCode.OK, ExitCode.RUNS_FAILED):
            code = self._session(ground, wanted)
            ground.expect_no_process()
            ground.expect_nothing_lost()
        assert set(ground.recorded()) == self._expected
        ground.expect_clean()
        self.torn += len(list(ground.out.glob("*.torn-*")))

    def _session(self, ground: Ground, wanted: int) -> int:
        """One session, with deaths until the runner itself is dead or done; its exit code."""
        self.sessions += 1
        runner = ground.start()
        while self.total < wanted:
            try:
                return runner.wait(self._random.uniform(0.0, self._span_s))
            except subprocess.TimeoutExpired:
                kind = self._random.choice(("runner", "worker", "worker", "sampler"))
                victims = ground.victims(kind)
                if victims:
                    kill(self._random.choice(victims))
                    self.deaths[kind] += 1
        code = runner.wait(PATIENCE_S)
        assert code in (ExitCode.OK, ExitCode.RUNS_FAILED, -signal.SIGKILL), ground.last_words()
        return code


@pytest.mark.parametrize(
    ("engine", "wanted", "span_s"),
    [
        ("fake", count(bounded=12, whole=200), 2.5),
        pytest.param("llama", count(bounded=3, whole=20), 8.0, marks=pytest.mark.llama),
    ],
    ids=["fake", "llama"],
)
def test_killed_at_random_moments(
    tmp_path: Path, models: Path, engine: str, wanted: int, span_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = undisturbed(tmp_path / "undisturbed", models, engine)
    torturer = Torturer(tmp_path, models, engine, expected, span_s)
    torturer.run(wanted)
    with capsys.disabled():
        print(f"\n{engine}: {torturer}")  # noqa: T201 - what was tried, for the reader of the log


def wait_for_records(ground: Ground, at_least: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(ground.acknowledged()) < at_least:
        assert time.monotonic() < deadline, ground.last_words()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_request_to_stop_keeps_what_is_finished(
    tmp_path: Path, models: Path, number: signal.Signals, times: int
) -> None:
    ground = Ground(tmp_path, models)
    runner = ground.start()
    wait_for_records(ground, 1)
    for _ in range(times):
        runner.send_signal(number)
        time.sleep(0.1)
    assert runner.wait(PATIENCE_S) == ExitCode.INTERRUPTED, ground.last_words()
    assert "Traceback" not in ground.last_words()
    ground.expect_no_process()
    ground.expect_nothing_lost()
    assert ground.start().wait(PATIENCE_S) == ExitCode.OK, ground.last_words()
    ground.expect_clean()
    ground.expect_nothing_lost()


def test_two_runners_on_one_dataset(tmp_path: Path, models: Path) -> None:
    ground = Ground(tmp_path, models)
    first = ground.start()
    wait_for_records(ground, 1)
    assert ground.start().wait(PATIENCE_S) == ExitCode.ENVIRONMENT
    assert "another study is writing here" in ground.last_words()
    assert first.wait(PATIENCE_S) == ExitCode.OK
    ground.expect_nothing_lost()
    ground.expect_clean()
