"""Which family of machines this is, read under an injectable root, and the refusal of a device that it is not."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from harness import hostfiles
from harness.errors import EnvironmentLacking
from harness.terms import DeviceKind, Origin

_L4T = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_TITLES = {
    DeviceKind.CPU: "a machine without an accelerator",
    DeviceKind.CUDA: "a machine with an NVIDIA GPU",
    DeviceKind.JETSON: "an NVIDIA Jetson",
    DeviceKind.MAC: "a Mac with Apple Silicon",
}
_CURES = {
    DeviceKind.CUDA: "install NVIDIA's driver (nvidia-smi must list the GPU)",
    DeviceKind.JETSON: "run this on the board itself, with JetPack 6 on it, or from here with --host ssh://user@board",
    DeviceKind.MAC: "run this on the Mac itself, with an arm64 Python (not under Rosetta)",
}


def detect(root: Path = Path("/"), machine: str = "") -> DeviceKind:
    """The device that `--device auto` stands for.

    Args:
        root: the folder that stands for "/".
        machine: the processor's architecture; empty: this machine's.
    """
    if _is_jetson(root):
        return DeviceKind.JETSON
    if is_macos(root):
        return DeviceKind.MAC if (machine or platform.machine()) == "arm64" else DeviceKind.CPU
    return DeviceKind.CUDA if _has_nvidia_gpu(root) else DeviceKind.CPU


def require(kind: DeviceKind, root: Path = Path("/"), machine: str = "") -> None:
    """Refuse a device that this machine is not; every machine can be used as a plain CPU.

    Raises:
        EnvironmentLacking: what this machine is instead, and what to do.
    """
    found = detect(root, machine)
    if kind in (found, DeviceKind.CPU):
        return
    raise EnvironmentLacking(
        f"this is {_TITLES[found]}, not {_TITLES[kind]}",
        where=f"--device {kind.value}",
        cure=f"{_CURES[kind]}, or use --device {found.value}",
    )


def origin(root: Path = Path("/")) -> Origin:
    """Emulated where jetson-stats' test mode has its board (/fake_sys): found, so that nobody has to remember it."""
    board = root / "fake_sys"
    emulated = board.is_dir() and any(board.iterdir())  # an empty folder is only another namespace's mount point
    return Origin.EMULATED if emulated else Origin.MEASURED


def l4t_release(root: Path = Path("/")) -> tuple[int, str] | None:
    """Release and revision of Jetson Linux, as (36, "4.3"); None where /etc/nv_tegra_release does not tell."""
    found = _L4T.search(hostfiles.read_text(root / "etc/nv_tegra_release") or "")
    return (int(found[1]), found[2]) if found else None


def is_macos(root: Path = Path("/")) -> bool:
    """Whether this is macOS, by the file that names its version."""
    return (root / "System/Library/CoreServices/SystemVersion.plist").exists()


def _is_jetson(root: Path) -> bool:
    compatible = hostfiles.read_text(root / "proc/device-tree/compatible") or ""
    return (root / "etc/nv_tegra_release").exists() or "nvidia,tegra" in compatible


def _has_nvidia_gpu(root: Path) -> bool:
    """The driver's device node; under WSL the GPU is reached through /dev/dxg and the host's libraries."""
    under_wsl = (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/nvidia-smi").exists()
    return (root / "dev/nvidia0").exists() or under_wsl
