"""A Docker engine behind a dozen calls; the only module that imports the Docker SDK.

Commands go to a container's attached stdin, events come from stdout, the log from stderr: the same over a local socket,
TCP and ssh. The engine is the one asked for, else the one that the `docker` command would use: DOCKER_HOST, else the
context of DOCKER_CONTEXT, else the current context.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env
from paramiko.ssh_exception import SSHException  # type: ignore[import-untyped]  # it ships no types
from urllib3.exceptions import HTTPError

from harness.errors import EnvironmentLacking
from harness.study.environments import contexts, engine_errors, ssh
from harness.study.environments.attached import Stream
from harness.study.environments.base import HostLost

ENGINE_TIMEOUT_S = 60
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
LOCAL = ("unix", "http+unix", "npipe")
CONFLICT = 409
# What the SDK's transports raise when the other end is gone; requests' own errors are OSErrors.
TRANSPORT = (OSError, EOFError, HTTPException, HTTPError, SSHException)


@dataclass(frozen=True)
class FoundImage:
    """An image that the engine has."""

    image_id: str
    labels: Mapping[str, str]


class Engine:
    """One engine. A refusal becomes EnvironmentLacking, a connection that ends HostLost."""

    def __init__(self, client: Any, where: str, settings: Mapping[str, Any]) -> None:
        self.where = where
        self.is_local = is_local(where)
        self._settings = settings
        self._client = client
        self._api = client.api

    def information(self) -> Mapping[str, Any]:
        """What it tells of its machine."""
        with self._talk():
            return dict(self._client.info())

    def version(self) -> str:
        """Of the engine."""
        with self._talk():
            return str(self._client.version()["Version"])

    def image(self, tag: str) -> FoundImage | None:
        """By its name; None where it has none of that name."""
        with self._talk():
            try:
                found = self._client.images.get(tag)
            except ImageNotFound:
                return None
            return FoundImage(str(found.id), dict(found.labels))

    def build(self, context: Any, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        """Its answers while it builds, one by one."""
        with self._talk():
            yield from self._api.build(
                fileobj=context, custom_context=True, rm=True, forcerm=True, decode=True, **arguments
            )

    def create(self, image: str, *, host: Mapping[str, Any], **options: Any) -> str:
        """A container that waits to be started, its input open; closed by the engine when this process is gone."""
        with self._talk():
            host_config = self._api.create_host_config(**host)
            return str(self._api.create_container(image, stdin_open=True, host_config=host_config, **options)["Id"])

    def attach(self, container_id: str) -> Stream:
        """Its three streams; over ssh on a connection of their own, because sshd bounds the sessions of one."""
        with self._talk():
            client = self._client if self.is_local else docker.DockerClient(**self._settings)
            way = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            raw = client.api.attach_socket(container_id, params=way)
            return Stream(raw, (lambda: None) if self.is_local else client.close)

    def start(self, container_id: str) -> None:
        """Start what was created."""
        with self._talk():
            self._api.start(container_id)

    def signal(self, container_id: str, name: str) -> bool:
        """Whether it was still there to be sent one."""
        with self._talk():
            try:
                self._api.kill(container_id, name)
            except APIError:  # it has ended
                return False
            return True

    def wait(self, container_id: str) -> int:
        """The exit code as the engine writes it."""
        with self._talk():
            return int(self._api.wait(container_id, timeout=ENGINE_TIMEOUT_S)["StatusCode"])

    def was_killed_for_memory(self, container_id: str) -> bool:
        """What the engine has heard of the kernel by now."""
        with self._talk():
            return bool(self._api.inspect_container(container_id)["State"]["OOMKilled"])

    def remove(self, container_id: str) -> None:
        """Running or not; harmless when it is gone or going."""
        with self._talk(), contextlib.suppress(NotFound):  # gone already
            try:
                self._api.remove_container(container_id, force=True, v=True)
            except APIError as error:
                if error.status_code != CONFLICT:  # another call removes it at this moment
                    raise

    def labelled(self, label: str) -> list[tuple[str, Mapping[str, str]]]:
        """Containers that bear a label, with all their labels."""
        with self._talk():
            found = self._api.containers(all=True, filters={"label": label})
            return [(str(one["Id"]), one["Labels"]) for one in found]

    def put(self, container_id: str, folder: str, archive: Iterator[bytes]) -> None:
        """Unpack a tar archive, as it comes, in a container's folder."""
        with self._talk():
            self._api.put_archive(container_id, folder, archive)

    def close(self) -> None:
        """Let go of it."""
        self._client.close()

    @contextlib.contextmanager
    def _talk(self) -> Iterator[None]:
        try:
            yield
        except APIError as error:
            raise engine_errors.refused(str(error.explanation or error), self.where) from None
        except TRANSPORT as error:
            raise HostLost(
                f"the connection to the engine is lost ({error or type(error).__name__})",
                where=self.where,
                cure="finished runs are kept; go on with --resume",
            ) from None


def connect(minimum_api: str, asked: str = "") -> Engine:
    """The engine at an address; without one, that of the `docker` command.

    Raises:
        EnvironmentLacking: none answers, no permission, or it is too old.
    """
    settings = {"base_url": asked} if asked else address()
    where = str(settings["base_url"])
    if where.startswith("ssh://"):
        ssh.greet(where)
    settings = {**settings, "timeout": ENGINE_TIMEOUT_S}
    try:
        _knock(where)
        client = docker.DockerClient(**settings)
        version = client.version()
    except Exception as error:  # noqa: BLE001 - transports raise errors of their own
        raise engine_errors.unreachable(error, where) from None
    if _number(str(version["ApiVersion"])) < _number(minimum_api):
        client.close()
        what = f"the engine is {version['Version']} (API {version['ApiVersion']}), API {minimum_api} is needed"
        raise EnvironmentLacking(what, where=where, cure="install Docker Engine 20.10 or later")
    return Engine(client, where, settings)


def address(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`base_url` and perhaps `tls` of the engine that the `docker` command would use.

    Raises:
        EnvironmentLacking: the context does not exist or can't be read, or a certificate is missing.
    """
    environ = os.environ if environ is None else environ
    if environ.get("DOCKER_HOST"):
        with _certificates("DOCKER_HOST", "DOCKER_CERT_PATH names"):
            return {**kwargs_from_env(environment=dict(environ))}
    found = contexts.endpoint(environ)
    if found is None:
        return {"base_url": DEFAULT_ADDRESS}
    if found.certificates is None:
        return {"base_url": found.host}
    with _certificates(found.host, f"{found.certificates} is"):
        ca, cert, key = (str(found.certificates / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        return {"base_url": found.host, "tls": TLSConfig(client_cert=(cert, key), ca_cert=ca, verify=found.verify)}


@contextlib.contextmanager
def _certificates(where: str, whose: str) -> Iterator[None]:
    try:
        yield
    except DockerException as error:
        cure = f"{whose} a folder of ca.pem, cert.pem and key.pem"
        words = " ".join(str(error).split())
        raise EnvironmentLacking(f"its certificates can't be used: {words}", where=where, cure=cure) from None


def is_local(where: str) -> bool:
    """Whether an engine at this address sees the files of this machine."""
    return where.partition("://")[0] in LOCAL


def _knock(where: str) -> None:
    """Try a local socket before the SDK does, which leaves one open when nobody answers."""
    kind, _, path = where.partition("://")
    if kind in LOCAL and hasattr(socket, "AF_UNIX"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.connect(path)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
