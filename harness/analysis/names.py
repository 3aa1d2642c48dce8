"""How machines, models and cells are called: short, and telling apart what has to be told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.analysis.runs import Cell, Setup
from harness.records import Host, ModelRef
from harness.terms import EngineKind, EnvironmentKind, Weights
from harness.units import human_bytes

NOTHING = ("none", "not told")
DEFAULT_FILE_TYPE = "Q4_K_M"
# Names as the models' makers write them; a model that is not here goes by its name in the registry.
FAMILIES = {
    "olmoe": "OLMoE",
    "llama": "Llama",
    "qwen": "Qwen",
    "qwen1": "Qwen1",
    "qwen2": "Qwen2",
    "gemma": "Gemma",
    "granite": "Granite",
    "deepseek": "DeepSeek",
    "smollm2": "SmolLM2",
    "lfm2": "LFM2",
}


class ModelNames:
    """Names of models and cells that are unique among the cells given."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._mixed_weights = _names_with_several(cells, lambda model: model.weights)
        self._mixed_types = _names_with_several(cells, lambda model: model.file_type)

    def model(self, model: ModelRef) -> str:
        """`OLMoE-1B-7B`, with file type or weights where the name alone is not unique."""
        words = [pretty(model.name)]
        if model.name in self._mixed_types or model.file_type != DEFAULT_FILE_TYPE:
            words.append(model.file_type)
        if model.variant:
            words.append(f"[{model.variant}]")
        if model.name in self._mixed_weights:
            words.append("(proxy)" if model.weights is Weights.PROXY else "(released)")
        return " ".join(words)

    def cell(self, cell: Cell) -> str:
        """The model, and what its settings vary."""
        variant = f" [{cell.settings.variant}]" if cell.settings.variant else ""
        return self.model(cell.model) + variant


def _names_with_several(cells: Sequence[Cell], of: Callable[[ModelRef], str]) -> frozenset[str]:
    """Names of models that one group compares in several makes."""
    seen: dict[tuple[int, str, str], set[str]] = {}
    for cell in cells:
        seen.setdefault((cell.dataset, cell.group, cell.model.name), set()).add(of(cell.model))
    return frozenset(name for (_, _, name), values in seen.items() if len(values) > 1)


def pretty(name: str) -> str:
    """`olmoe-1b-7b` as `OLMoE-1B-7B`."""
    family, *rest = name.split("-")
    base, dot, version = family.partition(".")
    return "-".join([FAMILIES.get(base, base) + dot + version, *(part.upper() for part in rest)])


def setup_label(setup: Setup, host: Host) -> str:
    """One line for a machine and how it was used."""
    words = [chip(host)]
    if told(setup.power_mode):
        words.append(setup.power_mode)
    if setup.environment is EnvironmentKind.CONTAINER:
        words.append("container")
    if setup.engine is EngineKind.FAKE:
        words.append("fake engine")
    return ", ".join(words)


def machine(host: Host) -> str:
    """`8-core AMD EPYC, 25.2 GB memory`."""
    return f"{chip(host)}, {human_bytes(host.memory_bytes)} memory" if host.memory_bytes else chip(host)


def chip(host: Host) -> str:
    """The accelerator, else the CPU with its cores."""
    return told(host.accelerator) or f"{host.cores}-core {host.cpu_model or host.machine}"


def told(text: str) -> str:
    """The text, or nothing where a host says that it has none or does not tell."""
    return "" if text in NOTHING else text
