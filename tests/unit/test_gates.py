"""Gates over folders and scripted programs; time is the test's."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import board_tree
import pytest

from harness.errors import EnvironmentLacking
from harness.study import power_mode
from harness.study.gates import (
    AcPower,
    ForeignLoad,
    FreeDisk,
    Gate,
    JetsonClocks,
    LowPowerModeOff,
    NoThrottling,
    NvpModel,
    TemperatureBand,
    all_open,
    wait_until_fit,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="procfs and sysfs are Linux's")


class Board:
    """A scripted nvpmodel; `stubborn` boards keep their mode."""

    def __init__(self, mode: str, *, stubborn: bool = False) -> None:
        self.mode = mode
        self.stubborn = stubborn
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, command: Sequence[str]) -> str | None:
        self.asked.append(tuple(command))
        if command[1] == "-q":
            return f"NV Power Mode: {self.mode}\n0\n"
        names = {"0": "15W", "1": "25W", "2": "MAXN_SUPER"}
        if not self.stubborn:
            self.mode = names[command[2]]
        return ""


class Time:
    """A clock that sleeping moves; what happens at a moment is scripted."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.slept: list[float] = []
        self.events: dict[int, Path] = {}

    def clock(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_ns += int(seconds * 1e9)


def closed(gate: Gate, root: Path) -> str:
    state = gate.check(root)
    assert state is not None
    return state.reason


def test_temperature_band_names_the_hottest_zone(tmp_path: Path) -> None:
    board_tree.jetson(tmp_path)
    assert TemperatureBand(highest_celsius=55).check(tmp_path) is None
    assert "51.2" in closed(TemperatureBand(highest_celsius=50), tmp_path)
    assert "outside" in closed(TemperatureBand(highest_celsius=90, lowest_celsius=60), tmp_path)
    assert TemperatureBand(highest_celsius=1).check(tmp_path / "empty") is None  # not told: open


def test_throttling(tmp_path: Path) -> None:
    board_tree.jetson(tmp_path)
    assert NoThrottling().check(tmp_path) is None
    board_tree.write(tmp_path / "sys/class/thermal/cooling_device1/cur_state", 1)
    assert closed(NoThrottling(), tmp_path) == "throttled: gpu-throttle-alert"
    board_tree.write(tmp_path / "sys/class/thermal/cooling_device1/cur_state", 0)
    board_tree.write(tmp_path / "sys/class/thermal/cooling_device2/cur_state", 3)  # a fan that turns
    assert NoThrottling().check(tmp_path) is None


def test_power_mode_by_name_is_read_back(tmp_path: Path) -> None:
    board_tree.jetson(tmp_path)
    board = Board("25W")
    assert "sudo nvpmodel -m 0" in closed(NvpModel(mode="15W", ask=board), tmp_path)
    power_mode.set_nvpmodel("15W", tmp_path, board)
    assert ("nvpmodel", "-m", "0") in board.asked
    assert NvpModel(mode="15W", ask=board).check(tmp_path) is None
    assert power_mode.describe(tmp_path, board) == "nvpmodel 15W"
    with pytest.raises(EnvironmentLacking, match="25W is read back"):
        power_mode.set_nvpmodel("15W", tmp_path, Board("25W", stubborn=True))
    with pytest.raises(EnvironmentLacking, match="no power mode '7W'"):
        power_mode.set_nvpmodel("7W", tmp_path, board)
    assert "no such mode" in closed(NvpModel(mode="7W", ask=board), tmp_path)
    assert "not readable" in closed(NvpModel(mode="15W", ask=lambda _: None), tmp_path)


def test_jetson_clocks_are_pinned_when_bounds_meet(tmp_path: Path) -> None:
    board_tree.jetson(tmp_path)
    assert JetsonClocks().check(tmp_path) is None
    board_tree.write(tmp_path / "sys/devices/system/cpu/cpu3/cpufreq/scaling_min_freq", 729600)
    board_tree.write(tmp_path / "sys/class/devfreq/17000000.gpu/min_freq", 306000000)
    assert closed(JetsonClocks(), tmp_path) == "not pinned: cpu3, 17000000.gpu (sudo jetson_clocks)"
    assert "can't be read" in closed(JetsonClocks(), tmp_path / "empty")


def test_low_power_mode_and_battery(tmp_path: Path) -> None:
    assert LowPowerModeOff().check(tmp_path) is None
    board_tree.write(tmp_path / "sys/firmware/acpi/platform_profile", "low-power")
    assert "saves power" in closed(LowPowerModeOff(), tmp_path)
    assert AcPower().check(tmp_path) is None  # no supply is told: a desktop
    board_tree.write(tmp_path / "sys/class/power_supply/AC/type", "Mains")
    board_tree.write(tmp_path / "sys/class/power_supply/AC/online", 1)
    assert AcPower().check(tmp_path) is None
    board_tree.write(tmp_path / "sys/class/power_supply/AC/online", 0)
    assert "battery" in closed(AcPower(), tmp_path)


@pytest.mark.parametrize(
    ("answer", "expected"), [(" lowpowermode         1\n", True), (" lowpowermode 0\n", False), ("", None)]
)
def test_low_power_mode_of_a_mac(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, expected: bool | None
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert power_mode.low_power_mode(tmp_path, lambda _: answer) is expected
    batteries = {"Battery Power": True, "AC Power": False}
    for source, on_battery in batteries.items():
        text = f"Now drawing from '{source}'\n -InternalBattery-0 100%"
        # a default, not a parameter
        assert power_mode.on_battery(tmp_path, lambda _, text=text: text) is on_battery  # type: ignore[misc]


def test_foreign_load_is_watched_over_half_a_second(tmp_path: Path) -> None:
    board_tree.write(tmp_path / "proc/stat", "cpu  100 0 0 0 0 0 0 0 0 0")
    time = Time()

    def busy(seconds: float) -> None:
        board_tree.write(tmp_path / "proc/stat", "cpu  160 0 0 0 0 0 0 0 0 0")  # 0.6 s of CPU time
        time.sleep(seconds)

    assert "1.20 CPUs" in closed(ForeignLoad(highest_cpus=0.5, sleep=busy, clock=time.clock), tmp_path)
    assert ForeignLoad(highest_cpus=0.5, sleep=time.sleep, clock=time.clock).check(tmp_path) is None


def test_free_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert FreeDisk(folder=tmp_path, needed_bytes=1).check(tmp_path) is None
    assert "needed" in closed(FreeDisk(folder=tmp_path, needed_bytes=2 * free), tmp_path)


def test_waiting_is_shown_recorded_and_sleeps(tmp_path: Path) -> None:
    board_tree.jetson(tmp_path)
    time, shown = Time(), []
    zone = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    board_tree.write(zone, 70000)

    def cool(seconds: float) -> None:
        time.sleep(seconds)
        if len(time.slept) == 3:
            board_tree.write(zone, 40000)

    waits = wait_until_fit(
        [NoThrottling(), TemperatureBand(highest_celsius=55)],
        root=tmp_path,
        clock=time.clock,
        sleep=cool,
        on_wait=lambda gate, reason, waited_ns: shown.append((gate, reason, waited_ns)),
    )
    (wait,) = waits
    assert (wait.gate, wait.opened, wait.waited_ns) == ("temperature", True, 6_000_000_000)
    assert "70.0" in wait.reason
    assert [waited for _, _, waited in shown] == [0, 2_000_000_000, 4_000_000_000]
    assert time.slept == [2.0, 2.0, 2.0]
    assert all_open(waits)


def test_a_gate_that_never_opens_ends_the_wait(tmp_path: Path) -> None:
    board_tree.jetson(tmp_path)
    time = Time()
    waits = wait_until_fit(
        [TemperatureBand(highest_celsius=20), NoThrottling()],
        root=tmp_path,
        timeout_s=10,
        clock=time.clock,
        sleep=time.sleep,
    )
    assert [(wait.gate, wait.opened, wait.waited_ns) for wait in waits] == [("temperature", False, 10_000_000_000)]
    assert not all_open(waits)
    assert wait_until_fit([NoThrottling()], root=tmp_path, sleep=time.sleep) == ()
