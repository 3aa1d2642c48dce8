"""kill -9 of runner, worker and sampler at random moments: nothing acknowledged is lost, nothing stands twice.

Bounded by default; MOE_TORTURE=whole runs all of it, MOE_TORTURE_SEED=N at other moments.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from torture import WHOLE, Ground, count
from torturer import NATIVE, PATIENCE_S, Torturer

from harness.errors import ExitCode
from harness.terms import Ending

pytestmark = pytest.mark.torture
FAKE_KILLS = count(bounded=12, whole=50)  # of a part
LLAMA_KILLS = count(bounded=3, whole=10)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all studies of this module find their tiny proxies."""
    return tmp_path_factory.mktemp("weights") / "models"


@pytest.mark.parametrize(
    ("engine", "wanted", "span_s", "part"),
    [
        *(pytest.param("fake", FAKE_KILLS, 2.5, part, id=f"fake-part{part}") for part in range(4 if WHOLE else 1)),
        *(
            pytest.param("llama", LLAMA_KILLS, 8.0, part, id=f"llama-part{part}", marks=pytest.mark.llama)
            for part in range(2 if WHOLE else 1)
        ),
    ],
)
def test_killed_at_random_moments(
    tmp_path: Path,
    models: Path,
    engine: str,
    wanted: int,
    span_s: float,
    part: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torturer = Torturer(tmp_path, lambda folder: Ground(folder, models, engine), NATIVE, span_s, part)
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


def test_a_killed_worker_is_one_failed_run_and_exit_code_5(tmp_path: Path, models: Path) -> None:
    ground = Ground(tmp_path, models)
    runner = ground.start()
    deadline = time.monotonic() + PATIENCE_S
    while not (victims := ground.victims("worker")):
        assert time.monotonic() < deadline, ground.last_words()
        time.sleep(0.02)
    victims[0]()
    assert runner.wait(PATIENCE_S) == ExitCode.RUNS_FAILED, ground.last_words()
    endings = [record.termination for record in ground.records() if record.termination.ending is not Ending.OK]
    assert [(one.ending, one.signal, one.oom_killed) for one in endings] == [(Ending.CRASH, signal.SIGKILL, False)]
    ground.expect_no_process()
    ground.expect_nothing_lost()
    ground.expect_clean()


def test_two_runners_on_one_dataset(tmp_path: Path, models: Path) -> None:
    ground = Ground(tmp_path, models)
    first = ground.start()
    wait_for_records(ground, 1)
    assert ground.start().wait(PATIENCE_S) == ExitCode.ENVIRONMENT
    assert "another study is writing here" in ground.last_words()
    assert first.wait(PATIENCE_S) == ExitCode.OK
    ground.expect_nothing_lost()
    ground.expect_clean()
