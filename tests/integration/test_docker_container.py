"""Workers in real containers of a real engine, on an image built without network: all that needs no Jetson."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker_engine
import inside
import pytest
import studies
import wheelhouse
from container_ground import CACHE, NAME, Built, copy_checkout, image_on_an_engine

from harness import protocol
from harness.errors import EnvironmentLacking
from harness.protocol import Task, Turn
from harness.records import Record
from harness.study import plan as planning
from harness.study.config import Variation
from harness.study.environments import container, image_build, images, sandbox, workers
from harness.study.environments.images import BuildOptions
from harness.study.environments.process import ContainerProcess
from harness.study.environments.workers import ContainerEnvironment
from harness.study.link import Limits, Link, LinkBroken
from harness.study.runner import Runner, StopFlag
from harness.study.store import Store, read
from harness.terms import BurstKind, DeviceKind, Ending, EnvironmentKind, RunKind

ROOT = Path(__file__).parents[2]
SMALL_BYTES = 32 << 20  # less than a worker needs to import llama.cpp
BUILD_ID = "test"
MISSING = docker_engine.missing()

pytestmark = [pytest.mark.docker, pytest.mark.skipif(bool(MISSING), reason=f"no engine of our own: {MISSING}")]

CRASH = """
import os, pathlib, signal
worker = next(path for path in pathlib.Path("/proc").glob("[0-9]*")
              if path.name != "1" and b"harness.measure" in (path / "cmdline").read_bytes())
os.kill(int(worker.name), signal.SIGSEGV)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """One engine for all tests here; its runtime `nvidia` is runc, as on an emulated board."""
    with image_on_an_engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture
def environment(built: Built) -> Iterator[ContainerEnvironment]:
    made = workers.environment(built.root, BUILD_ID)
    yield made
    made.close()
    assert docker_engine.docker(built.address, "ps", "-aq") == ""


def small_plan(*limits: int) -> planning.Plan:
    """Two rounds of a tiny model; with limits, one run alone for each."""
    if not limits:
        return studies.plan_of(studies.suite(studies.experiment(models=(NAME,), rounds=2)))
    vary = Variation(memory_limit_bytes=limits)
    chosen = studies.experiment("ceiling", RunKind.SOLO, models=(NAME,), rounds=1, vary=vary)
    return studies.plan_of(studies.suite(chosen))


def task_of(built: Built, environment: ContainerEnvironment) -> Task:
    plan = small_plan()
    refs = dict.fromkeys(plan.model_keys(), built.weights.ref)
    spec = planning.bind(plan, plan.cohorts[0], refs, environment.build_id, environment.kind)[0]
    return Task(spec=spec, model_path=str(built.weights.path))


def run_plan(built: Built, environment: ContainerEnvironment, plan: planning.Plan, folder: Path) -> list[Record]:
    store = Store.open(folder, resume=False)
    study = studies.study_of(store, environment, plan)
    located = dict.fromkeys(plan.model_keys(), built.weights)
    Runner(dataclasses.replace(study, located=located), None, studies.Listener(), StopFlag()).run()
    store.close()
    return list(read(folder / "runs.jsonl"))


def until_running(built: Built, label: str, wanted: int) -> None:
    deadline = time.monotonic() + 60
    while len(ids(built, "-q", label)) != wanted:
        assert time.monotonic() < deadline, f"there were never {wanted} running containers with {label}"
        time.sleep(0.1)


def ids(built: Built, which: str, label: str) -> list[str]:
    return docker_engine.docker(built.address, "ps", which, "--filter", f"label={label}").split()


def test_an_image_is_built_without_network_and_says_what_it_is(built: Built) -> None:
    found = json.loads(docker_engine.docker(built.address, "image", "inspect", built.image_id))[0]
    labels = found["Config"]["Labels"]
    assert labels["moe-bundle.llama-cpp-commit"] == images.load(ROOT).llama_cpp_commit
    assert labels["moe-bundle.context-sha256"] == images.context_sha256(built.root, "linux")
    assert labels["org.opencontainers.image.revision"] == "no git checkout"  # the copy is none
    assert found["Config"]["User"] == sandbox.IMAGE_USER
    assert any(line.startswith("Successfully built") for line in built.words)


def test_a_worker_does_its_turns_and_reports(built: Built, environment: ContainerEnvironment) -> None:
    link = Link(environment, task_of(built, environment), Limits())
    facts = link.ready().facts
    done = link.turn(Turn(kind=BurstKind.DECODE, round=0, position=0))
    finished, termination = link.finish()
    assert (termination.ending, termination.exit_code) == (Ending.OK, 0)
    assert done.tokens == finished.measured.bursts[-1].tokens > 0
    assert facts.python.startswith("3.11")
    assert environment.image_digest == built.image_id


def test_a_study_records_the_container(built: Built, environment: ContainerEnvironment, tmp_path: Path) -> None:
    records = run_plan(built, environment, small_plan(), tmp_path / "data")
    assert [record.termination.ending for record in records] == [Ending.OK]
    assert records[0].spec.environment is EnvironmentKind.CONTAINER
    assert records[0].measured is not None
    assert len(records[0].measured.bursts) == 4  # prefill and decode, two rounds


def test_the_inside_is_shut(built: Built, environment: ContainerEnvironment) -> None:
    process = environment.start(task_of(built, environment))
    process.read_line(60)
    found = json.loads(asked_inside(built, process, inside.PORTRAIT))
    process.kill()
    process.wait()
    assert {name: found[name] for name in inside.SHUT} == inside.SHUT


def asked_inside(built: Built, process: ContainerProcess, script: str) -> str:
    return docker_engine.docker(built.address, "exec", process.container_id, "python", "-c", script)


def test_the_memory_ceiling_is_a_result_and_the_matrix_goes_on(
    built: Built, environment: ContainerEnvironment, tmp_path: Path
) -> None:
    records = run_plan(built, environment, small_plan(SMALL_BYTES, 2 << 30), tmp_path / "data")
    ends = {record.spec.settings.memory_limit_bytes: record.termination for record in records}
    assert ends[2 << 30].ending is Ending.OK
    killed = ends[SMALL_BYTES]
    assert (killed.ending, killed.oom_killed, killed.exit_code, killed.signal) == (Ending.OOM, True, None, 9)
    within = next(record for record in records if record.termination.ending is Ending.OK)
    assert within.measured is not None
    assert within.measured.memory is not None
    assert within.measured.memory.ceiling_bytes == 2 << 30


def test_a_crash_keeps_its_signal(built: Built, environment: ContainerEnvironment) -> None:
    link = Link(environment, task_of(built, environment), Limits())
    link.ready()
    container_id = docker_engine.docker(built.address, "ps", "-q")
    with contextlib.suppress(subprocess.CalledProcessError):  # the exec may die with the container that it brings down
        docker_engine.docker(built.address, "exec", container_id, "python", "-c", CRASH)
    with pytest.raises(LinkBroken) as broken:
        link.turn(Turn(kind=BurstKind.DECODE, round=0, position=0))
    termination = broken.value.termination
    assert (termination.ending, termination.signal, termination.oom_killed) == (Ending.CRASH, signal.SIGSEGV, False)
    assert "Segmentation fault" in termination.message  # faulthandler's last words, through stderr


def test_a_hanging_worker_leaves_its_stack(built: Built, environment: ContainerEnvironment) -> None:
    process = environment.start(task_of(built, environment))
    process.read_line(60)
    with pytest.raises(TimeoutError):
        process.read_line(0.1)
    process.dump_stack()
    process.kill()
    ended = process.wait()
    assert (ended.signal, ended.oom_killed) == (9, False)
    assert "harness/measure/worker.py" in process.last_words()


def test_a_killed_runner_leaves_nothing_that_the_next_one_does_not_remove(built: Built, tmp_path: Path) -> None:
    runner = abandoned_runner(built, tmp_path)
    foreign = docker_engine.docker(built.address, "create", "--entrypoint", "true", built.image_id)
    try:
        until_running(built, f"{sandbox.LABEL_PID}={runner.pid}", 1)
        workers.environment(built.root, BUILD_ID).close()  # the runner lives: its container stays
        assert len(ids(built, "-q", sandbox.LABEL_RUN)) == 1
        os.kill(runner.pid, signal.SIGKILL)
        runner.wait()
        until_running(built, sandbox.LABEL_RUN, 0)  # its input ended, so it ended
        assert len(ids(built, "-aq", sandbox.LABEL_RUN)) == 1
        workers.environment(built.root, BUILD_ID).close()
        assert docker_engine.docker(built.address, "ps", "-aq", "--no-trunc") == foreign
    finally:
        runner.kill()
        runner.wait()
        docker_engine.docker(built.address, "rm", foreign)


def abandoned_runner(built: Built, folder: Path) -> subprocess.Popen[bytes]:
    """A process that starts a worker and then does nothing."""
    environment = workers.environment(built.root, BUILD_ID)
    task = folder / "task.json"
    task.write_bytes(protocol.encode(task_of(built, environment)))
    environment.close()
    script = f"""
import pathlib, time
from harness import protocol
from harness.study.environments import workers
made = workers.environment(pathlib.Path({str(built.root)!r}), "test")
worker = made.start(protocol.decode_task(pathlib.Path({str(task)!r}).read_bytes()))
time.sleep(600)
"""
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)


def test_closing_removes_what_still_runs(built: Built) -> None:
    environment = workers.environment(built.root, BUILD_ID)
    worker = environment.start(task_of(built, environment))
    assert docker_engine.docker(built.address, "ps", "-q")
    environment.close()
    assert worker.wait().signal == signal.SIGKILL
    assert docker_engine.docker(built.address, "ps", "-aq") == ""


def test_an_emulated_board_runs_with_its_runtime(built: Built) -> None:
    board = ContainerEnvironment(container.connect("1.41"), built.image_id, BUILD_ID, DeviceKind.JETSON)
    process = board.start(task_of(built, board))
    container_id = docker_engine.docker(built.address, "ps", "-q")
    runtime = docker_engine.docker(built.address, "inspect", "--format", "{{.HostConfig.Runtime}}", container_id)
    assert process.read_line(60)
    process.kill()
    process.wait()
    board.close()
    assert runtime == "nvidia"


def test_an_image_of_another_state_is_refused(built: Built, tmp_path: Path) -> None:
    changed = copy_checkout(tmp_path / "changed")
    (changed / "harness" / "clock.py").write_text("# changed\n")
    with pytest.raises(EnvironmentLacking, match=r"another state of this checkout.*artifact build --device cpu"):
        workers.environment(changed, BUILD_ID)


def test_a_build_that_fails_says_why(built: Built) -> None:
    options = BuildOptions(wheelhouse=CACHE / "wheelhouse", base="moe-test-nowhere:none")
    with pytest.raises(EnvironmentLacking, match="--base"):
        image_build.build(built.root, DeviceKind.CPU, options, lambda _line: None)


def test_the_locks_are_installable_on_a_jetson(tmp_path: Path) -> None:
    """A dry run of the resolver for aarch64 and Python 3.11; llama.cpp is compiled there, from its locked source."""
    wanted = tmp_path / "wanted.lock"
    names = wheelhouse.worker_requirements(ROOT)[1:]
    wanted.write_text(wheelhouse.locked(ROOT, "build.lock") + wheelhouse.locked(ROOT, "runtime.lock", names))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--require-hashes"]
    target = ["--target", str(tmp_path / "t"), "--only-binary", ":all:", "--python-version", "3.11"]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 36)]
    done = subprocess.run(
        [*command, *target, *platforms, "-r", str(wanted)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.torture
def test_two_engines_build_the_same_layers(built: Built, tmp_path: Path) -> None:
    """But for the time of the folder that the last layer is copied into, which the engine makes itself."""
    options = BuildOptions(wheelhouse=CACHE / "wheelhouse", base=docker_engine.BASE)
    with pytest.MonkeyPatch.context() as patch, docker_engine.engine(tmp_path / "other") as address:
        patch.setenv("DOCKER_HOST", address)
        docker_engine.import_base(address, CACHE)
        image_id = image_build.build(built.root, DeviceKind.CPU, options, lambda _line: None)
        again = contents(address, image_id, tmp_path / "again.tar")
    first = contents(built.address, built.image_id, tmp_path / "first.tar")
    subprocess.run(["rm", "-rf", str(tmp_path / "other")], check=True)
    differing = {name for name in first.keys() | again.keys() if first.get(name) != again.get(name)}
    assert len(first) > 1000
    assert differing <= {"opt/bundle"}


def contents(address: str, image_id: str, archive: Path) -> dict[str, tuple[object, ...]]:
    """Every file of an image by name: kind, mode, owner, link, content; of our own layer also the time."""
    container_id = docker_engine.docker(address, "create", image_id)
    docker_engine.docker(address, "export", "--output", str(archive), container_id)
    docker_engine.docker(address, "rm", container_id)
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(archive) as stream:
        for member in stream:
            time_ = member.mtime if member.name.startswith("opt/bundle") else None
            content = stream.extractfile(member) if member.isreg() else None
            digest = hashlib.sha256(content.read()).hexdigest() if content else ""
            found[member.name] = (member.type, member.mode, member.uid, member.linkname, digest, time_)
    return found
