"""Checksums of weights: every byte streamed, files in parallel; a file that did not change is not read twice.

What was found is remembered in `.verified.json` beside the files, keyed by size, time of change and inode.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

import msgspec

from harness.clock import now_ns
from harness.errors import IntegrityError
from harness.models.files import locked, open_regular, put_in_place, sha256_of
from harness.models.registry import Model, Registry
from harness.records import Struct

CACHE_NAME = ".verified.json"


class FileState(StrEnum):
    """What a check of one file found."""

    OK = "ok"
    DIFFERS = "differs"
    MISSING = "missing"
    UNREADABLE = "unreadable"


class Verdict(Struct, frozen=True):
    """One file: what was promised, what is there."""

    name: str  # the model's
    file: str
    state: FileState
    expected_sha256: str
    expected_bytes: int
    found_sha256: str | None  # null: nothing could be read, `detail` says why
    found_bytes: int | None
    cached: bool  # known from an earlier pass over the same bytes
    duration_ns: int
    detail: str = ""


class _Seen(Struct, frozen=True):
    """A file as it was when it was hashed."""

    size_bytes: int
    mtime_ns: int
    inode: int
    sha256: str


def verify(
    models: Sequence[Model], folder: Path, *, rehash: bool = False, workers: int | None = None
) -> tuple[Verdict, ...]:
    """Checks the released files of the models against their pins, one verdict a model, in order.

    Args:
        models: models with released weights.
        folder: where the files lie.
        rehash: read every file, also those known from an earlier pass.
        workers: files read at once; default: the number of cores.
    """
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        return tuple(pool.map(lambda model: verify_model(model, folder, rehash=rehash), models))


def verify_model(model: Model, folder: Path, *, rehash: bool = False) -> Verdict:
    """Checks one released file against its pin."""
    source = model.released()
    path = folder / source.file_name
    started_ns = now_ns()
    found, cached, detail = _find(path, rehash=rehash)
    return Verdict(
        name=model.name,
        file=source.file_name,
        state=_state(path, found, source.sha256),
        expected_sha256=source.sha256,
        expected_bytes=source.size_bytes,
        found_sha256=found.sha256 if found else None,
        found_bytes=found.size_bytes if found else None,
        cached=cached,
        duration_ns=now_ns() - started_ns,
        detail=detail,
    )


def require(verdicts: Iterable[Verdict]) -> None:
    """Refuses files that are there and are not what they should be; files that are not there pass.

    Raises:
        IntegrityError: naming each file with the expected and the found hash.
    """
    wrong = [verdict for verdict in verdicts if verdict.state in (FileState.DIFFERS, FileState.UNREADABLE)]
    if wrong:
        cure = "run `./artifact fetch`: it sets a wrong file aside as .corrupt and fetches it anew"
        raise IntegrityError("; ".join(_sentence(verdict) for verdict in wrong), cure=cure)


def verified_sha256(model: Model, folder: Path, *, rehash: bool = False) -> str:
    """The hash of the model's file, for the record; the file is what the registry promises.

    Raises:
        IntegrityError: it is not, or it is not there.
    """
    verdict = verify_model(model, folder, rehash=rehash)
    if verdict.state is FileState.MISSING:
        raise IntegrityError(
            "is not there", where=str(folder / verdict.file), cure=f"./artifact fetch --model {model.name}"
        )
    require([verdict])
    return verdict.expected_sha256


def sums(registry: Registry) -> str:
    """The text of checksums/models.sha256, as `sha256sum -c` and `shasum -a 256 -c` read it in the models folder."""
    pins = [model.released() for model in registry.with_weights()]
    return "".join(f"{pin.sha256}  {pin.file_name}\n" for pin in pins)


def remember(path: Path, sha256: str) -> None:
    """Notes the hash of a file that was just written and hashed on the way."""
    _remember(path, _seen(path.stat(), sha256))


def _find(path: Path, *, rehash: bool) -> tuple[_Seen | None, bool, str]:
    """The file as it is, whether that was known before, and why it could not be read."""
    try:
        descriptor = open_regular(path)
    except IntegrityError as error:
        return None, False, error.what
    try:
        before = os.fstat(descriptor)
        known = _recall(path)
        if not rehash and known and known == _seen(before, known.sha256):
            return known, True, ""
        found = _seen(before, sha256_of(descriptor))
        if _seen(os.fstat(descriptor), found.sha256) != found:
            return None, False, "changed while it was read"
    except OSError as error:
        return None, False, f"cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)
    _remember(path, found)
    return found, False, ""


def _state(path: Path, found: _Seen | None, expected: str) -> FileState:
    if found is None:
        return FileState.UNREADABLE if os.path.lexists(path) else FileState.MISSING
    return FileState.OK if found.sha256 == expected else FileState.DIFFERS


def _sentence(verdict: Verdict) -> str:
    if verdict.state is FileState.UNREADABLE:
        return f"{verdict.file} {verdict.detail}"
    return (
        f"{verdict.file}: expected sha256 {verdict.expected_sha256} ({verdict.expected_bytes} bytes), "
        f"found {verdict.found_sha256} ({verdict.found_bytes} bytes)"
    )


def _seen(status: os.stat_result, sha256: str) -> _Seen:
    return _Seen(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino, sha256=sha256)


def _read_cache(folder: Path) -> dict[str, _Seen]:
    """A cache that is not there or not readable is empty: the files are simply read again."""
    try:
        return msgspec.json.decode((folder / CACHE_NAME).read_bytes(), type=dict[str, _Seen])
    except (OSError, ValueError, RecursionError):
        return {}


def _recall(path: Path) -> _Seen | None:
    return _read_cache(path.parent).get(path.name)


def _remember(path: Path, seen: _Seen) -> None:
    """Adds to the cache; a folder that cannot be written to (a shared, read-only one) goes without."""
    cache = path.parent / CACHE_NAME
    try:
        with locked(path.parent / ".locks" / CACHE_NAME):
            entries = {**_read_cache(path.parent), path.name: seen}
            fresh = cache.with_suffix(".new")
            fresh.write_bytes(msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n")
            put_in_place(fresh, cache)
    except OSError:
        return
