"""Which engine is meant, what it is, and in which words it refuses."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from far_host import BOARD
from paramiko.ssh_exception import (  # type: ignore[import-untyped]  # it ships no types
    AuthenticationException,
    NoValidConnectionsError,
    SSHException,
)

from harness.errors import (
    EnvironmentLacking,
    ExitCode,
    UsageError,
)
from harness.options import study_options
from harness.study.environments import container, remote, ssh
from harness.terms import DeviceKind, EnvironmentKind


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
