"""Writes a GGUF file from its layout and its contents: one pass, hashed on the way, complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from harness.errors import EnvironmentLacking
from harness.models.contents import Filler, Filling
from harness.models.proxy_layout import Layout, padded, write_header
from harness.records import Struct
from harness.units import human_bytes

SPARE_BYTES = 256 << 20  # left free on the disk
HASHES_AHEAD = 8  # pieces that may wait for the hash

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Stamp(Struct, frozen=True):
    """What a file looked like when its hash was taken."""

    sha256: str
    size_bytes: int
    mtime_ns: int
    inode: int


def stamp(path: Path, sha256: str) -> Stamp:
    """The stamp of a file whose hash is known."""
    status = path.stat()
    return Stamp(sha256=sha256, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


def write_layout(layout: Layout, filling: Filling, path: Path, progress: Progress | None) -> Stamp:
    """Header and data into a file beside `path`, renamed when complete and on disk.

    Raises:
        UsageError: a type whose blocks cannot be made.
        EnvironmentLacking: no disk space, no permission, or a write that failed.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_space(path.parent, layout.data_bytes)
        header_bytes = write_header(layout, part)
        sha256 = _append_data(layout, Filler(filling), part, header_bytes, progress)
        part.replace(path)
    except OSError as error:
        raise EnvironmentLacking(
            f"cannot write: {error.strerror or error}", where=str(path), cure="free some disk, or choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # the error that brought us here is the one to tell
            part.unlink(missing_ok=True)
    return stamp(path, sha256)


def _append_data(layout: Layout, filler: Filler, part: Path, header_bytes: int, progress: Progress | None) -> str:
    """Appends all tensors; the hash is computed in a thread beside, from the same memory."""
    digest = hashlib.sha256(part.read_bytes())
    total, done = header_bytes + layout.data_bytes, header_bytes
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "sha256") as hasher, part.open("ab", buffering=0) as stream:
        for piece in _data(layout, filler):
            waiting.append(hasher.submit(digest.update, piece))
            _write_all(stream.fileno(), piece)
            if len(waiting) > HASHES_AHEAD:
                waiting.popleft().result()
            done += len(piece)
            if progress is not None:
                progress(done, total)
        os.fsync(stream.fileno())  # also: no write-back disturbs the measurement that follows
    return digest.hexdigest()


def _data(layout: Layout, filler: Filler) -> Iterator[memoryview]:
    for tensor in layout.tensors:
        yield from filler.pieces(tensor)
        if padding := padded(tensor.size_bytes) - tensor.size_bytes:
            yield memoryview(bytes(padding))


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]


def _require_space(folder: Path, wanted_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes + SPARE_BYTES:
        raise EnvironmentLacking(
            f"{human_bytes(wanted_bytes)} are to be written, {human_bytes(free)} are free",
            where=str(folder),
            cure="free some disk, or choose another folder for the cache",
        )
