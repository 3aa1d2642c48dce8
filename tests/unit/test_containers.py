"""What containers are made of, without an engine: the stream, the sandbox, the owner, the images, the refusals."""

from __future__ import annotations

import ast
import io
import os
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import studies
import wheelhouse
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.errors import EnvironmentLacking, UsageError
from harness.protocol import Task
from harness.study.environments import engine_errors, image_build, images, sandbox, workers
from harness.study.environments.attached import Demultiplexer
from harness.study.environments.images import BuildOptions
from harness.study.environments.sandbox import Owner
from harness.terms import DeviceKind, EngineKind

ROOT = Path(__file__).parents[2]
KNOWN = images.load(ROOT)


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def lines_of(demultiplexer: Demultiplexer) -> Iterator[bytes]:
    while (line := demultiplexer.line()) is not None:
        yield line


@given(
    frames=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=12),
    cuts=st.lists(st.integers(min_value=1, max_value=9), min_size=1),
)
def test_frames_and_lines_may_be_cut_anywhere(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    wire = b"".join(frame(stream, payload) for stream, payload in frames)
    demultiplexer, place, turn = Demultiplexer(tail_bytes=10_000), 0, 0
    lines: list[bytes] = []
    while place < len(wire):
        size = cuts[turn % len(cuts)]
        demultiplexer.feed(wire[place : place + size])
        lines += lines_of(demultiplexer)
        place, turn = place + size, turn + 1
    events = b"".join(payload for stream, payload in frames if stream == 1)
    log = b"".join(payload for stream, payload in frames if stream == 2)
    assert b"".join(lines) + demultiplexer.rest() == events
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    assert demultiplexer.tail() == log.decode("utf-8", "replace")


def test_only_the_end_of_a_long_log_is_kept() -> None:
    demultiplexer = Demultiplexer(tail_bytes=5)
    for word in (b"first", b"second"):
        demultiplexer.feed(frame(2, word))
    assert demultiplexer.tail() == "econd"


def task(model: Path | None = None, limit: int = 0) -> Task:
    spec = studies.specs_of(studies.plan_of())[0]
    engine = EngineKind.LLAMA_CPP if model else EngineKind.FAKE
    settings = replace(spec.settings, memory_limit_bytes=limit)
    return Task(spec=replace(spec, engine=engine, settings=settings), model_path=str(model or "/nowhere.gguf"))


def test_a_container_may_do_nothing_but_compute(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    options = sandbox.host_options(task(model, limit=1 << 30), DeviceKind.CPU, "0,1", tmp_path)
    assert (options["network_mode"], options["read_only"]) == ("none", True)
    assert (options["cap_drop"], options["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert options["mem_limit"] == options["memswap_limit"] == 1 << 30
    assert options["cpuset_cpus"] == "0,1"
    assert options["mounts"] == [{"Type": "bind", "Source": str(model), "Target": "/model/m.gguf", "ReadOnly": True}]
    assert not {"runtime", "device_requests", "privileged", "group_add"} & options.keys()


def test_without_limits_none_is_set(tmp_path: Path) -> None:
    options = sandbox.host_options(task(), DeviceKind.CPU, "", tmp_path)
    assert not {"mem_limit", "memswap_limit", "cpuset_cpus"} & options.keys()
    assert options["mounts"] == []


def test_a_jetson_gets_its_runtime_socket_and_group(tmp_path: Path) -> None:
    for name in (sandbox.SOCKET, sandbox.RELEASE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    options = sandbox.host_options(task(), DeviceKind.JETSON, "", tmp_path)
    assert options["runtime"] == "nvidia"
    assert "device_requests" not in options
    assert options["group_add"] == [(tmp_path / sandbox.SOCKET).stat().st_gid]
    assert {mount["Target"] for mount in options["mounts"]} == {"/run/jtop.sock", "/etc/nv_tegra_release"}
    assert all(mount["ReadOnly"] for mount in options["mounts"])


def test_a_desktop_gpu_is_requested(tmp_path: Path) -> None:
    options = sandbox.host_options(task(), DeviceKind.CUDA, "", tmp_path)
    assert options["device_requests"][0]["Capabilities"] == [["gpu"]]
    assert "runtime" not in options


def test_weights_have_another_path_inside(tmp_path: Path) -> None:
    asked = task(tmp_path / "m.gguf")
    assert sandbox.inside(asked).model_path == "/model/m.gguf"
    assert sandbox.inside(asked).spec == asked.spec
    assert sandbox.inside(task()) == task()


def test_the_worker_is_never_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.touch(mode=0o644)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert sandbox.user_for(task(model)) == "10001:10001"
    model.chmod(0o600)
    with pytest.raises(EnvironmentLacking, match=r"chmod o\+r"):
        sandbox.user_for(task(model))
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 567)
    assert sandbox.user_for(task(model)) == "1234:567"


def test_only_what_a_dead_process_of_this_machine_left_may_be_removed() -> None:
    me = Owner.this()
    labels = me.labels("run")
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        gone = {**labels, sandbox.LABEL_PID: str(child.pid), sandbox.LABEL_STARTED: "1.00"}
    assert me.owns(labels)
    assert not me.may_remove(labels)  # alive
    assert me.may_remove(gone)
    assert not me.owns(gone)
    assert me.may_remove({**labels, sandbox.LABEL_STARTED: "1.00"})  # its number was given to another process
    assert not me.may_remove({**gone, sandbox.LABEL_MACHINE: "another"})
    assert not me.may_remove({})


def test_an_owner_is_known_by_ticks_since_boot(tmp_path: Path) -> None:
    """A time of day would not do: after the clock was set, a living runner's containers would pass for left behind."""
    ticks = " ".join(str(number) for number in range(3, 53))
    (tmp_path / f"proc/{os.getpid()}").mkdir(parents=True)
    (tmp_path / f"proc/{os.getpid()}/stat").write_text(f"{os.getpid()} (a ) name) S {ticks}")
    assert Owner.this(tmp_path).started == "21"
    ours = Path("/proc/self/stat")
    if ours.exists():
        assert Owner.this().started == ours.read_text().rpartition(") ")[2].split()[19]


def engine_info(runtimes: tuple[str, ...]) -> dict[str, Any]:
    """What an engine tells of itself."""
    return {"Name": "board", "Runtimes": {name: {} for name in runtimes}}


def test_a_gpu_needs_the_runtime_and_a_jetson_its_release(tmp_path: Path) -> None:
    image = KNOWN.images["l4t"]
    with pytest.raises(EnvironmentLacking, match=r"no runtime `nvidia`.*nvidia-ctk runtime configure"):
        image_build.require_device(engine_info(("runc",)), image, tmp_path)
    with pytest.raises(EnvironmentLacking, match=r"not told, the image is made for R36"):
        image_build.require_device(engine_info(("runc", "nvidia")), image, tmp_path)
    release = tmp_path / "etc" / "nv_tegra_release"
    release.parent.mkdir()
    release.write_text("# R35 (release), REVISION: 4.1, GCID: 1\n")
    with pytest.raises(EnvironmentLacking, match=r"R35 revision 4.1, the image is made for R36.*JetPack 6"):
        image_build.require_device(engine_info(("nvidia",)), image, tmp_path)
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    image_build.require_device(engine_info(("nvidia",)), image, tmp_path)
    image_build.require_device(engine_info(("runc",)), KNOWN.images["linux"], tmp_path)


def test_without_an_engine_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(EnvironmentLacking, match=r"no Docker engine answers.*--env native"):
        workers.environment(ROOT, "build")


@pytest.mark.parametrize(
    ("made", "cure"),
    [
        (engine_errors.unreachable(PermissionError(13, "Permission denied"), "Docker"), "usermod -aG docker"),
        (engine_errors.unreachable(ConnectionRefusedError(111, "Connection refused"), "Docker"), "--env native"),
        (engine_errors.unreachable(OSError("banner"), "ssh://user@board"), "without a password"),
        (engine_errors.unreachable(ValueError("odd"), "Docker"), "docker version"),
        (engine_errors.refused("write /x: no space left on device"), "docker system prune"),
        (engine_errors.refused("Unknown runtime specified nvidia"), "nvidia-container-toolkit"),
        (engine_errors.refused('could not select device driver "" with capabilities: [[gpu]]'), "nvidia-ctk"),
        (engine_errors.refused('exec: "docker-init": executable file not found in $PATH'), "tini"),
        (engine_errors.failed_build("pull access denied for x", "docker/linux/Dockerfile"), "--base"),
        (engine_errors.failed_build("docker.io/library/x:1: not found", "docker/linux/Dockerfile"), "--base"),
        (engine_errors.failed_build('"apparmor_parser": executable file not found in $PATH', "x"), "lines above"),
        (engine_errors.failed_build("no space left on device", "docker/linux/Dockerfile"), "prune"),
        (engine_errors.failed_build("returned a non-zero code: 1", "docker/linux/Dockerfile"), "lines above"),
    ],
)
def test_every_refusal_has_a_cure_of_its_own(made: EnvironmentLacking, cure: str) -> None:
    assert cure in made.cure


def test_a_mac_has_no_image() -> None:
    with pytest.raises(EnvironmentLacking, match="--env native"):
        KNOWN.for_device(DeviceKind.MAC)


@pytest.mark.parametrize("name", list(KNOWN.images))
def test_a_dockerfile_says_what_the_table_says(name: str) -> None:
    text = (ROOT / "docker" / name / "Dockerfile").read_text()
    defaults = dict(re.findall(r'^ARG (\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    image = KNOWN.images[name]
    assert defaults["BUILD_BASE"] == image.build_base.pinned
    assert defaults["RUNTIME_BASE"] == image.runtime_base.pinned
    assert defaults["CMAKE_ARGS"] == image.cmake_args
    assert defaults["SOURCE_DATE_EPOCH"] == str(KNOWN.source_date_epoch)
    assert f'moe-bundle.llama-cpp-commit="{KNOWN.llama_cpp_commit}"' in text
    assert f"steps.sh packages {' '.join(image.packages)} " in text
    assert re.search(r"^USER (?!0|root)", text, re.MULTILINE)
    asked = images.build_args(ROOT, KNOWN, name, BuildOptions(), "commit")
    assert not asked.keys() - defaults.keys() - set(images.PROXIES)


def test_a_build_can_be_changed_from_outside(tmp_path: Path) -> None:
    options = BuildOptions(
        base="mirror/base:1", native=True, wheelhouse=tmp_path, index_url="https://index.example/simple"
    )
    asked = images.build_args(ROOT, KNOWN, "linux", options, "commit")
    assert asked["BUILD_BASE"] == asked["RUNTIME_BASE"] == "mirror/base:1"
    assert "-DGGML_NATIVE=ON" in asked["CMAKE_ARGS"]
    assert "-DGGML_NATIVE=OFF" not in asked["CMAKE_ARGS"]
    assert asked["PIP_INDEX_URL"] == options.index_url
    assert not set(images.PROXIES) & asked.keys()


def context(options: BuildOptions) -> bytes:
    stream = io.BytesIO()
    images.write_context(ROOT, KNOWN, "linux", options, stream)
    return stream.getvalue()


def test_a_context_is_the_same_twice_and_holds_no_more_than_it_should(tmp_path: Path) -> None:
    (tmp_path / "pip-1-py3-none-any.whl").write_bytes(b"pip")
    (tmp_path / "notes.txt").write_text("private")
    (tmp_path / "ca.pem").write_text("certificate")
    options = BuildOptions(wheelhouse=tmp_path, ca_bundle=tmp_path / "ca.pem")
    first = context(options)
    assert first == context(options)
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        names = set(archive.getnames())
        assert {member.mtime for member in archive} == {KNOWN.source_date_epoch}
    assert {"docker/inputs/wheels/pip-1-py3-none-any.whl", "docker/inputs/ca.crt", "docker/steps.sh"} <= names
    assert not [name for name in names if "notes" in name or "__pycache__" in name or "harness/report" in name]


def test_a_folder_without_pip_is_no_wheelhouse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"docker/inputs/README\.md"):
        context(BuildOptions(wheelhouse=tmp_path))


def test_an_image_holds_what_a_worker_imports() -> None:
    """All modules reachable from the worker's rooms: of the bundle in the context, of others in docker/steps.sh."""
    files = {path for pattern in images.WORKER_FILES for path in ROOT.glob(pattern)}
    reached = {path for path in files if path.parent != ROOT / "harness"}
    while more := {file for path in reached for name in imported(path) if (file := own_file(name))} - reached:
        reached |= more
    assert reached <= files
    names = {name.partition(".")[0] for path in reached for name in imported(path)}
    optional = {"jtop", "pynvml", "zeus_apple_silicon"}  # sensors: the sampler runs outside
    installed = {name.replace("-", "_") for name in wheelhouse.worker_requirements(ROOT)}
    needed = {name.replace("llama_cpp", "llama_cpp_python") for name in names - set(sys.stdlib_module_names) - optional}
    assert {"llama_cpp_python", "msgspec", "psutil"} <= needed
    assert needed - {"harness"} <= installed


def own_file(module: str) -> Path | None:
    """A module of the bundle as a file; None for names of others, and for names within a module."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def imported(path: Path) -> set[str]:
    """Full names; of `from a import b` both a and a.b, which may be a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
