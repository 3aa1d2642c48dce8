"""Bytes of a download that is under way: on disk and hashed the moment they arrive, so that a cut loses none."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

from harness.errors import IntegrityError
from harness.models.files import feed, put_in_place
from harness.models.registry import Source


class Progress(Protocol):
    """What a fetch tells whoever watches; several models may be under way at once."""

    def begin(self, name: str, size_bytes: int, done_bytes: int) -> None:
        """A file of `size_bytes` is on its way, `done_bytes` of it are there; called again when it restarts."""

    def advance(self, name: str, count_bytes: int) -> None:
        """So many more bytes are there."""

    def note(self, name: str, message: str) -> None:
        """Something a user may wonder about: a wait, a retry, a file set aside."""

    def end(self, name: str) -> None:
        """The file is complete and in place."""


class Silence:
    """Nobody watches."""

    def begin(self, name: str, size_bytes: int, done_bytes: int) -> None:
        """Says nothing."""

    def advance(self, name: str, count_bytes: int) -> None:
        """Says nothing."""

    def note(self, name: str, message: str) -> None:
        """Says nothing."""

    def end(self, name: str) -> None:
        """Says nothing."""


class PartFile:
    """`FILE.HASH.part` beside the target; bytes from an earlier attempt are hashed once, when it is opened."""

    def __init__(self, name: str, source: Source, folder: Path, progress: Progress) -> None:
        self.name = name
        self.source = source
        self.progress = progress
        self.target = folder / source.file_name
        # The pin is part of the name: another revision never continues these bytes.
        self.path = part_path(source, folder)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._digest = hashlib.sha256()
        self.size_bytes = feed(self._descriptor, self._digest.update)
        progress.begin(name, source.size_bytes, self.size_bytes)

    @property
    def lacking_bytes(self) -> int:
        """What is still to come; 0 when all is there, or more than all."""
        return max(0, self.source.size_bytes - self.size_bytes)

    def append(self, chunk: bytes) -> None:
        """Writes through to the file at once."""
        self._digest.update(chunk)
        written = 0
        while written < len(chunk):
            written += os.write(self._descriptor, chunk[written:])
        self.size_bytes += len(chunk)
        self.progress.advance(self.name, len(chunk))

    def restart(self) -> None:
        """Forgets all bytes."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.truncate(self._descriptor, 0)
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self.progress.begin(self.name, self.source.size_bytes, 0)

    def accept(self) -> Path:
        """Makes it the model's file if it is the promised one.

        Raises:
            IntegrityError: it is not; the bytes lie in FILE.corrupt.
        """
        found = self._digest.hexdigest()
        if found != self.source.sha256:
            aside = set_aside(self.path, self.target)
            raise IntegrityError(
                f"expected sha256 {self.source.sha256} ({self.source.size_bytes} bytes), "
                f"found {found} ({self.size_bytes} bytes), kept as {aside.name}",
                where=str(self.target),
                cure="fetch again; if it happens again, what lies between here and the source changes the bytes",
            )
        os.fsync(self._descriptor)
        put_in_place(self.path, self.target)
        self.progress.end(self.name)
        return self.target

    def close(self) -> None:
        """Lets go of the file; an unfinished one stays for the next attempt."""
        os.close(self._descriptor)


def part_path(source: Source, folder: Path) -> Path:
    """Where unfinished bytes of this pin lie."""
    return folder / f"{source.file_name}.{source.sha256[:12]}.part"


def set_aside(path: Path, target: Path) -> Path:
    """Keeps a wrong file for inspection under a name that nothing uses."""
    aside = target.with_name(f"{target.name}.corrupt")
    path.replace(aside)
    return aside
