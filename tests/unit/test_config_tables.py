"""All faults of a file at once, each with its key and its line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from harness.config_tables import read_toml
from harness.errors import ConfigError, ExitCode
from harness.records import Struct
from harness.terms import KvType


class Wheel(Struct, frozen=True, tag="wheel", tag_field="kind"):
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{4}$")]


class Page(Struct, frozen=True, tag="page", tag_field="kind"):
    address: str


class Step(Struct, frozen=True):
    threads: int
    kv_type: KvType = KvType.F16


class Entry(Struct, frozen=True):
    size_bytes: Annotated[int, Meta(gt=0)]
    source: Wheel | Page | None = None
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if self.size_bytes == 13:
            raise ValueError("size_bytes and source do not agree")


class Tables(Struct, frozen=True):
    models: dict[Annotated[str, Meta(pattern="^[a-z.]+$")], Entry]
    seed: int = 1


def write(folder: Path, text: str) -> Path:
    path = folder / "tables.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_toml(write(folder, text), Tables)
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(folder / "tables.toml") in str(caught.value)
    return caught.value.faults


def test_a_sound_file_becomes_frozen_structs(tmp_path: Path) -> None:
    text = """
        [models."a.b"]
        size_bytes = 5
        source = { kind = "wheel", sha256 = "00ff" }
        [[models."a.b".steps]]
        threads = 2
        kv_type = "q8_0"
    """
    tables = read_toml(write(tmp_path, text), Tables)
    assert tables.models["a.b"] == Entry(
        size_bytes=5, source=Wheel(sha256="00ff"), steps=(Step(threads=2, kv_type=KvType.Q8_0),)
    )


def test_every_fault_is_told_with_its_key_and_line(tmp_path: Path) -> None:
    text = """seed = "one"
[models.a]
size_byte = 5
note = '''
size_bytes = 4
'''
[models.b]
size_bytes = -1
[models.b.source]
kind = "wheel"
sha256 = "xyz"
colour = 1
[[models.b.steps]]
threads = 1
[[models.b.steps]]
threads = true
kv_type = "q9"
"""
    assert faults_of(tmp_path, text) == (
        "seed (line 1): Expected `int`, got `str`",
        "models.a.size_byte (line 3): unknown key, did you mean `size_bytes`?",
        "models.a.note (line 4): unknown key",
        "models.a.size_bytes (line 2): missing",
        "models.b.size_bytes (line 8): Expected `int` >= 1",
        "models.b.source.sha256 (line 11): Expected `str` matching regex '^[0-9a-f]{4}$'",
        "models.b.source.colour (line 12): unknown key",
        "models.b.steps.1.threads (line 16): Expected `int`, got `bool`",
        "models.b.steps.1.kv_type (line 17): Invalid enum value 'q9'",
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "models: missing"),
        ("[models.a]\nsize_bytes = 13", "models.a (line 1): size_bytes and source do not agree"),
        ("[models.a]\nsize_bytes = 1\nsource = 3", "models.a.source (line 3): Expected `object | null`, got `int`"),
        ("[models.a]\nsize_bytes = 1\nsource = { kind = 'x' }", "models.a.source (line 3): Invalid value 'x'"),
        ("[models.A]\nsize_bytes = 1", "models.A (line 1): Expected `str` matching regex '^[a-z.]+$'"),
        ("models = 3", "models (line 1): Expected `object`, got `int`"),
        (
            "[models.a]\nsize_bytes = 1\nsteps = [{threads = 1}, 2]",
            "models.a.steps.1 (line 3): Expected `object`, got `int`",
        ),
    ],
)
def test_single_faults(tmp_path: Path, text: str, fault: str) -> None:
    assert faults_of(tmp_path, text) == (fault,)


def test_a_file_that_is_not_toml_or_not_there(tmp_path: Path) -> None:
    assert "not TOML" in faults_of(tmp_path, "seed = = 3")[0]
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "absent.toml", Tables)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path, Tables)
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path / "latin.toml", Tables)
