"""`--host ssh://user@board` over a real sshd and a second engine: planned here, measured there, recorded here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import checkouts
import docker_engine
import pytest
import ssh_host
import wheelhouse
from checkouts import CACHE
from ssh_host import Host

from harness.errors import EnvironmentLacking, ExitCode
from harness.records import Record
from harness.study.environments import container, images, sandbox
from harness.study.store import DatasetInfo, read, read_info
from harness.terms import Ending, EnvironmentKind, Origin

MISSING = docker_engine.missing() or ssh_host.missing()
pytestmark = [
    pytest.mark.docker,
    pytest.mark.llama,
    pytest.mark.skipif(bool(MISSING), reason=f"no host of our own: {MISSING}"),
]

RECORDS = 6
SUITE = """
title = "A little of everything"
minutes = 1
tiny = true

[[experiments]]
name = "headline"
title = "Decode in rounds"
kind = "rounds"
models = ["olmoe-1b-7b", "llama-3.2-1b"]
blocks = 2
rounds = 3
prompt_tokens = 16
depth_tokens = 16
decode_tokens = 8

[[experiments]]
name = "memory"
title = "Each model alone"
kind = "solo"
models = ["olmoe-1b-7b", "llama-3.2-1b"]
prompt_tokens = 16
depth_tokens = 16
decode_tokens = 8
"""


@dataclass(frozen=True)
class Ground:
    """Two hosts with an engine each, and a checkout that measures on them."""

    checkout: Path
    first: Host
    second: Host
    engines: dict[int, str]  # address by the host's port
    home: Path
    image_id: str

    def artifact(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As a user of this home types it."""
        return checkouts.run(self.checkout, *arguments, environ={"HOME": str(self.home)})

    def reproduce(self, out: Path, *hosts: Host, resume: bool = False) -> list[str]:
        """Arguments of a small study."""
        named = [part for host in hosts for part in ("--host", host.url)]
        end = ["--resume"] if resume else []
        return ["reproduce", "--suite", "hosts", "--weights", "proxy", "--out", str(out), *named, *end]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """The image is built over ssh on the first host, without network, and carried to the second."""
    folder = tmp_path_factory.mktemp("hosts")
    CACHE.mkdir(parents=True, exist_ok=True)
    wheels = wheelhouse.fill(checkouts.ROOT, CACHE / "wheelhouse")
    checkout = checkouts.copy(folder / "checkout")
    (checkout / "configs/suites/hosts.toml").write_text(SUITE)
    with (
        docker_engine.engine(folder / "one") as one,
        docker_engine.engine(folder / "two") as two,
        ssh_host.host(folder / "first", {"DOCKER_HOST": one}) as first,
        ssh_host.host(folder / "second", {"DOCKER_HOST": two}) as second,
    ):
        docker_engine.import_base(one, CACHE)
        made = Ground(
            checkout,
            first,
            second,
            {first.port: one, second.port: two},
            ssh_host.home(folder / "home", first, second),
            "",
        )
        options = ("--device", "cpu", "--wheelhouse", str(wheels), "--base", docker_engine.BASE)
        built = made.artifact("build", *options, "--host", first.url)
        assert built.returncode == 0, built.stdout + built.stderr
        carry(one, two, folder / "image.tar")
        yield Ground(checkout, first, second, made.engines, made.home, built.stdout.split()[-1])
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def carry(source: str, target: str, archive: Path) -> None:
    docker_engine.docker(source, "save", "--output", str(archive), images.tag("linux"))
    docker_engine.docker(target, "load", "--quiet", "--input", str(archive))
    archive.unlink()


def expect_whole(out: Path, image_id: str) -> list[Record]:
    """Every planned run once, each ended well, in a container of that image."""
    records, info = list(read(out / "runs.jsonl")), read_info(out)
    assert isinstance(info, DatasetInfo)
    assert Counter(record.spec.run_id for record in records) == Counter(run.run_id for run in info.planned)
    assert len(records) == RECORDS
    assert {record.termination.ending for record in records} == {Ending.OK}
    assert {record.provenance.image_digest for record in records} == {image_id}
    assert {record.spec.environment for record in records} == {EnvironmentKind.CONTAINER}
    assert {record.origin for record in records} == {Origin.MEASURED}
    return records


def left_on(ground: Ground, host: Host) -> list[str]:
    ours = ("--filter", f"label={sandbox.LABEL_RUN}")
    return docker_engine.docker(ground.engines[host.port], "ps", "-aq", *ours).split()


def test_a_study_over_there_is_a_dataset_here(ground: Ground, tmp_path: Path) -> None:
    done = ground.artifact(*ground.reproduce(tmp_path / "out", ground.first))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "uploading" in done.stdout
    records = expect_whole(tmp_path / "out", ground.image_id)
    for record in records:
        assert record.telemetry is not None
        assert record.telemetry.start_ns < record.telemetry.end_ns
        memory = next(channel for channel in record.telemetry.channels if "mem" in channel.name.lower())
        assert record.telemetry.start_ns - 10**9 < memory.at_ns[0] < record.telemetry.end_ns
    assert (tmp_path / "out/report.html").stat().st_size > 10_000
    assert left_on(ground, ground.first) == []
    again = ground.artifact(*ground.reproduce(tmp_path / "again", ground.first))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "uploading" not in again.stdout  # the weights are over there


def start(ground: Ground, *arguments: str) -> subprocess.Popen[str]:
    return checkouts.start(ground.checkout, *arguments, environ={"HOME": str(ground.home)})


def started_and_under_way(ground: Ground, out: Path) -> subprocess.Popen[str]:
    """A study on the first host: something is recorded, and the next runs compute."""
    study = start(ground, *ground.reproduce(out, ground.first))
    runs = out / "runs.jsonl"
    until(lambda: runs.exists() and runs.stat().st_size > 0, study)
    until(lambda: len(left_on(ground, ground.first)) > 2, study)  # more than the sampler and the process that looks
    return study


def test_a_connection_that_drops_is_made_again(ground: Ground, tmp_path: Path) -> None:
    study = started_and_under_way(ground, tmp_path / "out")
    assert ground.first.drop() > 0
    said, complained = study.communicate(timeout=200)
    assert study.returncode == ExitCode.OK, said + complained
    assert f"{ground.first.url}: the connection to the engine is lost" in said
    assert said.count("trying again in") == 1
    expect_whole(tmp_path / "out", ground.image_id)
    assert left_on(ground, ground.first) == []


def test_a_host_that_goes_away_in_the_middle_loses_nothing(ground: Ground, tmp_path: Path) -> None:
    runs = tmp_path / "out" / "runs.jsonl"
    study = started_and_under_way(ground, tmp_path / "out")
    assert ground.first.down() > 0
    said, complained = study.communicate(timeout=200)
    assert study.returncode == ExitCode.ENVIRONMENT, said + complained
    assert said.count("trying again in") == 3
    assert complained.count("\n") == 1
    assert complained.startswith(f"{ground.first.url}: the host can't be reached")
    kept = runs.read_bytes()
    assert 0 < kept.count(b"\n") < RECORDS
    ground.first.up()
    resumed = ground.artifact(*ground.reproduce(tmp_path / "out", ground.first, resume=True))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert runs.read_bytes().startswith(kept)
    expect_whole(tmp_path / "out", ground.image_id)
    assert left_on(ground, ground.first) == []


def until(came: Callable[[], bool], study: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not came():
        assert study.poll() is None, study.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_several_hosts_run_side_by_side(ground: Ground, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = ground.artifact(*ground.reproduce(out, ground.first, ground.second))
    assert done.returncode == 0, done.stdout + done.stderr
    spans = []
    for host in (ground.first, ground.second):
        records = expect_whole(out / host.name, ground.image_id)
        assert f"{host.name}: report:" in done.stdout
        spans.append((min(telemetry_start(one) for one in records), max(telemetry_end(one) for one in records)))
    (first_start, first_end), (second_start, second_end) = spans
    assert max(first_start, second_start) < min(first_end, second_end)
    assert (out / "report.html").stat().st_size > 10_000


def telemetry_start(record: Record) -> int:
    assert record.telemetry is not None
    return record.telemetry.start_ns


def telemetry_end(record: Record) -> int:
    assert record.telemetry is not None
    return record.telemetry.end_ns


def test_one_of_two_hosts_that_fails_does_not_stop_the_other(ground: Ground, tmp_path: Path) -> None:
    lost = "ssh://root@127.0.0.1:1"
    arguments = ground.reproduce(tmp_path / "out", ground.first)
    done = ground.artifact(*arguments, "--host", lost)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert done.stderr.strip().splitlines()[-1].startswith(f"{lost}: did not end well")
    expect_whole(tmp_path / "out" / ground.first.name, ground.image_id)


def test_every_way_in_which_a_host_can_refuse_has_one_line_of_its_own(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ground.first
    with (
        ssh_host.host(tmp_path / "bare", {"PATH": "/nowhere"}) as bare,
        ssh_host.host(tmp_path / "idle", {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}) as idle,
    ):
        everything = ssh_host.home(tmp_path / "home", first, bare, idle)
        cases = [
            (everything, "ssh://root@127.0.0.1:1", "the host can't be reached"),
            (ssh_host.home(tmp_path / "wrong", first, key="wrong_key"), first.url, "the host refuses our key"),
            (ssh_host.home(tmp_path / "new", first, known=False), first.url, "its host key is not known"),
            (everything, bare.url, "there is no docker over there"),
            (everything, idle.url, "no Docker engine answers over there"),
        ]
        for user, url, what in cases:
            monkeypatch.setenv("HOME", str(user))
            with pytest.raises(EnvironmentLacking) as refused:
                container.connect("1.41", url)
            assert refused.value.exit_code is ExitCode.ENVIRONMENT
            assert str(refused.value).startswith(f"{url}: {what}"), str(refused.value)
            assert refused.value.cure
            assert "\n" not in str(refused.value)
        monkeypatch.setenv("HOME", str(ground.home))
    asked = ground.reproduce(tmp_path / "out", first)[:-1]
    done = ground.artifact(*asked, "ssh://root@127.0.0.1:1")
    assert done.returncode == ExitCode.ENVIRONMENT
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ssh://root@127.0.0.1:1: the host can't be reached")
    assert not (tmp_path / "out").exists()


def test_a_context_that_names_a_host_is_gone_to_by_env_container(ground: Ground, tmp_path: Path) -> None:
    """As `docker` itself would: DOCKER_CONTEXT, and a context whose endpoint is ssh."""
    environ = os.environ | {"HOME": str(ground.home)}
    create = ["docker", "context", "create", "board", "--docker", f"host={ground.first.url}"]
    subprocess.run(create, env=environ, check=True, capture_output=True)
    done = checkouts.run(
        ground.checkout,
        *("bench", "--suite", "hosts", "--weights", "proxy", "--env", "container", "--out", str(tmp_path / "out")),
        environ={"HOME": str(ground.home), "DOCKER_CONTEXT": "board"},
    )
    shutil.rmtree(ground.home / ".docker")
    assert done.returncode == 0, done.stdout + done.stderr
    expect_whole(tmp_path / "out", ground.image_id)


def test_what_a_killed_study_left_over_there_is_removed_by_the_next(ground: Ground, tmp_path: Path) -> None:
    study = start(ground, *ground.reproduce(tmp_path / "out", ground.first))
    until(lambda: len(left_on(ground, ground.first)) > 2, study)
    os.killpg(study.pid, signal.SIGKILL)
    study.communicate()
    assert left_on(ground, ground.first)
    done = ground.artifact(*ground.reproduce(tmp_path / "out", ground.first, resume=True))
    assert done.returncode == 0, done.stdout + done.stderr
    expect_whole(tmp_path / "out", ground.image_id)
    assert left_on(ground, ground.first) == []


def test_only_the_model_of_the_run_is_mounted_over_there(ground: Ground) -> None:
    """Volumes hold one model each, under its hash."""
    names = docker_engine.docker(ground.engines[ground.first.port], "volume", "ls", "-q").split()
    ours = [name for name in names if name.startswith("moe-bundle-")]
    assert len(ours) == 2
    for name in ours:
        found = json.loads(docker_engine.docker(ground.engines[ground.first.port], "volume", "inspect", name))
        files = sorted(Path(found[0]["Mountpoint"]).iterdir())
        assert [file.suffix for file in files] == [".gguf"]
