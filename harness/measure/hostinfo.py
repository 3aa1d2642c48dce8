"""What the measured process knows of its build and its host."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

import psutil

from harness import hostfiles
from harness.protocol import WorkerFacts
from harness.records import Host

NONE = "none"


def facts(build: dict[str, str], root: Path = Path("/")) -> WorkerFacts:
    """Facts for the record.

    Args:
        build: `llama_cpp_commit`, `llama_cpp_python`, `build_flags` and `compiler` of the engine.
        root: stands for "/" in tests.
    """
    return WorkerFacts(
        python=platform.python_version(), host=host(build.get("accelerator", NONE), root), **_build(build)
    )


def _build(build: dict[str, str]) -> dict[str, str]:
    names = ("llama_cpp_commit", "llama_cpp_python", "build_flags", "compiler")
    return {name: build.get(name, NONE) for name in names}


def host(accelerator: str, root: Path = Path("/")) -> Host:
    """The machine; the fingerprint hashes all fields but the kernel, which is updated under a study."""
    cores, memory_bytes = os.cpu_count() or 1, psutil.virtual_memory().total
    model, machine = cpu_model(root), platform.machine()
    named = f"{machine}|{sys.platform}|{model}|{cores}|{memory_bytes >> 28}|{accelerator}"
    return Host(
        machine=machine,
        system=platform.system(),
        kernel=platform.release(),
        cpu_model=model,
        cores=cores,
        memory_bytes=memory_bytes,
        accelerator=accelerator,
        fingerprint=hashlib.sha256(named.encode()).hexdigest()[:16],
    )


def cpu_model(root: Path) -> str:
    """The board's own name, else the processor's with family and model; the architecture where neither is told.

    A virtual machine may hide which processor it is: two generations, one with AVX-512 and one without, both called
    themselves `AMD EPYC`. Family and model, which cpuid tells, keep them apart.
    """
    board = hostfiles.read_text(root / "proc/device-tree/model")
    if board:
        return board.strip("\0")
    fields = hostfiles.cpu_fields(root)
    if "model name" not in fields:
        return platform.machine()
    if not {"cpu family", "model"} <= fields.keys():
        return fields["model name"]
    return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
