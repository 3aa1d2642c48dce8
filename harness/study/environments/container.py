"""Workers in containers, one a run; the only module that speaks to a Docker engine.

Commands go to the attached stdin, events come from stdout, the log from stderr: the same over a local socket, TCP and
ssh. The engine is the one that the `docker` command would use: DOCKER_HOST, else the current context.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
from docker.context import ContextAPI
from docker.errors import APIError, ImageNotFound, NotFound
from docker.utils import kwargs_from_env

from harness import protocol
from harness.errors import EnvironmentLacking
from harness.protocol import Task
from harness.study import detect_device, provenance
from harness.study.environments import engine_errors, images, sandbox
from harness.study.environments.attached import Demultiplexer, Stream
from harness.study.environments.base import Exit
from harness.study.environments.images import BuildOptions, Image, Images
from harness.study.environments.sandbox import Owner
from harness.terms import DeviceKind, EngineKind, EnvironmentKind, Origin
from harness.units import human_bytes

ENGINE_TIMEOUT_S = 60
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
STOP_WAIT_S = 10.0
KILL_WAIT_S = 20.0
STACK_WAIT_S = 0.5
OOM_WORD_S = 2.0  # the engine hears of a kill for memory and of the process's end on two ways
SIGNAL_BASE = 128  # a shell's and an engine's way to write "ended by signal N" as an exit code

OnLine = Callable[[str], None]


class ContainerProcess:
    """One worker in a container of its own, which is removed when its end has been read."""

    def __init__(self, api: Any, container_id: str, stream: Stream) -> None:
        self.container_id = container_id
        self._api = api
        self._stream = stream
        self._demultiplexer = Demultiplexer()
        self._killed_by_us = False
        self._exit: Exit | None = None

    def write(self, data: bytes) -> None:
        """Send a line."""
        try:
            self._stream.send(data)
        except OSError as error:
            raise BrokenPipeError(f"the worker's input is closed: {error}") from None

    def read_line(self, timeout_s: float) -> bytes:
        """Next line; empty at the end."""
        deadline = time.monotonic() + timeout_s
        while (line := self._demultiplexer.line()) is None:
            data = self._stream.receive(deadline - time.monotonic())
            if data is None:
                raise TimeoutError
            if not data:
                return self._demultiplexer.rest()
            self._demultiplexer.feed(data)
        return line

    def kill(self) -> None:
        """SIGKILL to everything in the container."""
        if self._exit is None:
            self._killed_by_us = self._signal("SIGKILL") or self._killed_by_us

    def dump_stack(self) -> None:
        """SIGUSR1 makes faulthandler write all stacks."""
        self._signal("SIGUSR1")
        self._drain(STACK_WAIT_S)

    def wait(self) -> Exit:
        """Close its input, give it some seconds, then kill it; read how it ended, remove the container."""
        if self._exit is None:
            self._stream.end_input()
            if not self._drain(STOP_WAIT_S):
                self.kill()
                self._drain(KILL_WAIT_S)
            try:
                self._exit = self._read_exit()
            finally:
                self._stream.close()
                remove(self._api, self.container_id)
        return self._exit

    def last_words(self) -> str:
        """Tail of stderr."""
        return self._demultiplexer.tail()

    def _drain(self, timeout_s: float) -> bool:
        """Take what comes until the end of the stream, which is the end of the container; False: not in time."""
        deadline = time.monotonic() + timeout_s
        while (data := self._stream.receive(deadline - time.monotonic())) is not None:
            if not data:
                return True
            self._demultiplexer.feed(data)
        return False

    def _signal(self, name: str) -> bool:
        """Whether it was still there to be sent one."""
        try:
            self._api.kill(self.container_id, name)
        except APIError:  # it has ended
            return False
        return True

    def _read_exit(self) -> Exit:
        code = int(self._api.wait(self.container_id, timeout=ENGINE_TIMEOUT_S)["StatusCode"])
        if code <= SIGNAL_BASE:
            return Exit(code, None, oom_killed=False)
        number = code - SIGNAL_BASE
        by_kernel = number == signal.SIGKILL and not self._killed_by_us and self._was_killed_for_memory()
        return Exit(None, number, oom_killed=by_kernel)

    def _was_killed_for_memory(self) -> bool:
        deadline = time.monotonic() + OOM_WORD_S
        while not self._api.inspect_container(self.container_id)["State"]["OOMKilled"]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


class ContainerEnvironment:
    """Starts each worker in a fresh container: no network, nothing writable but a small /tmp, nobody's rights."""

    kind = EnvironmentKind.CONTAINER

    def __init__(self, client: Any, image_id: str, build_id: str, device: DeviceKind) -> None:
        self.image_digest = image_id
        fake = build_id == EngineKind.FAKE.value  # needs no weights, and what its image holds does not matter
        self.build_id = build_id if fake else f"{build_id}; image {image_id}"
        self._client = client
        self._api = client.api
        self._device = device
        self._owner = Owner.this()
        self._processes: weakref.WeakSet[ContainerProcess] = weakref.WeakSet()

    def start(self, task: Task) -> ContainerProcess:
        """Start a worker and hand it its task.

        Raises:
            EnvironmentLacking: the engine refuses.
        """
        container_id = self._create(task)
        try:
            way = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            stream = Stream(self._api.attach_socket(container_id, params=way))
            self._api.start(container_id)
        except APIError as error:
            remove(self._api, container_id)
            raise engine_errors.refused(_words(error)) from None
        process = ContainerProcess(self._api, container_id, stream)
        self._processes.add(process)
        with contextlib.suppress(BrokenPipeError):  # it died at once: the runner reads that from the event stream
            process.write(protocol.encode(sandbox.inside(task)))
        return process

    def _create(self, task: Task) -> str:
        cpus = sandbox.usable_cpus() if _is_local(self._client) else ""
        options = sandbox.host_options(task, self._device, cpus)
        try:
            created = self._api.create_container(
                self.image_digest,
                stdin_open=True,  # and closed by the engine when this process is gone: the worker then ends
                user=sandbox.user_for(task),
                labels=self._owner.labels(task.spec.run_id),
                host_config=self._api.create_host_config(**options),
            )
        except APIError as error:
            raise engine_errors.refused(_words(error)) from None
        return str(created["Id"])

    def close(self) -> None:
        """End and remove what this process has started, and let go of the engine."""
        for process in tuple(self._processes):
            process.kill()
            process.wait()
        for container_id, labels in _ours(self._api, self._owner):
            if self._owner.owns(labels):
                remove(self._api, container_id)
        self._client.close()


def environment(root: Path, build_id: str, device: DeviceKind = DeviceKind.CPU) -> ContainerEnvironment:
    """The environment for a device, with what earlier runs left behind removed.

    Raises:
        EnvironmentLacking: no engine, no image, an image of another state of this checkout, no permission.
    """
    known = images.load(root)
    name, image = known.for_device(device)
    with contextlib.ExitStack() as on_failure:
        client = connect(known.minimum_api)
        on_failure.callback(client.close)
        require_device(client, image)
        image_id = _find_image(client, root, name, device)
        remove_leftovers(client, Owner.this())
        on_failure.pop_all()
    return ContainerEnvironment(client, image_id, build_id, device)


def connect(minimum_api: str) -> Any:
    """A client of the engine that the `docker` command would use.

    Raises:
        EnvironmentLacking: none answers, no permission, or it is too old.
    """
    where = "Docker"
    try:
        where = address()
        _knock(where)
        client = docker.from_env(timeout=ENGINE_TIMEOUT_S)
        version = client.version()
    except Exception as error:  # noqa: BLE001 - ssh transports raise errors of their own
        raise engine_errors.unreachable(error, where) from None
    if _number(str(version["ApiVersion"])) < _number(minimum_api):
        client.close()
        what = f"the engine is {version['Version']} (API {version['ApiVersion']}), API {minimum_api} is needed"
        raise EnvironmentLacking(what, where=where, cure="install Docker Engine 20.10 or later")
    return client


def address() -> str:
    """Of the engine that the `docker` command would use: DOCKER_HOST, else the current context's."""
    asked = kwargs_from_env().get("base_url")
    return str(asked or ContextAPI.kwargs_from_context().get("base_url") or DEFAULT_ADDRESS)


def _knock(where: str) -> None:
    """Try a local socket before the SDK does, which leaves one open when nobody answers."""
    kind, _, path = where.partition("://")
    if kind in ("unix", "http+unix"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.connect(path)


def require_device(client: Any, image: Image, root: Path = Path("/")) -> None:
    """Refuse an engine or a board that can't give an image its device.

    Raises:
        EnvironmentLacking: no runtime `nvidia`, or a Jetson Linux whose driver does not fit.
    """
    information = client.info()
    if image.device in (DeviceKind.JETSON, DeviceKind.CUDA) and "nvidia" not in information.get("Runtimes", {}):
        where = str(information.get("Name", ""))
        raise EnvironmentLacking("the engine has no runtime `nvidia`", where=where, cure=engine_errors.RUNTIME_CURE)
    if not image.l4t_release:
        return
    release = detect_device.l4t_release(root)
    if release is None or release[0] != image.l4t_release:
        found = f"R{release[0]} revision {release[1]}" if release else "not told"
        what = f"Jetson Linux is {found}, the image is made for R{image.l4t_release}"
        raise EnvironmentLacking(what, where="/etc/nv_tegra_release", cure="install JetPack 6, or use --env native")


def build(root: Path, device: DeviceKind, options: BuildOptions, on_line: OnLine) -> str:
    """Build a device's image; the engine's words go to `on_line` as they come.

    Returns:
        The image's id, a digest of its configuration and layers.

    Raises:
        EnvironmentLacking: no engine, no space, no base, or a step failed.
        UsageError: no wheelhouse where one was named.
    """
    known = images.load(root)
    name, image = known.for_device(device)
    client = connect(known.minimum_api)
    try:
        _require_space(client, image)
        with tempfile.TemporaryFile() as context:
            images.write_context(root, known, name, options, context)
            context.seek(0)
            for line in _build_lines(client, root, known, name, options, context):
                on_line(line)
        return str(client.images.get(images.tag(name)).id)
    except APIError as error:
        raise engine_errors.refused(_words(error)) from None
    finally:
        client.close()


def _build_lines(
    client: Any, root: Path, known: Images, name: str, options: BuildOptions, context: Any
) -> Iterator[str]:
    facts = provenance.study_facts(root, "", Origin.MEASURED)
    commit = facts.git_commit + ("-dirty" if facts.git_dirty else "")
    answers = client.api.build(
        fileobj=context,
        custom_context=True,
        dockerfile=images.dockerfile(name),
        tag=images.tag(name),
        buildargs=images.build_args(root, known, name, options, commit),
        network_mode="none" if options.wheelhouse is not None else None,
        rm=True,
        forcerm=True,
        decode=True,
    )
    failure = ""
    for answer in answers:  # to the end also after a failure, so that the connection is given back
        failure = failure or str(answer.get("error", "")).strip()
        text = str(answer.get("stream") or answer.get("status") or "").strip()
        if text:
            yield text
    if failure:
        raise engine_errors.failed_build(failure, images.dockerfile(name))


def engine_summary(root: Path, device: DeviceKind) -> str:
    """One line about the engine and the device's image.

    Raises:
        EnvironmentLacking: as for `environment`.
    """
    known = images.load(root)
    name, image = known.for_device(device)
    client = connect(known.minimum_api)
    try:
        require_device(client, image)
        image_id = _find_image(client, root, name, device)
        return f"engine {client.version()['Version']}, image {image_id[:19]}"
    finally:
        client.close()


def remove_leftovers(client: Any, owner: Owner) -> tuple[str, ...]:
    """Remove containers whose starter on this machine is gone; the ids of those removed."""
    left = [container_id for container_id, labels in _ours(client.api, owner) if owner.may_remove(labels)]
    for container_id in left:
        remove(client.api, container_id)
    return tuple(left)


def remove(api: Any, container_id: str) -> None:
    """Remove a container, running or not; harmless when it is gone or going."""
    with contextlib.suppress(NotFound):
        try:
            api.remove_container(container_id, force=True, v=True)
        except APIError as error:
            if error.status_code != 409:  # another call removes it at this moment
                raise


def _ours(api: Any, owner: Owner) -> list[tuple[str, Mapping[str, str]]]:
    marked = {"label": f"{sandbox.LABEL_MACHINE}={owner.machine}"}
    return [(str(found["Id"]), found["Labels"]) for found in api.containers(all=True, filters=marked)]


def _find_image(client: Any, root: Path, name: str, device: DeviceKind) -> str:
    cure = f"./artifact build --device {device.value}"
    try:
        image = client.images.get(images.tag(name))
    except ImageNotFound:
        raise EnvironmentLacking("the image has not been built", where=images.tag(name), cure=cure) from None
    if image.labels.get(images.LABEL_CONTEXT) != images.context_sha256(root, name):
        what = "the image was built from another state of this checkout"
        raise EnvironmentLacking(what, where=images.tag(name), cure=cure)
    return str(image.id)


def _is_local(client: Any) -> bool:
    return str(client.api.base_url).startswith("http+docker://localhost")


def _require_space(client: Any, image: Image) -> None:
    folder = Path(str(client.info().get("DockerRootDir", "")))
    if not _is_local(client) or not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    if free < image.needed_bytes:
        what = f"{human_bytes(free)} are free, a build takes {human_bytes(image.needed_bytes)}"
        raise EnvironmentLacking(
            what, where=str(folder), cure="free some space, for instance with `docker system prune`"
        )


def _words(error: APIError) -> str:
    return str(error.explanation or error)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
