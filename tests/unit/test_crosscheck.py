"""The cross-check with a llama-bench that is a script: turns, suspensions, refusals, and what may be said of them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from records_factory import LLAMA, Lab, decode_burst, rounds, write
from studies import ThreadEnvironment, ThreadProcess, experiment, plan_of, specs_of, suite
from torture_driver import Silent

from harness import cli, crosscheck_file
from harness.analysis import crosscheck as checking
from harness.analysis.crosscheck import Agreement
from harness.analysis.evidence import Evidence
from harness.analysis.tables import crosscheck as table_module
from harness.crosscheck_file import BenchFacts, Crosscheck, CrosscheckCell, CrosscheckRound
from harness.errors import EnvironmentLacking, IntegrityError, UsageError
from harness.options import StudyOptions
from harness.protocol import Task, WorkerFacts
from harness.records import Host, Measured
from harness.study import crosscheck as running
from harness.study.llama_bench import BenchBroken, LlamaBench, arguments
from harness.study.llama_bench_build import cmake_flags, pinned_requirement

COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
SPEC = specs_of(plan_of(suite(experiment())))[0]
BENCH = """#!{python} -S
import json, sys, time
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
for number, tokens in enumerate(words["-n"].split(",")):
    start = time.monotonic_ns()
    while time.monotonic_ns() - start < 20_000_000:
        pass
    line = dict(samples_ns=[time.monotonic_ns() - start] * int(words["-r"]), n_gen=int(tokens), backends="CPU",
                n_depth=int(words["-d"]), n_threads=int(words["-t"]), build_commit="{commit}", cpu_info="a CPU")
    {spoil}
    print(json.dumps(line), flush=True)
"""


def script(folder: Path, spoil: str = "", commit: str = COMMIT) -> Path:
    path = folder / "llama-bench"
    path.write_text(BENCH.format(python=sys.executable, commit=commit, spoil=spoil))
    path.chmod(0o755)
    return path


def bench_of(program: Path, count: int) -> LlamaBench:
    return LlamaBench(cli.ROOT, program, Path("/nowhere.gguf"), SPEC, count)


def test_it_stands_still_between_its_turns(tmp_path: Path) -> None:
    ticking = script(tmp_path, f"open({str(tmp_path / 'ticks')!r}, 'a').write('.')")
    bench = bench_of(ticking, 50)
    taken = [bench.turn() for _ in range(3)]
    ticks = len((tmp_path / "ticks").read_text())
    time.sleep(0.3)  # 15 tests of 20 ms
    assert len((tmp_path / "ticks").read_text()) <= ticks + 1
    more, suspended_ns = bench.turn()
    bench.close()
    assert [len(repetitions) for repetitions, _ in taken] == [1, 1, 1]
    assert taken[0][1] == 0
    assert suspended_ns > 250_000_000
    assert len(more) == 1
    assert bench.facts is not None
    assert bench.facts.build_commit == COMMIT


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("sys.exit('no such model')", "llama-bench ended: no such model"),
        ("print('{'); continue", "printed no result"),
        ('sys.stdout.buffer.write(b\'{"cpu_info":"\\xff"}\\n\'); continue', "printed no result"),
        ("line['n_gen'] += 1", "measured something else"),
        ("line['n_threads'] += 1", "measured something else"),
        ("line['samples_ns'] = [-5, 5]", "measured something else"),
        ("line['samples_ns'] = []", "measured something else"),
        ("import os; os.kill(os.getpid(), 11)", "llama-bench ended"),
    ],
)
def test_a_llama_bench_that_goes_wrong_is_told(tmp_path: Path, spoil: str, words: str) -> None:
    bench = bench_of(script(tmp_path, spoil), 3)
    with pytest.raises(BenchBroken, match=words):
        bench.turn()
    bench.close()


def test_both_sides_are_told_the_same() -> None:
    told = arguments(Path("/m.gguf"), SPEC, 3)
    pairs = dict(zip(told[::2], told[1::2], strict=True))
    settle_tokens = SPEC.workload.settle_tokens
    assert settle_tokens > 0
    assert pairs["-n"] == ",".join([str(SPEC.workload.decode_tokens - settle_tokens)] * 3)
    assert (pairs["-d"], pairs["-t"]) == (str(SPEC.workload.depth_tokens + settle_tokens), str(SPEC.settings.threads))
    assert (pairs["-p"], pairs["-lm"], pairs["-fa"], pairs["-ctk"]) == ("0", "mmap", "auto", "f16")


def test_both_sides_make_a_context_of_one_length() -> None:
    told = arguments(Path("/m.gguf"), SPEC, 1)
    pairs = dict(zip(told[::2], told[1::2], strict=True))
    ours = running._as_llama_bench(SPEC)
    assert ours.settings.context_tokens == int(pairs["-d"]) + int(pairs["-n"])
    assert ours.workload.prompt_tokens < ours.settings.context_tokens


def test_no_such_program_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    options = StudyOptions(suite="smoke", device="cpu", out=tmp_path / "out", fake=True)
    with pytest.raises(EnvironmentLacking, match="no such program"):
        running.crosscheck(cli.ROOT, tmp_path / "nothing", options, Silent(), lambda _text: None)
    assert not (tmp_path / "out").exists()


def test_a_suite_without_a_fixed_count_of_tokens_is_refused_before_weights_are_written(tmp_path: Path) -> None:
    options = StudyOptions(suite="quick", device="cpu", out=tmp_path / "out", fake=True)
    with pytest.raises(UsageError, match="experiment headline: llama-bench needs a fixed number"):
        running.crosscheck(cli.ROOT, script(tmp_path), options, Silent(), lambda _text: None)
    assert not (tmp_path / "out").exists()


HOST = Host(
    machine="m", system="s", kernel="k", cpu_model="c", cores=2, memory_bytes=1, accelerator="", fingerprint="f"
)
FACTS = WorkerFacts(llama_cpp_commit=COMMIT, llama_cpp_python="p", build_flags="b", compiler="g", python="3", host=HOST)


def cell_of(speedup: float, noise: float = 0.003, incomplete: str = "") -> CrosscheckCell:
    """Three blocks of ten rounds in which the harness is so much faster."""
    blocks = []
    for block in range(3):
        made = []
        for number in range(10):
            wave = 1 + noise * ((number * 7 + block * 3) % 5 - 2)
            token = round(1e6 / speedup * wave)
            made.append(
                CrosscheckRound(
                    round=number,
                    harness_first=number % 2 == 0,
                    token_ns=(9 * token,) * 3 + (token,) * 20,
                    repetition_ns=(23_000_000, 23_000_000),
                    suspended_ns=40_000_000 if number else 0,
                )
            )
        blocks.append(tuple(made))
    return CrosscheckCell(
        model=SPEC.model,
        threads=2,
        depth_tokens=8,
        decode_tokens=23,
        settle_tokens=3,
        blocks=() if incomplete else tuple(blocks),
        incomplete=incomplete,
    )


def check_of(*cells: CrosscheckCell, commit: str = COMMIT) -> Crosscheck:
    bench = BenchFacts(sha256="0", build_commit=commit, backends="CPU", cpu_info="c")
    return Crosscheck(schema=1, synthetic=False, taken_at_utc="", harness=FACTS, bench=bench, cells=cells)


@pytest.mark.parametrize(
    ("speedup", "noise", "commit", "expected"),
    [
        (1.0, 0.003, COMMIT, Agreement.COMPARABLE),
        (0.99, 0.003, COMMIT[:9], Agreement.COMPARABLE),
        (0.95, 0.003, COMMIT, Agreement.DIFFERENT),
        (1.05, 0.003, COMMIT, Agreement.DIFFERENT),
        (1.0, 0.1, COMMIT, Agreement.UNDECIDED),
        (1.02, 0.003, COMMIT, Agreement.UNDECIDED),
        (1.0, 0.003, "unknown", Agreement.OTHER_COMMIT),
        (1.0, 0.003, "", Agreement.OTHER_COMMIT),
        (1.0, 0.003, "3f1", Agreement.OTHER_COMMIT),
    ],
)
def test_only_what_lies_within_two_percent_is_comparable(
    speedup: float, noise: float, commit: str, expected: Agreement
) -> None:
    cell = cell_of(speedup, noise)
    interval = checking.ratio(cell)
    assert interval is not None
    assert interval.value == pytest.approx(speedup, rel=0.02)  # the waves of both settings average out to within this
    assert checking.agreement(check_of(cell, commit=commit), interval) is expected


def test_a_repetition_that_a_suspension_cut_does_not_count() -> None:
    cell = cell_of(1.0)
    cut = msgspec.structs.replace(cell.blocks[1][4], repetition_ns=(63_100_000, 23_000_000))
    block = (*cell.blocks[1][:4], cut, *cell.blocks[1][5:])
    spoilt = msgspec.structs.replace(cell, blocks=(cell.blocks[0], block, cell.blocks[2]))
    assert checking.cut_repetitions(cell) == 0
    assert checking.cut_repetitions(spoilt) == 1
    assert checking.ratio(spoilt) == checking.ratio(cell)


def test_a_slow_repetition_without_a_suspension_counts() -> None:
    cell = cell_of(1.0)
    slow = msgspec.structs.replace(cell.blocks[1][0], repetition_ns=(63_100_000, 23_000_000))
    spoilt = msgspec.structs.replace(cell, blocks=(cell.blocks[0], (slow, *cell.blocks[1][1:]), cell.blocks[2]))
    assert checking.cut_repetitions(spoilt) == 0


def test_a_cell_that_was_not_measured_says_why() -> None:
    check = check_of(cell_of(1.0, incomplete="llama-bench ended: no memory"))
    assert checking.lines(check) == (f"{SPEC.model.name}: not measured (llama-bench ended: no memory)",)


def test_the_report_shows_it_beside_the_records(tmp_path: Path) -> None:
    data = write(tmp_path, list(rounds(Lab(cohorts=1, rounds=2))))
    assert table_module.table(Evidence.of([data])).rows == ()
    (data / "crosscheck.json").write_bytes(crosscheck_file.encode(check_of(cell_of(0.95))))
    table = table_module.table(Evidence.of([data]))
    row = dict(zip((column.key for column in table.columns), table.rows[0].values, strict=True))
    assert row["agreement"] == "not comparable: over 2 % apart"
    assert row["ratio"] == pytest.approx(0.95, rel=0.01)
    assert row["pairs"] == 27  # three blocks of ten rounds, whose first does not count


def test_a_round_holds_the_counted_tokens_of_its_burst() -> None:
    lab, rng = Lab(decode_tokens=5), np.random.default_rng(1)
    bursts = [decode_burst(lab, LLAMA, rng, number, 0, number / 10) for number in range(2)]
    measured = Measured(load_ns=1, warmup=None, bursts=tuple(bursts), memory=None)
    found = running._rounds(measured, 2, [False, True], [((7,), 0), ((9,), 3)])
    assert [one.token_ns for one in found] == [bursts[0].token_ns[2:], bursts[1].token_ns[2:]]
    assert [one.repetition_ns for one in found] == [(7,), (9,)]


def test_the_round_after_loading_does_not_count() -> None:
    cell = cell_of(1.0)
    cold = msgspec.structs.replace(cell.blocks[2][0], repetition_ns=(32_000_000, 32_000_000))
    with_it = msgspec.structs.replace(cell, blocks=(*cell.blocks[:2], (cold, *cell.blocks[2][1:])))
    assert checking.ratio(with_it) == checking.ratio(cell)


class Watched(ThreadEnvironment):
    """Notes beside llama-bench's own starts when a worker starts."""

    def __init__(self, starts: Path) -> None:
        super().__init__()
        self._starts = starts

    def start(self, task: Task) -> ThreadProcess:
        with self._starts.open("a") as file:
            file.write("h")
        return super().start(task)


def test_either_side_loads_first_in_half_of_the_blocks(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    program = script(tmp_path, f"number or open({str(starts)!r}, 'a').write('b')")
    cell = running.Cell(spec=SPEC, model_path=Path("/nowhere.gguf"), blocks=4, rounds=3)
    measured = running._Pair(cli.ROOT, program, Watched(starts), cell).run()
    assert measured.incomplete == ""
    assert sorted(measured.harness_loaded_first) == [False, False, True, True]
    assert starts.read_text() == "".join("hb" if first else "bh" for first in measured.harness_loaded_first)
    every = [one for block in measured.blocks for one in block]
    assert [(len(one.token_ns), len(one.repetition_ns)) for one in every] == [(measured.decode_tokens, 1)] * 16
    assert {one.harness_first for one in every} == {False, True}
    assert running.load_order(cell) == measured.harness_loaded_first


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 9999, b'{"schema": 1}'])
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "crosscheck.json").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"crosscheck\.json"):
        checking.read_crosscheck(tmp_path)


def test_a_newer_file_is_named(tmp_path: Path) -> None:
    newer = json.loads(crosscheck_file.encode(check_of())) | {"schema": 9}
    (tmp_path / "crosscheck.json").write_text(json.dumps(newer))
    with pytest.raises(IntegrityError, match="schema version 9"):
        checking.read_crosscheck(tmp_path)


def test_the_source_is_taken_by_the_hash_of_the_lock() -> None:
    lock = (cli.ROOT / "requirements" / "runtime.lock").read_text()
    entry = pinned_requirement(lock)
    assert entry.startswith("llama-cpp-python==0.3.36")
    assert entry.count("--hash=sha256:") == 1
    with pytest.raises(IntegrityError, match="not pinned"):
        pinned_requirement("llama-cpp-python==0.3.36\n")


def test_llama_bench_is_built_with_the_flags_of_the_library() -> None:
    flags = cmake_flags("-DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=87", COMMIT)
    assert {"-DGGML_OPENMP=OFF", "-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=87"} <= set(flags)
    assert "-DLLAVA_BUILD=OFF" not in flags
    assert f"-DLLAMA_BUILD_COMMIT={COMMIT}" in flags
