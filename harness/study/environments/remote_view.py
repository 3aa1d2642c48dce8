"""The files of another machine that gates, power modes and the plan look at, mirrored into a folder of this one."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from harness import view_protocol
from harness.clock import now_ns
from harness.errors import EnvironmentLacking
from harness.study import power_mode
from harness.study.environments import process, sandbox
from harness.study.environments.base import HostLost
from harness.study.environments.container import Engine
from harness.study.environments.process import ContainerProcess
from harness.study.environments.sandbox import Owner
from harness.study.plan import Machine
from harness.terms import DeviceKind
from harness.view_protocol import Answer, Look, Question, Sight

VIEW = "harness.measure.view"
ANSWER_S = 60.0
PATTERNS = (
    "/proc/stat",
    "/proc/meminfo",
    "/etc/nv_tegra_release",
    "/etc/nvpmodel.conf",
    "/var/lib/nvpmodel/status",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/thermal/cooling_device*/type",
    "/sys/class/thermal/cooling_device*/cur_state",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/temp1_input",
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_*",
    "/sys/class/devfreq/*/m??_freq",
    "/sys/class/power_supply/*/type",
    "/sys/class/power_supply/*/online",
)
BOARD_FILES = ("/etc/nv_tegra_release", "/etc/nvpmodel.conf", "/var/lib/nvpmodel")
_MODE = re.compile(r"pmode:(\d+)")


class RemoteView:
    """A mirror that is refreshed on demand; HostLost when nobody answers any more."""

    def __init__(self, looking: ContainerProcess, folder: Path, where: str) -> None:
        self._process = looking
        self._where = where
        self.root = folder
        self.offset_ns = 0
        self.machine: Machine
        self.refresh()

    def refresh(self) -> None:
        """Mirror the files as they are now, and compare the clocks: exact to half the way there and back."""
        before_ns = now_ns()
        sight = ask(self._process, Look(patterns=PATTERNS), self._where)
        if not isinstance(sight, Sight):
            raise HostLost(f"expected a sight, heard {type(sight).__name__}", where=self._where)
        self.offset_ns = sight.now_ns - (before_ns + now_ns()) // 2
        self.machine = Machine(threads=sight.cores, memory_available_bytes=sight.memory_available_bytes)
        mirror(sight.files, self.root)

    def pause(self, seconds: float) -> None:
        """Wait, then look again."""
        time.sleep(seconds)
        self.refresh()

    def ask(self, command: Sequence[str]) -> str | None:
        """Only `nvpmodel -q` can be told, from the file in which nvpmodel keeps its state."""
        if list(command) != ["nvpmodel", "-q"]:
            return None
        status = self.root / "var/lib/nvpmodel/status"
        found = _MODE.search(status.read_text(encoding="utf-8")) if status.exists() else None
        names = {number: name for name, number in power_mode.nvpmodel_modes(self.root).items()}
        name = names.get(int(found[1])) if found else None
        return f"NV Power Mode: {name}" if name else None

    def close(self) -> None:
        """End the process over there."""
        try:
            self._process.wait()
        except HostLost:
            return


def mirror(files: dict[str, str], folder: Path) -> None:
    """Make a folder hold exactly these files; names that would leave it are none of a machine's."""
    for entry in folder.iterdir():
        shutil.rmtree(entry)
    for name, text in files.items():
        path = folder / name.lstrip("/")
        if ".." in path.parts:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def ask(looking: ContainerProcess, question: Question, where: str, timeout_s: float = ANSWER_S) -> Answer:
    """One question to a process that runs `harness.measure.view`.

    Raises:
        HostLost: no answer.
    """
    try:
        looking.write(view_protocol.encode(question))
        return view_protocol.decode_answer(looking.read_line(timeout_s))
    except (OSError, TimeoutError, ValueError, RecursionError) as error:
        words = looking.last_words().strip()[-300:] or str(error) or type(error).__name__
        raise HostLost(
            f"the process that looks at the machine does not answer ({words})",
            where=where,
            cure="finished runs are kept; go on with --resume",
        ) from None


def start_view(engine: Engine, image_id: str, owner: Owner, device: DeviceKind, folder: Path) -> RemoteView:
    """Start the process over there and look once; of a board's own files those are mounted that exist."""
    names: tuple[str, ...] = BOARD_FILES if device is DeviceKind.JETSON else ()
    while True:
        mounts = [sandbox.read_only(Path(name), name) for name in names]
        try:
            looking = process.launch(
                engine,
                image_id,
                host=sandbox.shut() | {"mounts": mounts},
                labels=owner.labels("view"),
                user=sandbox.IMAGE_USER,
                module=VIEW,
            )
            break
        except HostLost:
            raise
        except EnvironmentLacking as refused:
            there = tuple(name for name in names if name not in refused.what)
            if there == names:
                raise
            names = there
    try:
        return RemoteView(looking, folder, engine.where)
    except HostLost:
        looking.wait()
        raise
