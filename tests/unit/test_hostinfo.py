"""What a machine calls itself, and when two machines are one."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from harness.measure.hostinfo import cpu_model, host

MILAN = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
TURIN = "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
ORIN = "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU part\t: 0xd42\n"


def machine(root: Path, cpuinfo: str, board: str = "") -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\n{cpuinfo}\nprocessor\t: 1\nmodel name\t: another core\n")
    if board:
        (root / "proc/device-tree").mkdir()
        (root / "proc/device-tree/model").write_text(board + "\0")
    return root


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name"),
    [
        (MILAN, "", "AMD EPYC (family 25, model 1)"),
        (TURIN, "", "AMD EPYC (family 26, model 2)"),
        (ORIN, "", "ARMv8 Processor rev 1 (v8l)"),
        (ORIN, "NVIDIA Jetson Orin Nano Developer Kit", "NVIDIA Jetson Orin Nano Developer Kit"),
        ("flags\t: fpu\n", "", platform.machine()),
    ],
)
def test_a_processor_is_called_by_its_board_or_by_name_and_generation(
    tmp_path: Path, cpuinfo: str, board: str, name: str
) -> None:
    assert cpu_model(machine(tmp_path, cpuinfo, board)) == name


def test_without_procfs_the_architecture_is_its_name(tmp_path: Path) -> None:
    assert cpu_model(tmp_path) == platform.machine()


def test_two_generations_under_one_name_never_pool(tmp_path: Path) -> None:
    milan, again, turin = (
        host("none", machine(tmp_path / place, cpuinfo))
        for place, cpuinfo in (("milan", MILAN), ("again", MILAN), ("turin", TURIN))
    )
    assert milan == again
    assert milan.fingerprint != turin.fingerprint
