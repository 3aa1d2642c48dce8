"""Devices and the doctor under roots of the tests' own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import EnvironmentLacking, ExitCode
from harness.study import doctor
from harness.study.detect_device import detect, l4t_release, require
from harness.study.doctor import Bench, Check, State
from harness.terms import DeviceKind

ROOT = Path(__file__).parents[2]
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
COMPATIBLE = "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0"
MODES = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"


def put(root: Path, **files: str) -> Path:
    """Files of a machine, by path with `__` for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def board(root: Path) -> Path:
    return put(root, etc__nv_tegra_release=RELEASE, **{"etc__nvpmodel.conf": MODES})


@pytest.mark.parametrize(
    ("files", "machine", "kind"),
    [
        ({}, "x86_64", DeviceKind.CPU),
        ({}, "aarch64", DeviceKind.CPU),
        ({"etc__nv_tegra_release": RELEASE}, "aarch64", DeviceKind.JETSON),
        ({"proc__device-tree__compatible": COMPATIBLE}, "aarch64", DeviceKind.JETSON),
        ({"proc__device-tree__compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"}, "aarch64", DeviceKind.CPU),
        ({"dev__nvidia0": "", "etc__nv_tegra_release": RELEASE}, "aarch64", DeviceKind.JETSON),
        ({"dev__nvidia0": ""}, "x86_64", DeviceKind.CUDA),
        ({"dev__dxg": "", "usr__lib__wsl__lib__nvidia-smi": ""}, "x86_64", DeviceKind.CUDA),
        ({"dev__dxg": ""}, "x86_64", DeviceKind.CPU),
        ({"System__Library__CoreServices__SystemVersion.plist": ""}, "arm64", DeviceKind.MAC),
        ({"System__Library__CoreServices__SystemVersion.plist": ""}, "x86_64", DeviceKind.CPU),
    ],
)  # fmt: skip
def test_a_device_is_recognised(tmp_path: Path, files: dict[str, str], machine: str, kind: DeviceKind) -> None:
    assert detect(put(tmp_path, **files), machine) is kind


def test_a_device_that_this_is_not_is_refused_with_exit_code_3(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacking, match=r"not an NVIDIA Jetson.*on the board itself.*--device cpu") as refused:
        require(DeviceKind.JETSON, tmp_path, "x86_64")
    assert refused.value.exit_code is ExitCode.ENVIRONMENT
    with pytest.raises(EnvironmentLacking, match=r"this is an NVIDIA Jetson.*--device jetson"):
        require(DeviceKind.CUDA, board(tmp_path), "aarch64")


@pytest.mark.parametrize("kind", [DeviceKind.CPU, DeviceKind.JETSON])
def test_every_machine_can_be_used_as_a_plain_cpu(tmp_path: Path, kind: DeviceKind) -> None:
    require(kind, board(tmp_path), "aarch64")


def test_the_release_of_jetson_linux_is_read(tmp_path: Path) -> None:
    assert l4t_release(tmp_path) is None
    assert l4t_release(board(tmp_path)) == (36, "4.3")


class Programs:
    """What is installed, and what the installed answer."""

    def __init__(self, installed: tuple[str, ...] = (), answers: dict[str, str] | None = None) -> None:
        self._installed, self._answers = installed, answers or {}

    def which(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in self._installed else None

    def ask(self, command: Sequence[str]) -> str | None:
        return self._answers.get(" ".join(command))


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setenv("MOE_BUNDLE_MODELS", str(tmp_path / "models"))


def checked(root: Path, device: str, programs: Programs, machine: str = "aarch64") -> dict[str, Check]:
    bench = Bench(root=root, machine=machine, which=programs.which, ask=programs.ask)
    return {check.name: check for check in doctor.doctor(ROOT, device, bench)}


def test_a_jetson_in_another_power_mode_gets_its_cure(tmp_path: Path) -> None:
    programs = Programs(answers={"nvpmodel -q": "NV Power Mode: MAXN_SUPER\n2\n"})
    found = checked(board(tmp_path), "auto", programs)
    assert found["device"].found == "jetson, Jetson Linux R36.4.3, used as jetson"
    assert (found["power mode"].state, found["power mode"].cure) == (State.WARNING, "sudo nvpmodel -m 0")
    assert (found["clocks"].state, found["clocks"].cure) == (State.WARNING, "sudo jetson_clocks")
    assert "jetson-stats==7.2.2" in found["power sensors"].cure
    assert found["nvcc"].state is State.WARNING


def test_a_jetson_in_order_has_nothing_to_mend(tmp_path: Path) -> None:
    root = put(board(tmp_path), run__jtop=" ", **{"run__jtop.sock": ""})
    for bound in ("min", "max"):
        put(root, **{f"sys__devices__system__cpu__cpu0__cpufreq__scaling_{bound}_freq": "1510400"})
    programs = Programs(("c++", "nvcc"), {"nvpmodel -q": "NV Power Mode: 15W\n0\n"})
    found = checked(root, "jetson", programs)
    for name in ("device", "power mode", "clocks", "power sensors", "nvcc", "compiler"):
        assert (name, found[name].state, found[name].cure) == (name, State.OK, "")


def test_a_mode_that_the_board_does_not_know_is_lacking(tmp_path: Path) -> None:
    root = put(tmp_path, etc__nv_tegra_release=RELEASE, **{"etc__nvpmodel.conf": "< POWER_MODEL ID=0 NAME=7W >\n"})
    assert checked(root, "jetson", Programs())["power mode"].state is State.LACKING


def test_the_wrong_device_is_lacking_and_the_rest_is_still_told(tmp_path: Path) -> None:
    found = checked(tmp_path, "jetson", Programs(), "x86_64")
    assert found["device"].state is State.LACKING
    assert not doctor.sound(tuple(found.values()))
    assert "python" in found
    assert "disk" in found


def test_without_an_engine_only_containers_are_lost(tmp_path: Path) -> None:
    found = checked(tmp_path, "cpu", Programs(("c++",)), "x86_64")
    assert found["container"].state is State.WARNING
    assert "--env native" in found["container"].cure
    assert doctor.sound(tuple(found.values()))


def test_a_battery_and_rapl_are_seen(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        **{
            "sys__class__power_supply__AC__type": "Mains",
            "sys__class__power_supply__AC__online": "0",
            "sys__class__powercap__intel-rapl:0__energy_uj": "1",
        },
    )
    found = checked(root, "cpu", Programs(("c++",)), "x86_64")
    assert found["power supply"].found == "battery"
    assert (found["power sensors"].state, found["power sensors"].found) == (State.OK, "RAPL")


def test_weights_that_are_not_here_or_wrong_are_told(tmp_path: Path) -> None:
    folder, name = tmp_path / "models", "llama-3.2-1b"
    folder.mkdir()
    before = checked(tmp_path, "cpu", Programs(("c++",)), "x86_64")[f"model {name}"]
    assert (before.state, before.cure) == (State.WARNING, f"./artifact fetch --model {name}")
    (folder / "Llama-3.2-1B-Instruct-Q4_K_M.gguf").write_bytes(b"torn")
    after = checked(tmp_path, "cpu", Programs(("c++",)), "x86_64")[f"model {name}"]
    assert (after.state, after.cure) == (State.LACKING, f"./artifact fetch --model {name}")


def test_json_holds_every_check(tmp_path: Path) -> None:
    checks = tuple(checked(tmp_path, "cpu", Programs(), "x86_64").values())
    assert [entry["name"] for entry in json.loads(doctor.as_json(checks))] == [check.name for check in checks]
