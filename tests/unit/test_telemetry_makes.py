"""Each make of sensor over a folder or a replayed recording: names, scopes, values, and reasons for what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import board_tree
import pytest

from harness.measure.telemetry import ina3221, jetson, macos, memory_sampler, nvml, rapl, tegrastats, thermal
from harness.measure.telemetry.base import Absent, PolledSampler, Sampler, SensorLost
from harness.measure.telemetry.detect import detect
from harness.terms import Quality, Quantity

LINES = Path(__file__).parents[1] / "fixtures/tegrastats.txt"


def values(sampler: Sampler) -> dict[str, float]:
    return {sampler.sensors[sample.sensor].name: sample.value for sample in sampler.poll()}


def polled(found: PolledSampler | Absent) -> PolledSampler:
    assert isinstance(found, PolledSampler)
    return found


@pytest.mark.parametrize("layout", ["hwmon", "device", "iio"])
def test_ina3221_layouts_give_the_same_rails(tmp_path: Path, layout: str) -> None:
    folder = board_tree.chip(tmp_path, "1-0040", "ina3221x" if layout == "iio" else "ina3221")
    if layout == "iio":
        board_tree.iio_rails(folder / "iio:device0")
    else:
        board_tree.hwmon_rails(folder / "hwmon/hwmon1" if layout == "hwmon" else folder)
    sampler = polled(ina3221.find(tmp_path))
    assert values(sampler) == {
        "VDD_IN": pytest.approx(5072 * 1376 / 1000),
        "VDD_CPU_GPU_CV": pytest.approx(5064 * 480 / 1000),
        "VDD_SOC": pytest.approx(5064 * 304 / 1000),
    }
    assert sampler.sensors[0].resolution == pytest.approx(8 * 5.072)  # one step of 8 mA


def test_ina3221_scopes_say_what_a_rail_covers(tmp_path: Path) -> None:
    sensors = {sensor.name: sensor for sensor in polled(ina3221.find(board_tree.jetson(tmp_path))).sensors}
    assert "without the carrier board" in sensors["VDD_IN"].scope
    assert "GPU" in sensors["VDD_CPU_GPU_CV"].scope
    assert sensors["VDD_SOC"].part_of == "VDD_IN"
    assert sensors["VDD_IN"].part_of == ""


def test_ina3221_two_chips_and_channels_without_a_rail(tmp_path: Path) -> None:
    first, second = board_tree.chip(tmp_path, "1-0040"), board_tree.chip(tmp_path, "1-0041")
    board_tree.hwmon_rails(
        first / "hwmon/hwmon3", (("VDD_GPU_SOC", 19000, 200), ("NC", 0, 0), ("VDD_CPU_CV", 19000, 80))
    )
    board_tree.hwmon_rails(second / "hwmon/hwmon4", (("MYSTERY", 5000, 100), ("VDD_IN", 5000, 900)))
    board_tree.write(second / "hwmon/hwmon4/in1_enable", 1)
    sampler = polled(ina3221.find(tmp_path))
    assert [sensor.name for sensor in sampler.sensors] == ["VDD_IN", "VDD_GPU_SOC", "VDD_CPU_CV", "MYSTERY"]
    assert "not known" in sampler.sensors[3].scope
    board_tree.write(second / "hwmon/hwmon4/in1_enable", 0)
    assert "MYSTERY" not in [sensor.name for sensor in polled(ina3221.find(tmp_path)).sensors]


def test_ina3221_failed_reads_leave_no_sample_and_are_counted(tmp_path: Path) -> None:
    board_tree.hwmon_rails(board_tree.chip(tmp_path, "1-0040") / "hwmon/hwmon1")
    sampler = polled(ina3221.find(tmp_path))
    board_tree.write(tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input", "")
    assert set(values(sampler)) == {"VDD_CPU_GPU_CV", "VDD_SOC"}
    assert sampler.notes() == {"VDD_IN reads": "1 reads failed"}


def test_recorded_tegrastats_lines() -> None:
    parsed = [tegrastats.parse_line(line) for line in LINES.read_text().splitlines()]
    jetpack6, jetpack5, jetpack4, emc, *garbage = parsed
    assert jetpack6["VDD_IN"] == 4654
    assert jetpack6["VDD_CPU_GPU_CV"] == 560
    assert jetpack6["gpu zone"] == 50.218
    assert jetpack6["tegrastats RAM"] == 1488 * 2**20
    assert jetpack5["VDD_GPU_SOC"] == 3175
    assert "cv0 zone" not in jetpack5  # offline: -256
    assert jetpack4["POM_5V_IN"] == 2532
    assert emc["VDD_IN"] == 7012
    assert garbage
    assert all(line == {} for line in garbage)


def tegrastats_script(root: Path, body: str) -> None:
    program = board_tree.write(root / "usr/bin/tegrastats", f"#!/bin/sh\n{body}")
    program.chmod(0o755)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("never happened")


def test_tegrastats_garbage_is_counted_and_its_end_is_told(tmp_path: Path) -> None:
    good = "RAM 1/2MB VDD_IN 4000mW/4000mW VDD_SOC 900mW/900mW cpu@40C"
    tegrastats_script(tmp_path, f"echo '{good}'; echo '{good}'; echo '####'; echo 'VDD_IN x'; echo '{good}'; exit 0")
    sampler = tegrastats.find(tmp_path, 10_000_000)
    assert not isinstance(sampler, Absent)
    taken: list[float] = []
    lost: list[str] = []

    def ended() -> bool:
        try:
            taken.extend(s.value for s in sampler.poll() if sampler.sensors[s.sensor].name == "VDD_IN")
        except SensorLost as error:
            lost.append(str(error))
        return bool(lost)

    wait_for(ended)
    assert taken == [4000.0, 4000.0]  # the first line told which rails there are
    assert sampler.notes() == {"tegrastats lines": "2 lines not understood"}
    sampler.close()


def test_tegrastats_that_prints_no_rail_is_absent(tmp_path: Path) -> None:
    tegrastats_script(tmp_path, "echo nothing here")
    assert tegrastats.find(tmp_path, 10_000_000) == Absent(reason="tegrastats printed no power rail")


class FakeJtop:
    """A replayed client: updates are pushed by the test."""

    interval = 0.1

    def __init__(self, error: Exception | None = None) -> None:
        self.milliwatts = 7328
        self.error = error
        self.ended: Exception | None = None
        self.observer: Callable[[Any], None] = lambda _: None

    @property
    def power(self) -> Mapping[str, Any]:
        rails = {"VDD_CPU_GPU_CV": {"volt": 4944, "power": 2570}, "VDD_SOC": {"volt": 4944, "power": 1938}}
        return {"rail": rails, "tot": {"name": "VDD_IN", "volt": 4952, "power": self.milliwatts, "avg": 1}}

    @property
    def temperature(self) -> Mapping[str, Any]:
        return {"cpu": {"temp": 47.5, "online": True}, "cv0": {"temp": -256, "online": False}}

    @property
    def memory(self) -> Mapping[str, Any]:
        return {"RAM": {"used": 100, "tot": 200, "shared": 50}}

    def attach(self, observer: Callable[[Any], None]) -> None:
        self.observer = observer

    def start(self) -> None:
        if self.error:
            raise self.error

    def ok(self, spin: bool) -> bool:
        if self.ended:
            raise self.ended
        return True

    def close(self) -> None:
        pass


def test_jtop_files_each_update_once_and_tells_a_lost_server(tmp_path: Path) -> None:
    board_tree.write(tmp_path / jetson.SOCKET, "")
    client = FakeJtop()
    sampler = jetson.find(tmp_path, 100_000_000, lambda _: client)
    assert not isinstance(sampler, Absent)
    assert sampler.sensors[0].name == "VDD_IN"
    assert "cv0 zone" not in [sensor.name for sensor in sampler.sensors]
    assert sampler.poll() == []  # nothing was pushed yet: polling makes no samples
    client.observer(client)
    client.milliwatts = 8000
    client.observer(client)
    assert [s.value for s in sampler.poll() if s.sensor == 0] == [7328, 8000]
    assert sampler.poll() == []
    client.observer(client)
    client.ended = RuntimeError("Lost connection\nwith jtop server")
    assert [s.value for s in sampler.poll() if s.sensor == 0] == [8000]  # what arrived before the end is kept
    with pytest.raises(SensorLost, match="Lost connection with jtop server"):
        sampler.poll()


def test_jtop_sum_of_overlapping_rails_is_not_taken(tmp_path: Path) -> None:
    board_tree.write(tmp_path / jetson.SOCKET, "")
    client = FakeJtop()
    board = {"rail": {"VDD_GPU_SOC": {"power": 3000}, "VDD_CPU_CV": {"power": 800}}, "tot": {"power": 3800, "avg": 0}}
    summing = type("Summing", (FakeJtop,), {"power": board})()
    sampler = jetson.find(tmp_path, 100_000_000, lambda _: summing)
    assert not isinstance(sampler, Absent)
    rails = [sensor.name for sensor in sampler.sensors if sensor.quantity is Quantity.POWER_MW]
    assert rails == ["VDD_GPU_SOC", "VDD_CPU_CV"]
    assert client.power["tot"]["name"] == "VDD_IN"


def test_jtop_reasons(tmp_path: Path) -> None:
    none = jetson.find(tmp_path, 1)
    assert isinstance(none, Absent)
    assert "no jtop service" in none.reason
    board_tree.write(tmp_path / jetson.SOCKET, "")
    mismatch = jetson.find(tmp_path, 1, lambda _: FakeJtop(RuntimeError("Mismatch version jtop service: [4.2.0]")))
    assert isinstance(mismatch, Absent)
    assert "[4.2.0]" in mismatch.reason
    folder = jetson.find(tmp_path, 1)
    assert isinstance(folder, Absent)
    assert "only the machine itself" in folder.reason


def test_rapl_domains_scopes_and_wrap(tmp_path: Path) -> None:
    sampler = polled(rapl.find(board_tree.rapl(tmp_path)))
    sensors = {sensor.name: sensor for sensor in sampler.sensors}
    assert list(sensors) == ["package-0", "package-1", "package-0 core", "package-0 dram"]
    assert sensors["package-0 core"].part_of == "package-0"
    assert sensors["package-0 dram"].part_of == ""
    assert sensors["package-0"].wrap_at == pytest.approx(262_143_328.85)
    assert sensors["package-0"].quality is Quality.MEASURED
    assert values(sampler)["package-0"] == 5_000_000.0
    board_tree.write(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", 12)
    assert values(sampler)["package-0"] == 0.012
    board_tree.write(tmp_path / "proc/cpuinfo", "vendor_id\t: AuthenticAMD")
    assert polled(rapl.find(tmp_path)).sensors[0].quality is Quality.MODELLED


def test_rapl_that_may_not_be_read(tmp_path: Path) -> None:
    board_tree.rapl(tmp_path)
    for path in tmp_path.glob("sys/class/powercap/*/energy_uj"):
        path.write_text("")
    found = rapl.find(tmp_path)
    assert isinstance(found, Absent)
    assert "can't be read" in found.reason


class NvmlProblem(Exception):
    """Stands for pynvml.NVMLError."""


class ReplayedNvml:
    """A recording: each call gives its next value; a value that is an exception is raised."""

    NVMLError: type[Exception] = NvmlProblem

    def __init__(self, **recording: Any) -> None:
        self.recording = {name: list(answers) for name, answers in recording.items()}

    def _next(self, name: str) -> Any:
        answers = self.recording.get(name, [NvmlProblem("Not Supported")])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def nvmlInit(self) -> None:  # noqa: N802
        self._next("init")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return int(self._next("count"))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802
        return int(self._next("energy"))

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        return int(self._next("power"))

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:  # noqa: N802
        return int(self._next("temperature"))

    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> int:  # noqa: N802
        return int(self._next(f"clock{clock}"))

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(used=self._next("used"))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:  # noqa: N802
        return int(self._next("reasons"))


def test_nvml_prefers_the_energy_counter_and_reads_throttle_bits() -> None:
    library = ReplayedNvml(
        init=[0],
        count=[1],
        energy=[1000, 1000, 1450],
        power=[90000],
        temperature=[45],
        used=[2**30],
        reasons=[0, 0x4, 0x20],
    )
    sampler = polled(nvml.find(lambda: library))
    names = [sensor.name for sensor in sampler.sensors]
    assert names == ["gpu0 energy", "gpu0 temperature", "gpu0 memory", "gpu0 throttle"]
    assert sampler.sensors[0].quantity is Quantity.ENERGY_MJ
    first, second = values(sampler), values(sampler)
    assert (first["gpu0 energy"], second["gpu0 energy"]) == (1000, 1450)
    assert (first["gpu0 throttle"], second["gpu0 throttle"]) == (0, 1)  # a power cap is no throttling, heat is


def test_nvml_takes_power_where_there_is_no_counter_and_survives_a_failing_call() -> None:
    library = ReplayedNvml(init=[0], count=[1], power=[30000, NvmlProblem("GPU is lost"), 31000], clock1=[1500])
    sampler = polled(nvml.find(lambda: library))
    assert [sensor.name for sensor in sampler.sensors] == ["gpu0 power", "gpu0 SM clock"]
    assert values(sampler) == {"gpu0 SM clock": 1500}
    assert values(sampler)["gpu0 power"] == 31000


def test_nvml_without_a_driver() -> None:
    found = nvml.find(lambda: ReplayedNvml(init=[NvmlProblem("Driver Not Loaded")]))
    assert found == Absent(reason="NVML: Driver Not Loaded")


def test_macos_energy_is_estimated_and_missing_parts_are_left_out() -> None:
    readings = [
        SimpleNamespace(cpu_total_mj=5, gpu_mj=7, gpu_sram_mj=None, dram_mj=2, ane_mj=None),
        SimpleNamespace(cpu_total_mj=15, gpu_mj=9, gpu_sram_mj=None, dram_mj=3, ane_mj=None),
    ]
    monitor = SimpleNamespace(get_cumulative_energy=lambda: readings.pop(0))
    found = macos.find(lambda: monitor)
    assert not isinstance(found, Absent)
    assert values(found) == {"cpu_total": 15.0, "gpu": 9.0, "dram": 3.0}
    assert {sensor.quality for sensor in found.sensors} == {Quality.ESTIMATED}


def test_thermal_clocks_and_throttling(tmp_path: Path) -> None:
    sampler, absent = thermal.find(board_tree.jetson(tmp_path))
    assert sampler is not None
    assert absent == {}
    first = values(sampler)
    assert first["cpu-thermal"] == 51.25
    assert "cv0-thermal" not in first
    assert first["cpu0 clock"] == pytest.approx(1510.4)
    assert first["gpu clock"] == pytest.approx(624.75)
    assert first["gpu-throttle-alert"] == first["oc1"] == 0
    board_tree.write(tmp_path / "sys/class/thermal/cooling_device1/cur_state", 2)
    board_tree.write(tmp_path / "sys/class/hwmon/hwmon2/oc1_event_cnt", 4)
    second, third = values(sampler), values(sampler)
    assert second["gpu-throttle-alert"] == second["oc1"] == 1
    assert third["gpu-throttle-alert"] == 1
    assert third["oc1"] == 0  # the counter rose once


def test_thermal_of_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    sampler, absent = thermal.find(tmp_path)
    assert sampler is None
    assert set(absent) == {"temperature", "clocks", "throttle"}


def test_memory_of_the_machine_and_of_a_process(tmp_path: Path) -> None:
    machine = memory_sampler.find(board_tree.jetson(tmp_path))
    assert not isinstance(machine, Absent)
    assert values(machine)["NvMapMemUsed"] == 2**30
    board_tree.write(tmp_path / "proc/77/statm", "1000 250 10 1 0 200 0")
    follower = memory_sampler.follow(tmp_path, 77)
    assert values(follower)["rss of 77"] % 250 == 0
    (tmp_path / "proc/77/statm").unlink()
    assert values(follower) == {}


def test_detect_takes_the_first_way_that_works_and_names_the_others(tmp_path: Path) -> None:
    found = detect(board_tree.jetson(tmp_path))
    assert found.samplers[0].name == "ina3221"
    assert "energy" not in found.absent
    assert "no jtop service" in found.absent["jtop"]
    assert "tegrastats" not in found.absent  # not needed


def test_detect_without_any_power_sensor_says_why(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert found.absent["energy"].startswith("no sensor: ")
    for make in ("jtop", "ina3221", "tegrastats", "nvml", "rapl", "zeus-apple-silicon"):
        assert f"{make}: " in found.absent["energy"]
