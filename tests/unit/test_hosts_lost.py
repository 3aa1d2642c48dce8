"""A host that is lost, and several at once."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import studies
from far_host import BOARD
from paramiko.ssh_exception import (  # type: ignore[import-untyped]  # it ships no types
    SSHException,
)

from harness import cli_hosts, protocol
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
from harness.options import Asked, StudyOptions
from harness.protocol import Task
from harness.records import Channel, Telemetry
from harness.study.environments import container, process, remote
from harness.study.environments.attached import Stream
from harness.study.environments.base import Exit, HostLost
from harness.study.environments.container import Engine
from harness.study.environments.process import ContainerProcess
from harness.study.runner import Runner, StopFlag
from harness.study.sampler import SamplerHandle
from harness.study.store import Store, read
from harness.telemetry_protocol import Ready, Start


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
    again = cli_hosts._command_line("bench", dataclasses.replace(asked, resume=False, retry=True), "", tmp_path)
    assert again[-1] == "--retry"
    assert subprocess.run([*line[:3], "--version"], capture_output=True, check=False).returncode == 0
