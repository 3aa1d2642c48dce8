"""The commands of the README in containers, as a user types them: build without network, smoke, memory ceiling."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import checkouts
import docker_engine
import inside
import pytest
import wheelhouse
from checkouts import CACHE
from msgspec.structs import replace

from harness.errors import ExitCode
from harness.records import Record, encode
from harness.report.render import write_report
from harness.study.environments import sandbox
from harness.study.store import read, read_info
from harness.terms import Ending, EnvironmentKind, Origin, RunKind

MISSING = docker_engine.missing()
pytestmark = [
    pytest.mark.docker,
    pytest.mark.llama,
    pytest.mark.skipif(bool(MISSING), reason=f"no engine of our own: {MISSING}"),
]

ROOMY, TIGHT = 2_000_000_000, 14_000_000  # less than a worker needs to import llama.cpp
CEILING = f"""
title = "The ceiling on tiny models"
minutes = 1
tiny = true

[[experiments]]
name = "ceiling"
title = "Under a memory limit"
kind = "solo"
models = ["olmoe-1b-7b", "llama-3.2-1b"]
rounds = 2
prompt_tokens = 16
depth_tokens = 16
decode_tokens = 32
prefill_every = 0
vary = {{ use_mmap = [true, false], memory_limit_bytes = [0, {ROOMY}, {TIGHT}] }}
"""


@dataclass(frozen=True)
class Ground:
    """A checkout and an engine with its image."""

    checkout: Path
    address: str
    image_id: str

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return checkouts.start(self.checkout, *arguments, environ={"DOCKER_HOST": self.address})

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return checkouts.run(self.checkout, *arguments, environ={"DOCKER_HOST": self.address})


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """The image comes from `./artifact build --wheelhouse`, which has no network."""
    folder = tmp_path_factory.mktemp("smoke")
    CACHE.mkdir(parents=True, exist_ok=True)
    wheels = wheelhouse.fill(checkouts.ROOT, CACHE / "wheelhouse")
    checkout = checkouts.copy(folder / "checkout")
    (checkout / "configs/suites/ceiling.toml").write_text(CEILING)
    with docker_engine.engine(folder / "engine") as address:
        docker_engine.import_base(address, CACHE)
        made = Ground(checkout, address, "")
        built = made.run("build", "--device", "cpu", "--wheelhouse", str(wheels), "--base", docker_engine.BASE)
        assert built.returncode == 0, built.stdout + built.stderr
        yield Ground(checkout, address, built.stdout.split()[-1])
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def portrait(ground: Ground, study: subprocess.Popen[str]) -> dict[str, object]:
    """What a worker of a running study can do, asked in its own container."""
    deadline = time.monotonic() + 120
    while study.poll() is None and time.monotonic() < deadline:
        for worker in docker_engine.docker(
            ground.address, "ps", "-q", "--filter", f"label={sandbox.LABEL_RUN}"
        ).split():
            command = ["docker", "--host", ground.address, "exec", worker, "python", "-c", inside.PORTRAIT]
            asked = subprocess.run(command, check=False, capture_output=True, text=True)
            if asked.returncode == 0:
                found = json.loads(asked.stdout)
                assert isinstance(found, dict)
                return found
        time.sleep(0.1)
    raise AssertionError(f"no worker could be asked: {study.communicate()}")


def test_smoke_runs_in_containers_that_are_shut(ground: Ground, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study = ground.start("reproduce", "--suite", "smoke", "--device", "cpu", "--env", "container", "--out", str(out))
    seen = portrait(ground, study)
    said, complained = study.communicate(timeout=400)
    assert study.returncode == ExitCode.OK, said + complained
    assert {name: seen[name] for name in inside.SHUT} == inside.SHUT
    models = seen["models"]
    assert isinstance(models, list)
    assert len(models) == 1  # of the four only its own
    records, info = list(read(out / "runs.jsonl")), read_info(out)
    assert info is not None
    assert Counter(record.spec.run_id for record in records) == Counter(run.run_id for run in info.planned)
    assert {record.termination.ending for record in records} == {Ending.OK}
    assert {record.provenance.image_digest for record in records} == {ground.image_id}
    assert {record.spec.environment for record in records} == {EnvironmentKind.CONTAINER}
    assert {record.origin for record in records} == {Origin.MEASURED}
    kinds = {RunKind.ROUNDS, RunKind.SOLO, RunKind.PROFILE, RunKind.ROUTING}
    assert {record.spec.kind for record in records} == kinds
    for name in ("dataset.json", "SHA256SUMS", "report.html", "report.md"):
        assert (out / name).stat().st_size > 0
    assert docker_engine.docker(ground.address, "ps", "-aq") == ""


def rows(out: Path, table: str) -> list[dict[str, str]]:
    with (out / "tables" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_the_memory_ceiling_is_a_table_and_a_figure_and_no_failure(ground: Ground, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = ground.run("reproduce", "--suite", "ceiling", "--device", "cpu", "--env", "container", "--out", str(out))
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    records: list[Record] = list(read(out / "runs.jsonl"))
    ends = Counter((one.spec.settings.memory_limit_bytes, one.termination.ending) for one in records)
    assert ends == {(0, Ending.OK): 4, (ROOMY, Ending.OK): 4, (TIGHT, Ending.OOM): 4}
    for record in records:
        assert record.termination.oom_killed is (record.termination.ending is Ending.OOM)
        if record.spec.settings.memory_limit_bytes == ROOMY:
            assert record.measured is not None
            assert record.measured.memory is not None
            assert record.measured.memory.ceiling_bytes is not None
            assert abs(record.measured.memory.ceiling_bytes - ROOMY) < 1 << 20  # whole pages
    every = rows(out, "memory_ceiling")
    assert len(every) == len(records)
    assert {row["endings"] for row in every if row["memory_limit_bytes"] == str(TIGHT)} == {"1 oom"}
    calm = without_neighbours(records, tmp_path / "calm")
    needed = rows(calm, "memory_needed")
    assert len(needed) == 4  # two models, mapped and read
    assert {row["out_of_memory_bytes"] for row in needed} == {str(TIGHT)}
    assert "killed for memory" in (calm / "figures" / "memory-needed.svg").read_text()


def without_neighbours(records: list[Record], folder: Path) -> Path:
    """The report without the taints that other programs of this machine caused."""
    folder.mkdir()
    (folder / "runs.jsonl").write_bytes(b"".join(encode(replace(record, taints=())) for record in records))
    write_report([folder / "runs.jsonl"], folder)
    return folder


def test_natively_the_ceiling_is_refused(ground: Ground, tmp_path: Path) -> None:
    done = ground.run("reproduce", "--suite", "ceiling", "--device", "cpu", "--out", str(tmp_path / "out"))
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.strip().endswith("-> add --env container")
