"""Other machines, without one: addresses, contexts, the mirror of files, clocks, weights, and what a loss leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import studies
from msgspec.structs import replace
from paramiko.ssh_exception import (  # type: ignore[import-untyped]
    AuthenticationException,
    NoValidConnectionsError,
    SSHException,
)

from harness import cli_hosts, protocol, view_protocol
from harness.clock import now_ns
from harness.errors import (
    BundleError,
    EnvironmentLacking,
    ExitCode,
    IntegrityError,
    Interrupted,
    RunsFailed,
    UsageError,
)
from harness.measure import view
from harness.options import Asked, StudyOptions, study_options
from harness.protocol import Task
from harness.records import Channel, Telemetry
from harness.study.environments import container, process, remote, remote_view, ssh, volumes
from harness.study.environments.attached import Stream
from harness.study.environments.base import Exit, HostLost
from harness.study.environments.container import Engine
from harness.study.environments.process import ContainerProcess
from harness.study.environments.remote_view import RemoteView
from harness.study.environments.sandbox import Owner
from harness.study.environments.volumes import Volumes
from harness.study.runner import Runner, StopFlag
from harness.study.sampler import SamplerHandle
from harness.study.store import Store, read
from harness.study.weights import Located
from harness.telemetry_protocol import Ready, Start
from harness.terms import DeviceKind, EnvironmentKind
from harness.view_protocol import Keep, Kept, KeptState, Look, Question, Sight

BOARD = "ssh://user@board"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A folder of the docker command with the contexts `bench` (TCP) and `orin` (ssh)."""
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "bench"}))
    for name, host in {"bench": "tcp://10.0.0.7:2375", "orin": BOARD}.items():
        folder = tmp_path / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
        folder.mkdir(parents=True)
        endpoint = {"docker": {"Host": host, "SkipTLSVerify": False}}
        (folder / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoint}))
    return tmp_path


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "tcp://10.0.0.7:2375"),  # the current context
        ({"DOCKER_CONTEXT": "orin"}, BOARD),
        ({"DOCKER_CONTEXT": "default"}, container.DEFAULT_ADDRESS),
        ({"DOCKER_HOST": "unix:///tmp/mine.sock"}, "unix:///tmp/mine.sock"),
        ({"DOCKER_HOST": "unix:///tmp/mine.sock", "DOCKER_CONTEXT": "orin"}, "unix:///tmp/mine.sock"),
        ({"DOCKER_HOST": "", "DOCKER_CONTEXT": ""}, "tcp://10.0.0.7:2375"),
    ],
)
def test_the_engine_is_the_one_that_docker_itself_would_use(
    settings: Path, environ: dict[str, str], expected: str
) -> None:
    assert container.address({"DOCKER_CONFIG": str(settings), **environ})["base_url"] == expected


def test_without_any_setting_it_is_the_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert container.address({}) == {"base_url": container.DEFAULT_ADDRESS}
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text('{"auths": {}}')
    assert container.address({}) == {"base_url": container.DEFAULT_ADDRESS}


def test_a_context_needs_no_configuration_beside_it(settings: Path) -> None:
    """`docker context create` alone writes none."""
    (settings / "config.json").unlink()
    asked = {"DOCKER_CONFIG": str(settings), "DOCKER_CONTEXT": "orin"}
    assert container.address(asked) == {"base_url": BOARD}


def test_certificates_of_a_context_are_its_own(settings: Path) -> None:
    folder = settings / "contexts" / "tls" / hashlib.sha256(b"bench").hexdigest() / "docker"
    folder.mkdir(parents=True)
    asked = {"DOCKER_CONFIG": str(settings)}
    with pytest.raises(EnvironmentLacking, match=rf"tcp://10.0.0.7:2375: its certificates .*{folder} is a folder of"):
        container.address(asked)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (folder / name).write_text("certificate")
    tls = container.address(asked)["tls"]
    assert (tls.ca_cert, tls.cert) == (str(folder / "ca.pem"), (str(folder / "cert.pem"), str(folder / "key.pem")))


def test_a_context_that_does_not_exist_or_can_not_be_read_is_told(settings: Path) -> None:
    asked = {"DOCKER_CONFIG": str(settings)}
    with pytest.raises(EnvironmentLacking, match=r"Docker context gone: there is no such .*DOCKER_CONTEXT.*context ls"):
        container.address({**asked, "DOCKER_CONTEXT": "gone"})
    meta = settings / "contexts" / "meta" / hashlib.sha256(b"orin").hexdigest() / "meta.json"
    for content, words in (("{", "can't be read"), ("[]", "can't be read"), ("{}", "no Docker endpoint")):
        meta.write_text(content)
        with pytest.raises(EnvironmentLacking, match=rf"Docker context orin: .*{words}"):
            container.address({**asked, "DOCKER_CONTEXT": "orin"})
    (settings / "config.json").write_text('{"currentContext": "gone"}')
    with pytest.raises(EnvironmentLacking, match=r"Docker context gone: there is no such .*config\.json names it"):
        container.address(asked)
    (settings / "config.json").write_text("not JSON")
    with pytest.raises(EnvironmentLacking, match=r"Docker's configuration: .*config\.json can't be read"):
        container.address(asked)


def test_certificates_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacking, match=r"certificates can't be used.*DOCKER_CERT_PATH"):
        container.address({"DOCKER_HOST": "tcp://10.0.0.7:2376", "DOCKER_CERT_PATH": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("where", "local"),
    [
        ("unix:///var/run/docker.sock", True),
        ("npipe:////./pipe/docker", True),
        (BOARD, False),
        ("tcp://10.0.0.7:2375", False),
    ],
)
def test_an_engine_elsewhere_is_known_by_its_address(where: str, local: bool) -> None:
    assert container.is_local(where) is local


@pytest.mark.parametrize(
    ("error", "what", "cure"),
    [
        (NoValidConnectionsError({("10.0.0.9", 22): OSError()}), "can't be reached", "switched on"),
        (socket.gaierror(-2, "Name or service not known"), "can't be reached", "check name"),
        (TimeoutError(), "can't be reached", "switched on"),
        (AuthenticationException("Authentication failed."), "refuses our key", "ssh-copy-id"),
        (SSHException("No authentication methods available"), "refuses our key", "ssh-add"),
        (SSHException("Server 'board' not found in known_hosts"), "host key is not known", "accept its key"),
        (SSHException("Error reading SSH protocol banner"), "ssh fails: Error reading", "without a password"),
    ],
)
def test_every_failure_of_ssh_has_its_own_words(error: Exception, what: str, cure: str) -> None:
    told = ssh.told(error, BOARD, "board")
    assert told.exit_code is ExitCode.ENVIRONMENT
    assert (told.where, "\n" in str(told)) == (BOARD, False)
    assert what in told.what
    assert cure in told.cure


@pytest.mark.parametrize(
    ("code", "words", "what", "cure"),
    [
        (127, "bash: line 1: docker: command not found", "there is no docker", "install Docker"),
        (1, "permission denied while trying to connect to the Docker daemon socket", "no permission", "usermod"),
        (1, "Cannot connect to the Docker daemon. Is the docker daemon running?", "no Docker", "systemctl"),
        (1, "something\nelse", "says: something", "docker version"),
        (2, "", "says: 2", "docker version"),
    ],
)
def test_every_answer_of_docker_over_there_has_its_own_words(code: int, words: str, what: str, cure: str) -> None:
    told = ssh.no_engine(code, words, BOARD)
    assert what in told.what
    assert cure in told.cure
    assert "\n" not in str(told)


@pytest.mark.parametrize("url", ["ssh://", "ssh:///docker.sock", "ssh://board/with/a/path"])
def test_what_is_no_address_of_a_host_is_a_fault_of_the_user(url: str) -> None:
    with pytest.raises(UsageError, match=r"ssh://user@host"):
        ssh.greet(url)


@pytest.mark.parametrize("host", ["board", "user@board", "http://board", "tcp://board:2375"])
def test_the_option_takes_ssh_only(host: str) -> None:
    with pytest.raises(UsageError, match=r"--host: .* is no address of a host -> ssh://user@host"):
        study_options(device="auto", suite="smoke", weights="auto", out="", env="native", resume=False, host=host)


def test_over_there_everything_runs_in_containers() -> None:
    asked = study_options(device="auto", suite="smoke", weights="auto", out="", env="native", resume=False, host=BOARD)
    assert (asked.host, asked.environment) == (BOARD, EnvironmentKind.CONTAINER)


TEGRA = {"KernelVersion": "5.15.148-tegra", "Runtimes": {"nvidia": {}, "runc": {}}}


@pytest.mark.parametrize(
    ("information", "wanted", "found"),
    [
        (TEGRA, "auto", DeviceKind.JETSON),
        (TEGRA, "jetson", DeviceKind.JETSON),
        (TEGRA, "cpu", DeviceKind.CPU),
        ({"KernelVersion": "6.8.0", "Runtimes": {"nvidia": {}}}, "auto", DeviceKind.CUDA),
        ({"KernelVersion": "6.8.0", "Runtimes": {"runc": {}}}, "auto", DeviceKind.CPU),
        ({}, "auto", DeviceKind.CPU),
    ],
)
def test_an_engine_tells_what_its_machine_is(information: dict[str, Any], wanted: str, found: DeviceKind) -> None:
    assert remote.device_of(information, wanted, BOARD) is found


def test_a_host_that_is_another_device_is_refused() -> None:
    with pytest.raises(EnvironmentLacking, match=rf"{BOARD}: .*not an NVIDIA Jetson.*--device cpu"):
        remote.device_of({"KernelVersion": "6.8.0"}, "jetson", BOARD)
    with pytest.raises(UsageError, match="there is no device 'tpu'"):
        remote.device_of({}, "tpu", BOARD)


class Peer:
    """A process over there: the real one's code, in this process; `answers` may be taken away."""

    container_id = "peer"

    def __init__(self, ahead_ns: int = 0) -> None:
        self.gone = False
        self.waited = 0
        self._ahead_ns = ahead_ns
        self._answers: list[bytes] = []

    def write(self, data: bytes) -> None:
        if self.gone:
            raise BrokenPipeError
        answer = view.answer(view_protocol.decode_question(data))
        if isinstance(answer, Sight):
            answer = replace(answer, now_ns=answer.now_ns + self._ahead_ns)
        self._answers.append(view_protocol.encode(answer))

    def read_line(self, timeout_s: float) -> bytes:
        return b"" if self.gone else self._answers.pop(0)

    def last_words(self) -> str:
        return ""

    def wait(self) -> Exit:
        self.waited += 1
        return Exit(0, None, oom_killed=False)


def process_of(peer: Peer) -> ContainerProcess:
    made: Any = peer  # speaks as a ContainerProcess does
    assert isinstance(made, Peer)
    return made  # type: ignore[return-value]


def test_files_over_there_are_seen_here_and_gone_when_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, mirror = tmp_path / "there" / "zone0", tmp_path / "mirror"
    zone.mkdir(parents=True)
    mirror.mkdir()
    (zone / "temp").write_text("47500\n")
    monkeypatch.setattr(remote_view, "PATTERNS", (f"{tmp_path}/there/zone*/t???",))
    seen = RemoteView(process_of(Peer()), mirror, BOARD)
    assert (seen.root / str(zone / "temp").lstrip("/")).read_text() == "47500"
    assert seen.machine.threads >= 1
    assert seen.machine.memory_available_bytes > 0
    (zone / "temp").unlink()
    (zone / "type").write_text("tj")
    seen.pause(0.0)
    assert [path.name for path in sorted(mirror.rglob("*")) if path.is_file()] == ["type"]


def test_no_name_leads_out_of_the_mirror(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    remote_view.mirror({"/../../escaped": "x", "/sys/kept": "y"}, tmp_path / "mirror")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept"]


@pytest.mark.parametrize("ahead_ns", [0, 3_600_000_000_000, -7_000_000_000])
def test_the_other_clock_is_known_to_half_the_way_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_ns: int
) -> None:
    monkeypatch.setattr(remote_view, "PATTERNS", ())
    before_ns = now_ns()
    seen = RemoteView(process_of(Peer(ahead_ns)), tmp_path, BOARD)
    assert abs(seen.offset_ns - ahead_ns) <= now_ns() - before_ns


def test_the_power_mode_is_read_from_what_nvpmodel_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_view, "PATTERNS", ())
    seen = RemoteView(process_of(Peer()), tmp_path, BOARD)
    assert seen.ask(["nvpmodel", "-q"]) is None
    files = {
        "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
        "/var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull",
    }
    remote_view.mirror(files, tmp_path)
    assert seen.ask(["nvpmodel", "-q"]) == "NV Power Mode: MAXN_SUPER"
    assert seen.ask(["pmset", "-g"]) is None


def test_a_view_that_does_not_answer_is_a_lost_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_view, "PATTERNS", ())
    peer = Peer()
    seen = RemoteView(process_of(peer), tmp_path, BOARD)
    peer.gone = True
    with pytest.raises(HostLost, match=rf"{BOARD}: .*--resume"):
        seen.refresh()


def test_the_process_that_looks_answers_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    questions: list[Question] = [
        Look(patterns=(f"{tmp_path}/*",)),
        Keep(folder=str(tmp_path), name="m", size_bytes=1, sha256=""),
    ]
    out = io.BytesIO()
    view.serve(io.BytesIO(b"".join(map(view_protocol.encode, questions))), out)
    sight, kept = map(view_protocol.decode_answer, out.getvalue().splitlines())
    assert isinstance(sight, Sight)
    assert sight.files == {f"{tmp_path}/a": "1"}
    assert kept == Kept(state=KeptState.MISSING)


def test_what_was_brought_gets_its_name_only_with_the_right_hash(tmp_path: Path) -> None:
    content = b"weights"
    right = hashlib.sha256(content).hexdigest()
    wanted = Keep(folder=str(tmp_path), name="m.gguf", size_bytes=len(content), sha256=right)
    part = tmp_path / view_protocol.partial("m.gguf")
    part.write_bytes(b"weightS")
    kept = view.answer(wanted)
    assert isinstance(kept, Kept)
    assert (kept.state, part.exists()) == (KeptState.WRONG, False)
    part.write_bytes(content)
    assert view.answer(wanted) == Kept(state=KeptState.HERE)
    assert (tmp_path / "m.gguf").read_bytes() == content
    (tmp_path / "m.gguf").write_bytes(b"cut")
    assert view.answer(wanted) == Kept(state=KeptState.MISSING)


@pytest.mark.parametrize("size", [0, 1, 512, 1_000_000, (1 << 20) + 7])
def test_weights_travel_as_a_tar_archive(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    told: list[tuple[int, int]] = []
    sent = b"".join(volumes.archive(path, "m.gguf.part", lambda done, total: told.append((done, total))))
    with tarfile.open(fileobj=io.BytesIO(sent)) as archive:
        member = archive.getmember("m.gguf.part")
        stream = archive.extractfile(member)
        assert stream is not None
        assert stream.read() == path.read_bytes()
        assert member.mode == 0o644
    assert not size or told[-1] == (size, size)


class Warehouse:
    """An engine with volumes that are folders; `spoil` changes what arrives."""

    where = BOARD

    def __init__(self, folder: Path, *, spoil: bool = False) -> None:
        self._folder, self._spoil = folder, spoil
        self.uploads: list[str] = []

    def put(self, container_id: str, folder: str, archive: Iterator[bytes]) -> None:
        self.uploads.append(container_id)
        with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as stream:
            stream.extractall(self._folder, filter="data")
        if self._spoil:
            next(self._folder.glob("*.part")).write_bytes(b"other")


class Silent:
    """Nobody listens."""

    def step(self, text: str) -> None:
        """Nothing."""

    def bytes_done(self, done: int, total: int) -> None:
        """Nothing."""


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Located]]:
    """Two plan entries with the same bytes, and a folder that stands for their volume."""
    there = tmp_path / "there"
    there.mkdir()
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    ref = replace(studies.model_ref(studies.plan_of().model_keys()[0]), sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(volumes, "MODEL_FOLDER", str(there))
    monkeypatch.setattr(process, "launch", lambda *_a, **_k: process_of(Peer()))
    return there, [Located(path=path, ref=ref)] * 2


def test_weights_are_brought_once(stored: tuple[Path, list[Located]]) -> None:
    there, located = stored
    engine = Warehouse(there)
    for _ in range(2):
        Volumes(engine, "image", Owner.this()).bring(located, Silent())  # type: ignore[arg-type]
    assert len(engine.uploads) == 1
    assert [path.name for path in there.iterdir()] == ["m.gguf"]


def test_other_bytes_than_were_sent_are_refused(stored: tuple[Path, list[Located]]) -> None:
    there, located = stored
    with pytest.raises(IntegrityError, match=rf"{BOARD}, m.gguf: sha256 \w+ arrived") as refused:
        Volumes(Warehouse(there, spoil=True), "image", Owner.this()).bring(located, Silent())  # type: ignore[arg-type]
    assert refused.value.exit_code is ExitCode.INTEGRITY
    assert list(there.iterdir()) == []


class Gone:
    """The SDK when its connection has ended: every call fails in its own way."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.calls = 0
        self.api = self

    def __getattr__(self, name: str) -> Any:
        def call(*_arguments: object, **_options: object) -> Any:
            self.calls += 1
            raise self._error

        return call


@pytest.mark.parametrize("error", [EOFError(), OSError("Socket is closed"), SSHException("SSH session not active")])
def test_an_engine_that_is_gone_is_a_lost_host_whatever_the_transport_says(error: Exception) -> None:
    engine = Engine(Gone(error), BOARD, {})
    for ask in (engine.version, engine.information, lambda: engine.wait("id"), lambda: engine.remove("id")):
        with pytest.raises(HostLost, match=rf"{BOARD}: the connection to the engine is lost.*--resume") as lost:
            ask()
        assert lost.value.exit_code is ExitCode.ENVIRONMENT


def test_a_process_on_a_lost_host_is_asked_once_and_lets_go_of_its_stream() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    sdk = Gone(EOFError())
    worker = ContainerProcess(Engine(sdk, BOARD, {}), "id", Stream(ours))
    assert worker.read_line(1.0) == b""
    worker.kill()  # harmless
    with pytest.raises(HostLost):
        worker.wait()
    asked = sdk.calls
    assert worker.wait() == process.UNKNOWN
    worker.kill()
    assert (sdk.calls, ours.fileno()) == (asked, -1)


class Old:
    """The SDK's client of an engine of some age."""

    def __init__(self, api: str) -> None:
        self._api = api
        self.api = self
        self.closed = False

    def version(self) -> dict[str, str]:
        return {"Version": "19.03.8", "ApiVersion": self._api}

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("api", "enough"), [("1.40", False), ("1.41", True), ("1.100", True)])
def test_an_engine_that_is_too_old_is_told_by_its_version(
    monkeypatch: pytest.MonkeyPatch, api: str, enough: bool
) -> None:
    client = Old(api)
    monkeypatch.setattr("docker.DockerClient", lambda **_settings: client)
    if enough:
        assert container.connect("1.41", "tcp://10.0.0.7:2375").version() == "19.03.8"
    else:
        with pytest.raises(EnvironmentLacking, match=r"tcp://.*: the engine is 19.03.8 \(API 1.40\).*20.10 or later"):
            container.connect("1.41", "tcp://10.0.0.7:2375")
    assert client.closed is not enough


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "no permission to use the Docker engine.*usermod"),
        (ConnectionRefusedError(111, "Connection refused"), "no Docker engine answers.*--env native"),
        (FileNotFoundError(2, "No such file or directory"), "no Docker engine answers.*DOCKER_HOST"),
    ],
)
def test_a_socket_that_does_not_open_is_told_by_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def knock(_where: str) -> None:
        raise error

    monkeypatch.setattr(container, "_knock", knock)
    with pytest.raises(EnvironmentLacking, match=f"{tmp_path}.*{words}"):
        container.connect("1.41", f"unix://{tmp_path}/docker.sock")


class LosingProcess(studies.ThreadProcess):
    """A worker whose host goes away at its third answer."""

    answers = 0

    def read_line(self, timeout_s: float) -> bytes:
        self.answers += 1
        return super().read_line(timeout_s) if self.answers < 3 else b""

    def wait(self) -> Exit:
        ended = super().wait()
        if self.answers < 3:
            return ended
        raise HostLost("gone", where=BOARD)


class LosingEnvironment(studies.ThreadEnvironment):
    """Loses its host in the second cohort."""

    def start(self, task: Task) -> studies.ThreadProcess:
        if len(self.started) < 2:
            return super().start(task)
        self.started.append(task.spec.run_id)
        process = LosingProcess(self._serve)
        process.write(protocol.encode(task))
        return process


def test_a_host_that_is_lost_ends_the_study_and_resume_runs_the_rest_once(tmp_path: Path) -> None:
    plan = studies.plan_of(studies.suite(studies.experiment(blocks=3)))
    store = Store.open(tmp_path / "out", resume=False)
    with pytest.raises(HostLost):
        studies.run_study(studies.study_of(store, LosingEnvironment(), plan))
    store.close()
    kept = (tmp_path / "out" / "runs.jsonl").read_bytes()
    assert kept.count(b"\n") == 2  # nothing is recorded of runs of which nothing is known
    again = Store.open(tmp_path / "out", resume=True)
    studies.run_study(studies.study_of(again, studies.ThreadEnvironment(), plan))
    again.close()
    ids = [record.spec.run_id for record in read(tmp_path / "out" / "runs.jsonl")]
    assert (tmp_path / "out" / "runs.jsonl").read_bytes().startswith(kept)
    assert (len(ids), len(set(ids))) == (6, 6)


AHEAD_NS = 5_000_000_000_000


class FarView:
    """A machine whose clock is ahead of ours."""

    root = Path("/")
    offset_ns = AHEAD_NS

    def refresh(self) -> None:
        """Nothing."""

    def pause(self, seconds: float) -> None:
        """Nothing."""

    def ask(self, command: object) -> str | None:
        return None


class FarSampler:
    """Answers with the span that it was asked for."""

    ready = Ready(ready=True, channels=(), absent={})

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        channels: tuple[Channel, ...] = ()
        return Telemetry(
            period_ns=1, missed_ticks=0, start_ns=start_ns, end_ns=end_ns, channels=channels, absent={"energy": "none"}
        )


def test_samples_are_asked_for_in_the_time_of_the_machine_that_is_measured(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "out", resume=False)
    plan = studies.plan_of(studies.suite(studies.experiment()))
    study = studies.study_of(store, studies.ThreadEnvironment(), plan)
    far: Any = FarSampler()
    before_ns = now_ns()
    Runner(dataclasses.replace(study, view=FarView()), far, studies.Listener(), StopFlag()).run()
    store.close()
    for record in read(tmp_path / "out" / "runs.jsonl"):
        assert record.telemetry is not None
        assert before_ns + AHEAD_NS <= record.telemetry.start_ns < record.telemetry.end_ns <= now_ns() + AHEAD_NS


class Pipe:
    """A sampler's process in a container, silent."""

    def __init__(self, late: bool) -> None:
        self._late = late

    def write(self, data: bytes) -> None:
        """Nothing."""

    def read_line(self, timeout_s: float) -> bytes:
        if self._late:
            raise TimeoutError
        return b""

    def kill(self) -> None:
        """Nothing."""

    def wait(self) -> Exit:
        return process.UNKNOWN


@pytest.mark.parametrize("late", [True, False])
def test_a_sampler_lost_with_its_host_ends_the_study_and_alone_does_not(late: bool) -> None:
    silent: Any = Pipe(late)
    with pytest.raises(HostLost):
        SamplerHandle.over(remote.ContainerPipe(Engine(Gone(EOFError()), BOARD, {}), silent), Start())

    class Well:
        def version(self) -> Mapping[str, str]:
            return {"Version": "28"}

        api = None

    with pytest.raises(EnvironmentLacking, match="the sampler") as lost:
        SamplerHandle.over(remote.ContainerPipe(Engine(Well(), BOARD, {}), silent), Start())
    assert not isinstance(lost.value, HostLost)


ASKED = Asked(device="auto", suite="smoke", weights="auto", out="", env="native", resume=False)


def test_one_host_or_none_is_measured_by_this_process() -> None:
    for hosts in ((), (BOARD,)):
        seen: list[StudyOptions] = []
        cli_hosts.on_each("bench", ASKED, hosts, seen.append)
        assert [one.host for one in seen] == list(hosts or ("",))


def test_a_connection_that_drops_is_made_again_a_few_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_hosts, "WAITS_S", (0.0, 0.0))
    lost = HostLost("gone", where=BOARD)
    away = EnvironmentLacking("the host can't be reached", where=BOARD)
    cases: list[tuple[list[BundleError], list[bool], BundleError | None]] = [
        ([lost], [False, True], None),
        ([lost, away], [False, True, True], None),
        ([lost, away, away], [False, True, True], away),
        ([away], [False], away),  # it never was there
        ([lost, EnvironmentLacking("no space", where="here")], [False, True], EnvironmentLacking("no space")),
    ]
    for errors, resumed, end in cases:
        told, seen = list(errors), list[bool]()

        def work(one: StudyOptions, told: list[BundleError] = told, seen: list[bool] = seen) -> None:
            seen.append(one.resume)
            if told:
                raise told.pop(0)

        if end is None:
            cli_hosts.on_each("bench", ASKED, (BOARD,), work)
        else:
            with pytest.raises(EnvironmentLacking, match=end.what):
                cli_hosts.on_each("bench", ASKED, (BOARD,), work)
        assert seen == resumed
        assert capsys.readouterr().out.count("trying again") == len(resumed) - 1
    here: list[bool] = []

    def lose(one: StudyOptions) -> None:
        here.append(one.resume)
        raise lost

    with pytest.raises(HostLost):
        cli_hosts.on_each("bench", ASKED, (), lose)
    assert here == [False]


@pytest.mark.parametrize("hosts", [(BOARD, BOARD), ("ssh://a:1", "ssh://a:1")])
def test_a_host_named_twice_is_refused(hosts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="named twice"):
        cli_hosts.on_each("bench", ASKED, hosts, lambda _one: None)


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ((0, 5), RunsFailed),
        ((3, 5), EnvironmentLacking),
        ((3, 4), IntegrityError),
        ((130, 3), Interrupted),
        ((2, 5), UsageError),
        ((0, -9), EnvironmentLacking),
    ],
)
def test_of_several_hosts_the_worst_end_is_told_with_its_host(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codes: tuple[int, int],
    kind: type[BundleError],
) -> None:
    ends = dict(zip(("ssh://u@one", "ssh://u@two"), codes, strict=True))

    def child(command: str, asked: Asked, host: str, folder: Path) -> list[str]:
        end = f"sys.exit({ends[host]})" if ends[host] >= 0 else "import os; os.kill(os.getpid(), 9)"
        return [sys.executable, "-c", f"import sys; print('hello', flush=True); {end}"]

    monkeypatch.setattr(cli_hosts, "_command_line", child)
    with pytest.raises(kind) as told:
        cli_hosts.on_each("bench", ASKED, tuple(ends), lambda _one: None)
    assert type(told.value) is kind
    worst = [host for host, code in ends.items() if code and (code < 0 or code == told.value.exit_code)]
    assert worst
    assert all(host in told.value.where for host in worst)
    assert sorted(capsys.readouterr().out.split("\n")) == ["", "u-one: hello", "u-two: hello"]


def test_each_host_gets_a_command_line_of_its_own(tmp_path: Path) -> None:
    asked = Asked(device="jetson", suite="quick", weights="released", out=str(tmp_path), env="native", resume=True)
    folders = cli_hosts._folders(["ssh://u@one:22", "ssh://u@two"], tmp_path)
    assert list(folders.values()) == [tmp_path / "u-one-22", tmp_path / "u-two"]
    line = cli_hosts._command_line("reproduce", asked, "ssh://u@two", folders["ssh://u@two"])
    assert line[5:] == [
        "reproduce", "--device", "jetson", "--suite", "quick", "--weights", "released",
        "--out", str(tmp_path / "u-two"), "--host", "ssh://u@two", "--resume",
    ]  # fmt: skip
    assert subprocess.run([*line[:3], "--version"], capture_output=True, check=False).returncode == 0
