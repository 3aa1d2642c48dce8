"""Another machine, reached through its Docker engine alone: planned here, measured there, recorded here.

Nothing is installed on it and nothing but the engine has to be open to us: workers, the sampler and the process that
looks at its files run in containers of the bundle's image; weights lie in volumes, one a model, named by their hash.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentLacking
from harness.options import StudyOptions
from harness.study import power_mode, prepare
from harness.study.environments import container, image_build, images, process, sandbox, workers
from harness.study.environments.base import Environment, HostLost
from harness.study.environments.container import Engine
from harness.study.environments.images import BuildOptions
from harness.study.environments.process import ContainerProcess
from harness.study.environments.remote_view import RemoteView, start_view
from harness.study.environments.sandbox import Owner
from harness.study.environments.volumes import Volumes
from harness.study.environments.workers import ContainerEnvironment
from harness.study.plan import Machine, ModelKey
from harness.study.sampler import SamplerHandle
from harness.study.site import Say, device_named
from harness.study.weights import Listener, Located
from harness.telemetry_protocol import Start
from harness.terms import DeviceKind

SAMPLER = "harness.measure.telemetry"
TITLES = {
    DeviceKind.CPU: "a machine whose engine has no accelerator",
    DeviceKind.CUDA: "a machine whose engine has the runtime `nvidia`",
    DeviceKind.JETSON: "an NVIDIA Jetson",
    DeviceKind.MAC: "a Mac",
}


class ContainerPipe:
    """A sampler in a container: lost alone it costs telemetry, lost with its host it ends the study."""

    pid = 0

    def __init__(self, engine: Engine, running: ContainerProcess) -> None:
        self._engine = engine
        self._process = running

    def send(self, line: bytes) -> None:
        """Through the attached stream."""
        self._process.write(line)

    def line(self, timeout_s: float) -> bytes:
        """The next line; HostLost when there is none because the engine is gone."""
        try:
            line = self._process.read_line(timeout_s)
        except TimeoutError:
            self._engine.version()
            raise
        if not line:
            self._engine.version()
        return line

    def kill(self) -> None:
        """SIGKILL, then remove the container."""
        self._process.kill()
        self.end()

    def end(self) -> None:
        """Its input ends, so it ends."""
        with contextlib.suppress(HostLost):  # the host took it along
            self._process.wait()


class RemoteSite:
    """A machine that answers through its engine; use `open`."""

    def __init__(self, options: StudyOptions, engine: Engine, device: DeviceKind, image_id: str) -> None:
        self._options = options
        self._engine = engine
        self._device = device
        self._image_id = image_id
        self._owner = Owner.this()
        self._folder = tempfile.TemporaryDirectory(prefix="moe-view-")
        self.view: RemoteView

    @classmethod
    def open(cls, root: Path, options: StudyOptions, address: str, say: Say) -> RemoteSite:
        """Connect, build the image where it is lacking, remove what earlier studies left, and look around.

        Args:
            root: of the checkout.
            options: of the study.
            address: of the engine; empty: that of the `docker` command.
            say: told what the engine does.

        Raises:
            EnvironmentLacking: not reachable, not allowed, no engine, another device, or the build failed.
        """
        known = images.load(root)
        with contextlib.ExitStack() as on_failure:
            engine = container.connect(known.minimum_api, address)
            on_failure.callback(engine.close)
            device = device_of(engine.information(), options.device, engine.where)
            name, image = known.for_device(device)
            image_build.require_device(engine.information(), image, None)
            site = cls(options, engine, device, _image(engine, root, name, device, say))
            on_failure.callback(site._folder.cleanup)
            workers.remove_leftovers(engine, site._owner, own=True)
            site.view = start_view(engine, site._image_id, site._owner, device, Path(site._folder.name))
            on_failure.callback(site.view.close)
            image_build.require_device(engine.information(), image, site.view.root)
            on_failure.pop_all()
        return site

    def device(self) -> DeviceKind:
        """As its engine tells."""
        return self._device

    def machine(self) -> Machine:
        """As a process over there sees it."""
        return self.view.machine

    def environment(self) -> Environment:
        """Workers over there."""
        build_id = prepare.build_id(self._options)
        return ContainerEnvironment(self._engine, self._image_id, build_id, self._device, close_engine=False)

    def bring(self, located: Mapping[ModelKey, Located], listener: Listener) -> None:
        """Upload what is not there yet; the hash is taken over there."""
        if not self._options.fake:
            Volumes(self._engine, self._image_id, self._owner).bring(located.values(), listener)

    def set_power_mode(self, name: str) -> None:
        """A container can't set it: it must stand already."""
        standing = power_mode.current_nvpmodel(self.view.ask)
        if standing == name:
            return
        number = power_mode.nvpmodel_modes(self.view.root).get(name)
        cure = f"there: sudo nvpmodel -m {number}" if number is not None else "this board has no such mode"
        raise EnvironmentLacking(f"power mode {name} is needed, {standing} stands", where=self._engine.where, cure=cure)

    def sampler(self, request: Start) -> SamplerHandle:
        """In a container of its own, as shut as a worker's; /sys can be read in it."""
        running = process.launch(
            self._engine,
            self._image_id,
            host=sandbox.shut() | sandbox.accelerator(self._device, None),
            labels=self._owner.labels("sampler"),
            user=sandbox.IMAGE_USER,
            module=SAMPLER,
        )
        return SamplerHandle.over(ContainerPipe(self._engine, running), request)

    def close(self) -> None:
        """End the process that looks, and let go of the engine."""
        self.view.close()
        self._engine.close()
        self._folder.cleanup()


def device_of(information: Mapping[str, Any], wanted: str, where: str) -> DeviceKind:
    """What kind of machine an engine runs on; its kernel and runtimes tell.

    Raises:
        UsageError: there is no device of the wanted name.
        EnvironmentLacking: it is another one than wanted.
    """
    if "tegra" in str(information.get("KernelVersion", "")):
        found = DeviceKind.JETSON
    else:
        found = DeviceKind.CUDA if "nvidia" in information.get("Runtimes", {}) else DeviceKind.CPU
    named = device_named(wanted)
    if named is None or named is found:
        return found
    if named is DeviceKind.CPU:
        return named
    what = f"this is {TITLES[found]}, not {TITLES[named]}"
    raise EnvironmentLacking(what, where=where, cure=f"name another --host, or use --device {found.value}")


def _image(engine: Engine, root: Path, name: str, device: DeviceKind, say: Say) -> str:
    """Its id; built over there where it is lacking or of another state of this checkout."""
    try:
        return image_build.find(engine, root, name, device)
    except HostLost:
        raise
    except EnvironmentLacking as lacking:
        say(f"{lacking.what}: building it on {engine.where}")
    return image_build.build_on(engine, root, device, BuildOptions(), say)
