"""Pinned downloads: space checked first, resumed after a cut, in place only when the hash is right, safe in numbers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from harness.errors import EnvironmentLacking
from harness.models import checksums, packages
from harness.models.checksums import FileState
from harness.models.files import locked
from harness.models.hub import Hub, download
from harness.models.partfile import PartFile, Progress, Silence, part_path, set_aside
from harness.models.registry import HubSource, Model, Source
from harness.records import Struct
from harness.units import human_bytes

SPARE_BYTES = 64 << 20  # left to the rest of the machine


class FetchState(StrEnum):
    """How a model's file came to be there."""

    PRESENT = "present"
    FETCHED = "fetched"


class Fetched(Struct, frozen=True):
    """A model whose file is in place and right."""

    name: str
    file: str
    state: FetchState
    sha256: str
    size_bytes: int


def fetch(
    models: Sequence[Model], folder: Path, *, progress: Progress | None = None, hub: Hub | None = None
) -> tuple[Fetched, ...]:
    """Brings the released files of the models into the folder, one after the other; those that are right stay.

    Args:
        models: models with released weights.
        folder: the models folder; made if it is not there.
        progress: who watches.
        hub: where hub files come from; default: as the environment says.

    Raises:
        UsageError: a model exists as a proxy only.
        EnvironmentLacking: disk full, network or hub out of reach, file gated or gone.
        IntegrityError: the source delivered other bytes; they lie in FILE.corrupt.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _ensure_space(models, folder)
        return tuple(_fetch_one(model, folder, progress or Silence(), hub) for model in models)
    except OSError as error:  # full disk, no permission, a file where a folder should be
        cure = "mend that, or set MOE_BUNDLE_MODELS to another folder"
        raise EnvironmentLacking(f"cannot be written to: {error.strerror}", where=str(folder), cure=cure) from None


def _fetch_one(model: Model, folder: Path, progress: Progress, hub: Hub | None) -> Fetched:
    source = model.released()
    target = folder / source.file_name

    def waiting() -> None:
        progress.note(model.name, "another process is at this file: waiting for it")

    with locked(folder / ".locks" / source.file_name, waiting):
        state = FetchState.PRESENT
        if not _is_right(model, folder, progress):
            _ensure_space([model], folder)
            _obtain(model.name, source, folder, progress, hub)
            checksums.remember(target, source.sha256)
            state = FetchState.FETCHED
    return Fetched(
        name=model.name, file=source.file_name, state=state, sha256=source.sha256, size_bytes=source.size_bytes
    )


def _is_right(model: Model, folder: Path, progress: Progress) -> bool:
    """Whether the file is there and right; a wrong one is set aside."""
    verdict = checksums.verify_model(model, folder)
    if verdict.state in (FileState.DIFFERS, FileState.UNREADABLE):
        path = folder / verdict.file
        aside = set_aside(path, path)
        progress.note(model.name, f"{verdict.file} is not what it should be, kept as {aside.name}")
    return verdict.state is FileState.OK


def _obtain(name: str, source: Source, folder: Path, progress: Progress, hub: Hub | None) -> None:
    with closing(PartFile(name, source, folder, progress)) as part:
        if isinstance(source, HubSource):
            download(hub or Hub.from_environment(), source, part)
        else:
            packages.obtain(source, part, folder)
        part.accept()


def _ensure_space(models: Sequence[Model], folder: Path) -> None:
    """Refuses before the first byte what would end with a full disk."""
    needed = sum(_lacking_bytes(model.released(), folder) for model in models)
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE_BYTES > free:
        raise EnvironmentLacking(
            f"{human_bytes(needed + SPARE_BYTES)} are needed, {human_bytes(free)} are free",
            where=str(folder),
            cure="make room, or set MOE_BUNDLE_MODELS to a folder on a larger disk",
        )


def _lacking_bytes(source: Source, folder: Path) -> int:
    """Bytes that the disk will have more of; a file or part that is there counts for what it has."""
    if (folder / source.file_name).exists():
        return 0
    if isinstance(source, HubSource):
        part = part_path(source, folder)
        return source.size_bytes - (part.stat().st_size if part.exists() else 0)
    return source.size_bytes + packages.lacking_bytes(source, folder)
