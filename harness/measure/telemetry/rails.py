"""What the power rails of Jetson boards cover: names from the boards' device trees, meanings from NVIDIA's manuals.

A rail's name is easily misread: VDD_CPU_GPU_CV is CPU, GPU and vision accelerators together, and VDD_IN is the module,
not the carrier board. A name that is not listed here is reported with its name alone.
"""

from __future__ import annotations

from harness.measure.telemetry.base import Sensor
from harness.terms import Quantity

_WHOLE = {
    "VDD_IN": "module rail VDD_IN (without the carrier board)",
    "POM_5V_IN": "module rail POM_5V_IN (without the carrier board)",
    "VIN": "system input VIN",
}
_PARTS = {
    "VDD_CPU_GPU_CV": "rail VDD_CPU_GPU_CV (CPU, GPU and vision accelerators together)",
    "VDD_SOC": "rail VDD_SOC (the rest of the SoC)",
    "VDD_GPU_SOC": "rail VDD_GPU_SOC (GPU and the rest of the SoC together)",
    "VDD_CPU_CV": "rail VDD_CPU_CV (CPU and vision accelerators together)",
    "POM_5V_GPU": "rail POM_5V_GPU (GPU)",
    "POM_5V_CPU": "rail POM_5V_CPU (CPU)",
}
_STEP_MA = 8  # the INA3221's current register on these boards: 40 uV over 5 mOhm


def step_mw(millivolts: float) -> float:
    """Smallest step of a rail's power: one step of the current register at the rail's voltage."""
    return _STEP_MA * millivolts / 1000


def rail_sensors(names: list[str], source: str, steps_mw: list[float]) -> list[Sensor]:
    """Sensors for rails in the order given; parts name the whole that includes them."""
    whole = next((name for name in _WHOLE if name in names), "")
    return [
        Sensor(
            name=name,
            quantity=Quantity.POWER_MW,
            source=source,
            scope=_WHOLE.get(name) or _PARTS.get(name) or f"rail {name} (what it covers is not known here)",
            resolution=step,
            part_of=whole if name in _PARTS else "",
        )
        for name, step in zip(names, steps_mw, strict=True)
    ]


def widest_first(names: list[str]) -> list[str]:
    """Rails with the whole module in front; the others keep their order."""
    return sorted(names, key=lambda name: name not in _WHOLE)
