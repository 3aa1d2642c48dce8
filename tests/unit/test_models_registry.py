"""The registry agrees with the claims' table, refuses what is wrong all at once, and names near misses."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError, UsageError
from harness.models.registry import HubSource, PackageSource, load, models_dir

ROOT = Path(__file__).parents[2]

ENTRY = """
[models.{name}]
display_name = "A"
architecture = "llama"
file_type = "Q4_K_M"
licence = "MIT"
parameters_total = 10
parameters_active = 10
[models.{name}.source]
kind = "hub"
repository = "a/b"
revision = "{revision}"
file = "{file}"
sha256 = "{sha256}"
size_bytes = 5
"""


def registry_of(folder: Path, text: str) -> Path:
    (folder / "configs").mkdir()
    (folder / "configs" / "models.toml").write_text(text, encoding="utf-8")
    return folder


def entry(name: str, *, revision: str = "0" * 40, file: str = "sub/a.gguf", sha256: str = "0" * 64) -> str:
    return ENTRY.format(name=name, revision=revision, file=file, sha256=sha256)


def test_the_four_models_of_the_study_are_pinned() -> None:
    models = load(ROOT).models
    pins = {name: model.released() for name, model in models.items() if isinstance(model.source, HubSource)}
    assert {name: (pin.sha256[:12], pin.size_bytes) for name, pin in pins.items()} == {
        "olmoe-1b-7b": ("8c310f1435a1", 4213512672),
        "llama-3.2-1b": ("6f85a640a97c", 807694464),
        "qwen2.5-1.5b": ("1adf0b11065d", 986048768),
        "gemma-2-2b": ("e0aee85060f1", 1708582752),
    }
    assert models["olmoe-1b-7b"].parameters_active < models["olmoe-1b-7b"].parameters_total
    assert models["llama-3.2-1b"].licence == "LicenseRef-Llama-3.2"


def test_two_real_models_come_through_the_package_index() -> None:
    models = load(ROOT).models
    parts = {name: model.source.wheels for name, model in models.items() if isinstance(model.source, PackageSource)}
    assert {name: len(wheels) for name, wheels in parts.items()} == {"smollm2-135m": 1, "gemma-3-270m": 4}
    assert [wheel.member[-6:] for wheel in parts["gemma-3-270m"]] == ["part00", "part01", "part02", "part03"]


def test_a_name_that_is_not_there_names_those_spelled_alike() -> None:
    with pytest.raises(UsageError, match=r"no model 'llama3.2-1b' -> did you mean llama-3.2-1b"):
        load(ROOT).get("llama3.2-1b")
    with pytest.raises(UsageError, match="there are olmoe-1b-7b, "):
        load(ROOT).get("%%%")
    assert load(ROOT).get("gemma-2-2b").display_name == "Gemma-2-2B"


def test_all_faults_of_the_file_at_once(tmp_path: Path) -> None:
    bad = entry("a", revision="main") + entry("b", file="../../etc/passwd") + entry("c", sha256="0" * 63)
    bad += entry("d").replace("size_bytes = 5", "size_bytes = 0\nsize = 3").replace('"MIT"', '"see the web page"')
    with pytest.raises(ConfigError) as caught:
        load(registry_of(tmp_path, bad))
    keys = [fault.split()[0] for fault in caught.value.faults]
    assert keys == [
        "models.a.source.revision",
        "models.b.source.file",
        "models.c.source.sha256",
        "models.d.licence",
        "models.d.source.size_bytes",
        "models.d.source.size",
    ]


def test_two_entries_cannot_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.b\.source\.file: a\.gguf is claimed twice"):
        load(registry_of(tmp_path, entry("a") + entry("b", file="A.gguf")))


def test_active_parameters_are_part_of_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parameters_active exceeds parameters_total"):
        load(registry_of(tmp_path, entry("a").replace("parameters_active = 10", "parameters_active = 11")))


def test_a_model_without_a_source_has_no_released_weights(tmp_path: Path) -> None:
    registry = load(registry_of(tmp_path, entry("a") + entry("b").split("[models.b.source]")[0]))
    assert registry.get("a").released().file_name == "a.gguf"
    assert [model.name for model in registry.with_weights()] == ["a"]
    with pytest.raises(UsageError, match="use --weights proxy"):
        registry.get("b").released()


def test_the_models_folder_can_be_chosen(tmp_path: Path) -> None:
    assert models_dir(tmp_path, {}) == tmp_path / ".cache" / "models"
    assert models_dir(tmp_path, {"MOE_BUNDLE_MODELS": "/srv/models"}) == Path("/srv/models")


def test_faults_of_shapes_are_found_when_the_registry_is_read(tmp_path: Path) -> None:
    bad = entry("a") + "[models.a.shape]\nlayers = 0\n" + entry("b", file="b.gguf") + "[models.b.shape]\nlayer = 1\n"
    with pytest.raises(ConfigError) as caught:
        load(registry_of(tmp_path, bad))
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["models.a.shape", "models.b.shape"]
