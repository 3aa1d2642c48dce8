"""What strangers send, fuzzed by coverage: bounded by default, MOE_TORTURE=whole fuzzes each target for longer."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import gguf_files
import pytest
from golden_report import DATA
from torture import ROOT, SEED, count

from harness import protocol, records
from harness.protocol import Done, Failed, Finished, Ready, WorkerFacts
from harness.terms import Ending

HAS_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"
TARGET = Path(__file__).parents[1] / "fixtures" / "fuzz_target.py"
LONGEST_BYTES = 20_000
LINES = [line for line in (DATA / "runs.jsonl").read_bytes().splitlines() if len(line) < LONGEST_BYTES // 2]

pytestmark = [
    pytest.mark.torture,
    pytest.mark.skipif(not HAS_WHEEL, reason="atheris is published for Linux on x86_64 alone"),
]


def events() -> list[bytes]:
    found = []
    for record in map(records.decode, LINES[:4]):
        told = record.provenance
        facts = WorkerFacts(
            llama_cpp_commit=told.llama_cpp_commit,
            llama_cpp_python=told.llama_cpp_python,
            build_flags=told.build_flags,
            compiler=told.compiler,
            python=told.python,
            host=told.host,
        )
        found.append(protocol.encode(Ready(facts=facts, decode_token_ns=1)))
        if record.measured is not None:
            found.append(protocol.encode(Finished(run_id="r", facts=facts, measured=record.measured)))
    failed = Failed(run_id="r", ending=Ending.OOM, message="why")
    return [*found, protocol.encode(Done(tokens=2, duration_ns=8)), protocol.encode(failed)]


def seeds(target: str) -> list[bytes]:
    if target == "jsonl":
        return [*LINES[:8], b"\n".join(LINES[:2]) + b"\n"]
    if target == "event":
        return events()
    if target == "gguf":
        tensors = {"token_embd.weight": ((256, 4), gguf_files.Q4_K)}
        metadata: dict[str, gguf_files.MetadataValue] = {"general.architecture": "llama", "general.file_type": 15}
        return [gguf_files.gguf(metadata, tensors), gguf_files.moe_file()]
    if target == "toml":
        return [path.read_bytes() for path in (ROOT / "configs" / "suites").glob("*.toml")]
    return [(DATA / "dataset.json").read_bytes(), b'{"schema":1}']


@pytest.mark.parametrize("target", ["jsonl", "event", "gguf", "toml", "beside"])
def test_any_bytes_are_taken_or_refused(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(target)):
        (corpus / str(number)).write_bytes(seed)
    limits = (
        f"-max_total_time={count(bounded=8, whole=30)}", f"-seed={SEED}", f"-max_len={LONGEST_BYTES}", "-timeout=10",
        "-rss_limit_mb=1024", f"-artifact_prefix={tmp_path}/", "-print_final_stats=1",
    )  # fmt: skip
    environ = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(TARGET), target, str(corpus), *limits]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
    tried = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    assert tried
    assert int(tried[1]) > 500
    with capsys.disabled():
        print(f"\n{target}: {tried[1]} inputs, each taken or refused")  # noqa: T201 - for the reader of the log
