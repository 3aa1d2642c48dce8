"""llama-bench as a process that takes turns: it runs while one line of results is awaited, and is suspended between."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from harness.clock import now_ns
from harness.crosscheck_file import BenchFacts
from harness.records import RunSpec, Workload
from harness.study.environments.huge_pages import with_huge_pages
from harness.study.store import sha256

REPETITIONS = 1  # a turn: what disturbs a machine lasts long, so short turns, one after the other, share it best
TURN_S = 900.0  # the first turn loads the model
STOP_S = 10.0
TAIL_BYTES = 2000


class BenchBroken(Exception):
    """It ended, hung, or printed what is no result."""


class _Line(msgspec.Struct):
    """Of a line of `-o jsonl` only what is needed."""

    samples_ns: tuple[int, ...]
    n_gen: int
    n_depth: int
    n_threads: int
    build_commit: str = ""
    backends: str = ""
    cpu_info: str = ""


class LlamaBench:
    """One llama-bench with as many equal tests as rounds are wanted; it loads its model once."""

    def __init__(self, root: Path, program: Path, model_path: Path, spec: RunSpec, rounds: int) -> None:
        self._program = program
        self._spec = spec
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._buffer = b""
        self._stopped_ns: int | None = None
        self.facts: BenchFacts | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.orphans", str(program), *arguments(model_path, spec, rounds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=root,
            env=with_huge_pages(os.environ),  # as the workers beside it
            start_new_session=True,
        )

    def turn(self) -> tuple[tuple[int, ...], int]:
        """Let it go on until it prints one result, then suspend it: repetitions in ns, and the suspension before them.

        The first turn, with loading, begins when the process does.

        Raises:
            BenchBroken: there is no result.
        """
        suspended_ns = now_ns() - self._stopped_ns if self._stopped_ns is not None else 0
        self._signal(signal.SIGCONT)
        line = self._read_line()
        self._signal(signal.SIGSTOP)
        self._stopped_ns = now_ns()
        return self._checked(line), suspended_ns

    def _checked(self, line: bytes) -> tuple[int, ...]:
        try:
            result = msgspec.json.decode(line, type=_Line)
        except (ValueError, RecursionError) as error:
            raise BenchBroken(f"llama-bench printed no result ({error}): {line[:200]!r}") from None
        workload, settings = self._spec.workload, self._spec.settings
        wanted = (bench_decode_tokens(workload), bench_depth_tokens(workload), settings.threads)
        if (result.n_gen, result.n_depth, result.n_threads) != wanted or min(result.samples_ns, default=0) <= 0:
            raise BenchBroken(f"llama-bench measured something else: {line[:200]!r}")
        if self.facts is None:
            self.facts = BenchFacts(
                sha256=sha256(self._program),
                build_commit=result.build_commit,
                backends=result.backends,
                cpu_info=result.cpu_info,
            )
        return result.samples_ns

    def _read_line(self) -> bytes:
        if self._process.stdout is None:
            raise BenchBroken("llama-bench has no output")
        deadline = time.monotonic() + TURN_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise BenchBroken(f"llama-bench was silent for {TURN_S:.0f} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise BenchBroken(f"llama-bench ended: {self._last_words()}")
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - TAIL_BYTES))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended before the signal: its output says how
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End it, suspended or not."""
        self._signal(signal.SIGKILL)
        self._process.wait(STOP_S)
        if self._process.stdout:
            self._process.stdout.close()
        self._stderr.close()


def bench_decode_tokens(workload: Workload) -> int:
    """All of llama-bench's tokens count: as many as count of a burst here."""
    return workload.decode_tokens - workload.settle_tokens


def bench_depth_tokens(workload: Workload) -> int:
    """Where counting begins: behind the settle tokens of a burst, which starts from one token at least."""
    return max(1, workload.depth_tokens) + workload.settle_tokens


def arguments(model_path: Path, spec: RunSpec, rounds: int) -> list[str]:
    """The same cell in llama-bench's words; one test a round, a line of JSON each."""
    workload, settings = spec.workload, spec.settings
    return [
        *("-m", str(model_path.resolve()), "-o", "jsonl", "-r", str(REPETITIONS)),
        *("-p", "0", "-n", ",".join([str(bench_decode_tokens(workload))] * rounds)),
        *("-d", str(bench_depth_tokens(workload))),
        *("-t", str(settings.threads), "-ngl", str(settings.gpu_layers), "-fa", settings.flash_attention.value),
        *("-b", str(settings.batch_tokens), "-ub", str(settings.ubatch_tokens)),
        *("-ctk", workload.kv_type.value, "-ctv", workload.kv_type.value),
        *("-lm", "mmap" if settings.use_mmap else "none", "--repack", str(int(settings.repack))),
    ]
