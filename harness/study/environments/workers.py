"""Workers in containers, one a run: no network, nothing writable but a small /tmp, nobody's rights."""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path

from harness import protocol
from harness.protocol import Task
from harness.study.environments import container, image_build, images, process, sandbox
from harness.study.environments.base import HostLost
from harness.study.environments.container import Engine
from harness.study.environments.process import ContainerProcess
from harness.study.environments.sandbox import Owner
from harness.terms import DeviceKind, EngineKind, EnvironmentKind


class ContainerEnvironment:
    """Starts each worker in a fresh container, so in a fresh cgroup."""

    kind = EnvironmentKind.CONTAINER

    def __init__(
        self, engine: Engine, image_id: str, build_id: str, device: DeviceKind, *, close_engine: bool = True
    ) -> None:
        self.image_digest = image_id
        fake = build_id == EngineKind.FAKE.value  # needs no weights, and what its image holds does not matter
        self.build_id = build_id if fake else f"{build_id}; image {image_id}"
        self._engine = engine
        self._device = device
        self._close_engine = close_engine  # not where others still speak to it
        self._owner = Owner.this()
        self._processes: weakref.WeakSet[ContainerProcess] = weakref.WeakSet()

    def start(self, task: Task) -> ContainerProcess:
        """Start a worker and hand it its task.

        Raises:
            EnvironmentLacking: the engine refuses.
        """
        here = self._engine.is_local
        cpus = sandbox.usable_cpus() if here else ""
        worker = process.launch(
            self._engine,
            self.image_digest,
            host=sandbox.host_options(task, self._device, cpus, remote=not here),
            labels=self._owner.labels(task.spec.run_id),
            user=sandbox.user_for(task) if here else sandbox.IMAGE_USER,
        )
        self._processes.add(worker)
        with contextlib.suppress(BrokenPipeError):  # it died at once: the runner reads that from the event stream
            worker.write(protocol.encode(sandbox.inside(task)))
        return worker

    def close(self) -> None:
        """End and remove what was started here, and let go of the engine."""
        with contextlib.suppress(HostLost):  # what is left there is removed by the next study
            for worker in tuple(self._processes):
                worker.kill()
            for worker in tuple(self._processes):
                worker.wait()
        if self._close_engine:
            self._engine.close()


def environment(root: Path, build_id: str, device: DeviceKind = DeviceKind.CPU) -> ContainerEnvironment:
    """The environment for a device of this machine, with what earlier runs left behind removed.

    Raises:
        EnvironmentLacking: no engine, no image, an image of another state of this checkout, no permission.
    """
    known = images.load(root)
    name, image = known.for_device(device)
    with contextlib.ExitStack() as on_failure:
        engine = container.connect(known.minimum_api)
        on_failure.callback(engine.close)
        image_build.require_device(engine.information(), image)
        image_id = image_build.find(engine, root, name, device)
        remove_leftovers(engine, Owner.this())
        on_failure.pop_all()
    return ContainerEnvironment(engine, image_id, build_id, device)


def remove_leftovers(engine: Engine, owner: Owner, *, own: bool = False) -> tuple[str, ...]:
    """Remove containers whose starter on this machine is gone; the ids of those removed.

    own: also those of this very process, which a dropped connection left behind.
    """
    ours = engine.labelled(f"{sandbox.LABEL_MACHINE}={owner.machine}")
    left = [container_id for container_id, labels in ours if owner.may_remove(labels) or (own and owner.owns(labels))]
    for container_id in left:
        engine.remove(container_id)
    return tuple(left)
