"""Where a study runs, as far as the study has to know: this machine, or another one reached through its engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from harness.errors import UsageError
from harness.options import AUTO, StudyOptions
from harness.study import detect_device, power_mode, prepare
from harness.study.environments.base import Environment
from harness.study.plan import Machine, ModelKey
from harness.study.sampler import SamplerHandle
from harness.study.weights import Listener, Located
from harness.telemetry_protocol import Start
from harness.terms import DeviceKind, EnvironmentKind

Say = Callable[[str], None]


class View(Protocol):
    """The files and programs of the machine that is measured."""

    @property
    def root(self) -> Path:
        """Stands for its "/"."""

    @property
    def offset_ns(self) -> int:
        """Its monotonic clock less ours."""

    def refresh(self) -> None:
        """Look again."""

    def pause(self, seconds: float) -> None:
        """Let time pass there, then look again."""

    def ask(self, command: Sequence[str]) -> str | None:
        """What a program prints; None where that can't be told."""


class OwnView:
    """This machine: always as it is."""

    root = Path("/")
    offset_ns = 0

    def refresh(self) -> None:
        """Nothing to do."""

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def ask(self, command: Sequence[str]) -> str | None:
        """Run it."""
        return power_mode.ask_program(command)


class Site(Protocol):
    """A machine that a study runs on."""

    @property
    def view(self) -> View:
        """Its files and programs."""

    def device(self) -> DeviceKind:
        """As what it is used; UsageError or EnvironmentLacking when it is not what was asked for."""

    def machine(self) -> Machine:
        """What of it shapes a plan."""

    def environment(self) -> Environment:
        """Where its workers run."""

    def bring(self, located: Mapping[ModelKey, Located], listener: Listener) -> None:
        """Bring weights there from this disk; IntegrityError when other bytes arrive."""

    def set_power_mode(self, name: str) -> None:
        """Set it and read it back; EnvironmentLacking when another one stands."""

    def sampler(self, request: Start) -> SamplerHandle:
        """Start a sampler there; SamplerLost."""

    def close(self) -> None:
        """Let go of it."""


class Here:
    """This machine, natively or in containers of its own engine."""

    def __init__(self, root: Path, options: StudyOptions) -> None:
        self._root = root
        self._options = options
        self.view = OwnView()

    def device(self) -> DeviceKind:
        """By name, or as detected."""
        wanted = device_named(self._options.device)
        if wanted is None:
            return detect_device.detect()
        if not self._options.fake:
            detect_device.require(wanted)
        return wanted

    def machine(self) -> Machine:
        """Physical cores that this process may run on."""
        physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
        threads = max(1, min(physical, affinity))
        return Machine(threads=threads, memory_available_bytes=psutil.virtual_memory().available)

    def environment(self) -> Environment:
        """As the options say."""
        return prepare.environment(self._root, self._options)

    def bring(self, located: Mapping[ModelKey, Located], listener: Listener) -> None:
        """They are here."""

    def set_power_mode(self, name: str) -> None:
        """Through nvpmodel."""
        power_mode.set_nvpmodel(name)

    def sampler(self, request: Start) -> SamplerHandle:
        """A child process."""
        return SamplerHandle.start(request)

    def close(self) -> None:
        """Nothing is held."""


def device_named(name: str) -> DeviceKind | None:
    """The device that was asked for; None for `auto`.

    Raises:
        UsageError: there is none of that name.
    """
    if name == AUTO:
        return None
    try:
        return DeviceKind(name)
    except ValueError:
        known = ", ".join((AUTO, *(kind.value for kind in DeviceKind)))
        raise UsageError(f"there is no device {name!r}", where="--device", cure=f"one of {known}") from None


def open_site(root: Path, options: StudyOptions, say: Say) -> Site:
    """The machine of --host, else that of an engine elsewhere that DOCKER_HOST or a context names, else this one.

    Raises:
        EnvironmentLacking: it can't be reached, or lacks something.
    """
    if options.host:
        from harness.study.environments import remote  # noqa: PLC0415 - docker loads only where it is used

        return remote.RemoteSite.open(root, options, options.host, say)
    if options.environment is EnvironmentKind.CONTAINER:
        from harness.study.environments import container, remote  # noqa: PLC0415

        if not container.is_local(str(container.address()["base_url"])):
            return remote.RemoteSite.open(root, options, "", say)
    return Here(root, options)
