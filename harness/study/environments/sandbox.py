"""What a container of ours may do, and how containers of ours are known; nothing here speaks to an engine."""

from __future__ import annotations

import grp
import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness import hostfiles
from harness.errors import EnvironmentLacking
from harness.protocol import Task
from harness.terms import DeviceKind, EngineKind

LABEL_MACHINE = "moe-bundle.owner-machine"
LABEL_PID = "moe-bundle.owner-pid"
LABEL_STARTED = "moe-bundle.owner-started"
LABEL_RUN = "moe-bundle.run"
MODEL_FOLDER = "/model"
TMPFS_BYTES = 64 << 20
MAXIMUM_PROCESSES = 512
IMAGE_USER = "10001:10001"
SOCKET = "run/jtop.sock"
RELEASE = "etc/nv_tegra_release"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that started a container."""

    machine: str  # hashed: labels can be read by everyone who may use the engine
    pid: int
    started: str

    @classmethod
    def this(cls, root: Path = Path("/")) -> Owner:
        """This process on this machine."""
        known = f"{hostfiles.read_text(root / 'etc/machine-id') or ''}|{platform.node()}"
        machine = hashlib.sha256(known.encode()).hexdigest()[:16]
        return cls(machine=machine, pid=os.getpid(), started=_started(os.getpid(), root) or "")

    def labels(self, run_id: str) -> dict[str, str]:
        """What a container of this owner bears."""
        return {LABEL_MACHINE: self.machine, LABEL_PID: str(self.pid), LABEL_STARTED: self.started, LABEL_RUN: run_id}

    def owns(self, labels: Mapping[str, str]) -> bool:
        """Whether this very process started it."""
        return all(labels.get(name) == value for name, value in self.labels(labels.get(LABEL_RUN, "")).items())

    def may_remove(self, labels: Mapping[str, str]) -> bool:
        """Whether it was left behind: started on this machine by a process that is gone."""
        if labels.get(LABEL_MACHINE) != self.machine or not labels.get(LABEL_PID, "").isdecimal():
            return False
        return _started(int(labels[LABEL_PID])) != labels.get(LABEL_STARTED)


def _started(pid: int, root: Path = Path("/")) -> str | None:
    """When a process began: a number that comes again by chance does not pass for it.

    On Linux in ticks since boot: a time of day would change when the clock is set, and a living runner pass for gone.
    """
    if stat := hostfiles.read_text(root / f"proc/{pid}/stat"):
        return stat.rpartition(")")[2].split()[19]  # field 22; the name in parentheses may hold anything
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return None


def inside(task: Task) -> Task:
    """The task with the path that its weights have in the container."""
    if not _has_weights(task):
        return task
    return Task(spec=task.spec, model_path=f"{MODEL_FOLDER}/{Path(task.model_path).name}", prompt_text=task.prompt_text)


def host_options(
    task: Task, device: DeviceKind, cpus: str, root: Path = Path("/"), *, remote: bool = False
) -> dict[str, Any]:
    """Options of a worker's host configuration, in the words of the Docker SDK.

    Args:
        task: which weights, and which memory limit.
        device: decides about GPU access.
        cpus: list of CPUs as cpuset writes it; empty: all.
        root: stands for "/".
        remote: the engine is another machine's: weights lie there in a volume, and nothing is known of its files.
    """
    limit = task.spec.settings.memory_limit_bytes
    mounts = _volume_of(task) if remote else _mounts(task, device, root)
    options = shut() | {"mounts": mounts}
    if limit:
        options |= {"mem_limit": limit, "memswap_limit": limit}
    if cpus:
        options["cpuset_cpus"] = cpus
    return options | accelerator(device, None if remote else root)


def shut() -> dict[str, Any]:
    """What every container of ours is denied."""
    return {
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,  # the worker is not process 1, so that signals mean to it what they mean elsewhere
        "pids_limit": MAXIMUM_PROCESSES,
        "tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,size={TMPFS_BYTES}"},  # noqa: S108 - inside the container
        "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "log_config": {"type": "none"},  # events pass through the attached stream; the engine keeps no second copy
    }


def volume(sha256: str) -> str:
    """Name of the volume that holds one model on another machine."""
    return f"moe-bundle-{sha256[:16]}"


def _volume_of(task: Task) -> list[dict[str, object]]:
    if not _has_weights(task):
        return []
    name = volume(task.spec.model.sha256)
    return [{"Type": "volume", "Source": name, "Target": MODEL_FOLDER, "ReadOnly": True}]


def _has_weights(task: Task) -> bool:
    return bool(task.model_path) and task.spec.engine is not EngineKind.FAKE


def _mounts(task: Task, device: DeviceKind, root: Path) -> list[dict[str, object]]:
    found = []
    if _has_weights(task):
        source = Path(task.model_path).resolve()
        found.append(read_only(source, f"{MODEL_FOLDER}/{Path(task.model_path).name}"))
    if device is DeviceKind.JETSON:
        names = [name for name in (SOCKET, RELEASE) if (root / name).exists()]
        found += [read_only(root / name, f"/{name}") for name in names]
    return found


def read_only(source: Path, target: str) -> dict[str, object]:
    """A file or folder of the engine's machine, not to be written to."""
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}


def accelerator(device: DeviceKind, root: Path | None) -> dict[str, Any]:
    """A Jetson's GPU comes with the runtime `nvidia`, never by device requests (they fail in its csv mode).

    root: stands for "/"; None: of another machine, whose groups are not known.
    """
    if device is DeviceKind.CUDA:
        return {"device_requests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]}
    if device is not DeviceKind.JETSON:
        return {}
    options: dict[str, Any] = {"runtime": "nvidia"}
    if root is None:
        return options
    try:
        options["group_add"] = [(root / SOCKET).stat().st_gid]
    except FileNotFoundError:
        with_group = [group.gr_gid for group in grp.getgrall() if group.gr_name == "jtop"]
        options |= {"group_add": with_group} if with_group else {}
    return options


def user_for(task: Task) -> str:
    """Who the worker is: never root; the user of this process where that is somebody else.

    Raises:
        EnvironmentLacking: the weights can't be read by that user.
    """
    if os.getuid() != 0:
        return f"{os.getuid()}:{os.getgid()}"
    if _has_weights(task) and not Path(task.model_path).stat().st_mode & 0o004:
        raise EnvironmentLacking(
            "only its owner may read it, and the worker in the container is another user",
            where=task.model_path,
            cure=f"chmod o+r {task.model_path}",
        )
    return IMAGE_USER


def usable_cpus() -> str:
    """The CPUs that a native worker would have, as cpuset writes them; empty where all are."""
    if not hasattr(os, "sched_getaffinity"):
        return ""
    usable = os.sched_getaffinity(0)
    return "" if len(usable) == os.cpu_count() else ",".join(str(cpu) for cpu in sorted(usable))
