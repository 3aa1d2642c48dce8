"""Workers that go wrong in every way: each becomes one ending with its reason, and never a number."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest
from studies import experiment, plan_of, specs_of, suite

from harness import protocol
from harness.protocol import Done, Failed, Finished, Ready, Task, Turn, WorkerFacts
from harness.records import BandwidthSample, Burst, Host, Measured, Termination, Warmup
from harness.study.environments.lines import Lines
from harness.study.environments.native import NativeProcess
from harness.study.link import Limits, Link, LinkBroken, implausible
from harness.terms import BurstKind, Ending, EngineKind, EnvironmentKind

SPEC = specs_of(plan_of(suite(experiment())))[0]
TASK = Task(spec=SPEC, model_path="/nowhere.gguf")
TURN = Turn(kind=BurstKind.DECODE, round=0, position=0)
HASTE = Limits(prepare_s=20.0, turn_s=20.0, finish_s=20.0, goodbye_s=20.0)
HOST = Host(
    machine="m", system="s", kernel="k", cpu_model="c", cores=1, memory_bytes=1, accelerator="", fingerprint="f"
)
FACTS = WorkerFacts(llama_cpp_commit="c", llama_cpp_python="p", build_flags="b", compiler="g", python="3", host=HOST)
BURST = Burst(
    kind=BurstKind.DECODE, round=0, position=0, start_ns=1000, end_ns=9000, tokens=2, engine_ns=7000,
    token_ns=(3000, 4000), sampling_ns=500,
)  # fmt: skip
MEASURED = Measured(load_ns=5, warmup=None, bursts=(BURST,), memory=None)
READY = protocol.encode(Ready(facts=FACTS, decode_token_ns=1))
DONE = protocol.encode(Done(tokens=2, duration_ns=8000))
FAILED = protocol.encode(Failed(run_id=SPEC.run_id, ending=Ending.ERROR, message="why"))
NO_TEXT = FAILED.replace(b"why", b"\xff")
NESTED = FAILED.replace(b"}", b',"x":' + b"[" * 99_999)
HUGE = READY.replace(b'_ns":1', b'_ns":' + b"9" * 30)


def report(measured: Measured = MEASURED, run_id: str = SPEC.run_id) -> bytes:
    return protocol.encode(Finished(run_id=run_id, facts=FACTS, measured=measured))


PRELUDE = """
import faulthandler, os, signal, sys, time
faulthandler.register(signal.SIGUSR1)
events = int(sys.argv[-1])
def say(line): os.write(events, line)
hear = sys.stdin.readline
hear()
"""
GOOD = f"say({READY!r}); hear(); say({DONE!r}); hear(); say({report()!r})"


class Scripted:
    """Starts a Python script in the place of the worker."""

    kind = EnvironmentKind.NATIVE
    build_id = EngineKind.FAKE.value
    image_digest = ""

    def __init__(self, script: str) -> None:
        self._script = script

    def start(self, task: Task) -> NativeProcess:
        command = [sys.executable, "-I", "-S", "-c", PRELUDE + self._script]
        process = NativeProcess(command, Path("/"), dict(os.environ))
        process.write(protocol.encode(task))
        return process

    def close(self) -> None:
        """Nothing is left."""


def ending_of(script: str, limits: Limits = HASTE) -> Termination:
    """How a run with this worker ends: one turn, then its report."""
    link = Link(Scripted(script), TASK, limits)
    try:
        link.ready()
        link.turn(TURN)
        return link.finish()[1]
    except LinkBroken as broken:
        return broken.termination
    finally:
        link.abandon()


def test_a_good_worker_ends_well() -> None:
    assert ending_of(GOOD) == Termination(ending=Ending.OK, exit_code=0)


def test_what_native_code_prints_never_mixes_with_events() -> None:
    noise = 'os.write(1, b\'{"type":"done"}\\n\' * 9999); os.write(2, bytes(range(256)) * 99);'
    assert ending_of(noise + GOOD.replace("; ", f"; {noise} ")).ending is Ending.OK


@pytest.mark.parametrize(
    ("script", "ending", "words"),
    [
        (f"say({READY!r}); hear(); os.kill(os.getpid(), 11)", Ending.CRASH, "killed by signal 11"),
        ("os.kill(os.getpid(), 11)", Ending.CRASH, "killed by signal 11"),
        (
            f"say({READY!r}); hear(); os.write(2, b'ggml.c:123: GGML_ASSERT(a) failed'); os.abort()",
            Ending.CRASH,
            "GGML_ASSERT(a) failed",
        ),
        (f"say({READY!r}); hear(); os.kill(os.getpid(), 9)", Ending.CRASH, "killed by signal 9"),
        ("pass", Ending.PROTOCOL, "ended without a report"),
        (f"say({READY!r}); hear()", Ending.PROTOCOL, "ended without a report"),
        (f"say({READY!r}); hear(); say({DONE!r}); hear()", Ending.PROTOCOL, "ended without a report"),
        ("print('a traceback', file=sys.stderr); sys.exit(3)", Ending.PROTOCOL, "a traceback"),
        (GOOD + f"; say({report()!r})", Ending.PROTOCOL, "said more after its report"),
        (GOOD + "; say(b'x')", Ending.PROTOCOL, "said more after its report"),
        (GOOD + "; os._exit(3)", Ending.CRASH, "died after its report"),
        (GOOD + "; os.kill(os.getpid(), 11)", Ending.CRASH, "died after its report"),
        (f"say({DONE!r}); hear()", Ending.PROTOCOL, "expected to hear that it is ready, heard Done"),
        (f"say({READY!r}); hear(); say({READY!r}); hear()", Ending.PROTOCOL, "expected to hear of a burst"),
        (f"say({READY!r}); hear(); say({DONE!r}); hear(); say({DONE!r}); hear()", Ending.PROTOCOL, "expected a report"),
        (f"say({READY!r}); hear(); say({report()!r}); hear()", Ending.PROTOCOL, "expected to hear of a burst"),
        ("say(b'llama_model_load: ok\\n'); hear()", Ending.PROTOCOL, "not an event"),
        ("say(bytes(range(1, 256)) + b'\\n'); hear()", Ending.PROTOCOL, "not an event"),
        (f"say({READY[:50]!r})", Ending.PROTOCOL, "not an event"),
        ("say(b'[' * 100000 + b'\\n'); hear()", Ending.PROTOCOL, "not an event"),
        (f"say({NO_TEXT!r}); hear()", Ending.PROTOCOL, "not an event"),
        (f"say({NESTED!r}); hear()", Ending.PROTOCOL, "not an event"),
        (f"say({HUGE!r}); hear()", Ending.PROTOCOL, "beyond 2^62"),
    ],
)  # fmt: skip
def test_a_worker_that_goes_wrong_has_its_ending(script: str, ending: Ending, words: str) -> None:
    termination = ending_of(script)
    assert termination.ending is ending
    assert words in termination.message
    assert not termination.oom_killed


def test_signal_and_exit_code_are_kept_apart() -> None:
    crashed = ending_of("os.kill(os.getpid(), 11)")
    assert (crashed.exit_code, crashed.signal) == (None, 11)
    exited = ending_of("sys.exit(3)")
    assert (exited.exit_code, exited.signal) == (3, None)


@pytest.mark.parametrize(
    "limits", [Limits(prepare_s=0.5, turn_s=20), Limits(prepare_s=20, turn_s=0.5)], ids=["loading", "burst"]
)
def test_a_worker_that_hangs_is_killed_and_its_stack_kept(limits: Limits) -> None:
    script = "def stuck_in_here(): time.sleep(600)\n"
    script += f"say({READY!r}); hear()\n" if limits.turn_s < 1 else ""
    termination = ending_of(script + "stuck_in_here()", limits)
    assert termination.ending is Ending.TIMEOUT
    assert termination.signal == 9
    assert "then killed" in termination.message
    assert "stuck_in_here" in termination.message


def test_a_worker_that_says_half_a_line_and_hangs_is_killed() -> None:
    termination = ending_of(f"say({READY[:50]!r}); time.sleep(600)", Limits(prepare_s=0.5))
    assert (termination.ending, termination.signal) == (Ending.TIMEOUT, 9)


def test_a_line_that_never_ends_is_not_kept() -> None:
    lines = Lines(limit_bytes=100)
    lines.feed(b"a\n" + b"b" * 99)
    assert [lines.take(), lines.take()] == [b"a\n", None]
    lines.feed(b"bb")
    assert lines.take() == b"b" * 101  # as it stands: no event, and the worker is ended for it
    assert lines.take() is None
    lines.feed(b"c")
    assert lines.rest() == b"c"


def test_a_worker_that_reports_and_then_stays_is_killed() -> None:
    termination = ending_of(GOOD + "; time.sleep(600)", Limits(goodbye_s=0.5))
    assert (termination.ending, termination.signal) == (Ending.TIMEOUT, 9)
    assert "did not end after its report" in termination.message


def test_the_report_of_another_run_is_refused() -> None:
    assert ending_of(GOOD.replace(SPEC.run_id, "0" * 16)).message.startswith("the report is of another run, 000")


@pytest.mark.parametrize("ending", [Ending.OOM, Ending.ERROR])
def test_what_a_worker_says_of_its_own_end_is_kept(ending: Ending) -> None:
    failed = protocol.encode(Failed(run_id=SPEC.run_id, ending=ending, message="could not allocate 4 GB"))
    termination = ending_of(f"say({failed!r}); sys.exit(1)")
    assert termination == Termination(ending=ending, exit_code=1, message="could not allocate 4 GB")


def test_the_failure_of_another_run_is_refused() -> None:
    failed = protocol.encode(Failed(run_id="0" * 16, ending=Ending.OOM, message="not mine"))
    assert ending_of(f"say({failed!r}); hear()").ending is Ending.PROTOCOL


def test_a_worker_that_cannot_be_started_is_one_failed_run() -> None:
    class NoProcesses(Scripted):
        def start(self, task: Task) -> NativeProcess:
            raise BlockingIOError(11, "Resource temporarily unavailable")

    with pytest.raises(LinkBroken, match="could not be started") as caught:
        Link(NoProcesses(""), TASK, HASTE)
    assert caught.value.termination.ending is Ending.ERROR


def with_burst(**changes: object) -> Measured:
    return msgspec.structs.replace(MEASURED, bursts=(msgspec.structs.replace(BURST, **changes),))


IMPOSSIBLE = {
    "ends first": with_burst(end_ns=0),
    "negative token": with_burst(token_ns=(-3000, 4000)),
    "no time": with_burst(token_ns=(0, 7000)),
    "negative engine": with_burst(engine_ns=-1),
    "negative sampling": with_burst(sampling_ns=-1),
    "negative arg-maxes": with_burst(samplings=-1),
    "negative CPU time": with_burst(harness_cpu_ns=-1),
    "more tokens": with_burst(tokens=3),
    "negative tokens": with_burst(tokens=-1, token_ns=()),
    "longer than the window": with_burst(engine_ns=9000),
    "negative load": msgspec.structs.replace(MEASURED, load_ns=-1),
    "negative warm-up": msgspec.structs.replace(
        MEASURED,
        warmup=Warmup(
            token_ns=(-1,), prefill_tokens=1, experts_total=0, experts_routed=0, experts_touched=0, steady=True
        ),
    ),
    "no pass": msgspec.structs.replace(
        MEASURED,
        bandwidth=(
            BandwidthSample(
                round=0, threads=1, working_set_bytes=1, last_cache_bytes=None, read_bytes=1, duration_ns=0
            ),
        ),
    ),
}


@pytest.mark.parametrize("measured", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_times_that_cannot_be_are_refused(measured: Measured) -> None:
    assert implausible(MEASURED) == ""
    assert implausible(measured)


def test_an_impossible_report_is_no_record() -> None:
    script = f"say({READY!r}); hear(); say({DONE!r}); hear(); say({report(IMPOSSIBLE['negative token'])!r})"
    termination = ending_of(script)
    assert termination.ending is Ending.PROTOCOL
    assert "round 0 holds a time that is not positive" in termination.message


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"7000.5", b'"7000"', b"null"])
def test_what_is_no_number_of_nanoseconds_is_no_report(number: bytes) -> None:
    broken = report().replace(b'"engine_ns":7000', b'"engine_ns":' + number)
    assert broken != report()
    script = f"say({READY!r}); hear(); say({DONE!r}); hear(); say({broken!r}); hear()"
    assert ending_of(script).ending is Ending.PROTOCOL
