"""The dataset folder: records appended one line at a time, each on the disk before it counts.

`runs.jsonl` only ever grows; a line is acknowledged after fsync. A torn last line (power lost in mid-write) is set
aside on the next start; damage anywhere else is refused with its line number, and `salvage` writes what is whole to
another file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from harness import records
from harness.errors import EnvironmentLacking, IntegrityError, UsageError
from harness.records import Record, Struct
from harness.standing import Standing, standing

RUNS = "runs.jsonl"
DATASET = "dataset.json"
SUMS = "SHA256SUMS"
LOCK = ".lock"
GENERATED = ("report.html", "report.md", "tables", "figures")


class PlannedRun(Struct, frozen=True):
    """One planned run as dataset.json lists it."""

    run_id: str
    group: str
    experiment: str
    kind: str
    model: str
    label: str


class DatasetInfo(Struct, frozen=True):
    """dataset.json: what was planned, and why what is missing is missing."""

    schema: int
    suite: str
    device: str
    seed: int
    planned: tuple[PlannedRun, ...]
    not_run: dict[str, str] = msgspec.field(default_factory=dict)
    memory_available_bytes: int = 0  # when the plan was made: decides which models are alive together


def read_info(folder: Path) -> DatasetInfo | None:
    """dataset.json; null where there is none.

    Raises:
        IntegrityError: it is damaged.
    """
    path = folder / DATASET
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=DatasetInfo)
    except (ValueError, RecursionError) as error:
        cure = "remove it: --resume writes it anew"
        raise IntegrityError(f"not a dataset description: {error}", where=str(path), cure=cure) from None


Opener = Callable[[Path], BinaryIO]


def open_to_append(path: Path) -> BinaryIO:
    """Unbuffered: what `write` has taken is in the kernel's hands."""
    return path.open("ab", buffering=0)


class Store:
    """One dataset, held by one runner; `open` makes it."""

    def __init__(self, folder: Path, lock: BinaryIO, file: BinaryIO, notices: tuple[str, ...]) -> None:
        self.folder = folder
        self.notices = notices
        self._lock = lock
        self._file = file
        self._standing: dict[str, Standing] = {}
        self._repeated: set[str] = set()  # recorded, and to be measured once more

    @classmethod
    def open(cls, folder: Path, *, resume: bool, retry: bool = False, opener: Opener = open_to_append) -> Store:
        """Create or reopen a dataset and hold its lock until `close`.

        SHA256SUMS of an earlier session is taken away: it stands for a dataset that nobody is writing.

        Args:
            folder: of the dataset.
            resume: go on with what is there.
            retry: take runs that failed or were disturbed as not finished; their records stay.
            opener: opens runs.jsonl for appending.

        Raises:
            UsageError: the folder holds something already and `resume` is false, or it can't be written.
            EnvironmentLacking: another runner holds it, or the disk is full.
            IntegrityError: a line before the last is damaged.
        """
        path = folder / RUNS
        if not resume and _holds_something(folder):
            raise UsageError(
                "the folder is not empty", where=str(folder), cure="add --resume to go on, or choose another --out"
            )
        with contextlib.ExitStack() as held:
            lock = held.enter_context(_lock(folder))
            try:
                notices = _set_torn_tail_aside(path)
                store = cls(folder, lock, held.enter_context(opener(path)), notices)
                for record in read(path):
                    store._remember(record)
                store._repeated = store._below(Standing.SOUND) if retry else set()
                (folder / SUMS).unlink(missing_ok=True)
                sync_folder(folder)
            except OSError as error:
                raise _no_space(error, folder) from error
            held.pop_all()
        return store

    def _remember(self, record: Record) -> None:
        run_id = record.spec.run_id
        self._repeated.discard(run_id)
        stands = standing(record.termination, record.taints, record.spec.settings.memory_limit_bytes)
        self._standing[run_id] = max(stands, self._standing.get(run_id, Standing.FAILED))

    def _below(self, wanted: Standing) -> set[str]:
        return {run_id for run_id, stands in self._standing.items() if stands < wanted}

    @property
    def recorded(self) -> frozenset[str]:
        """Ids of all runs that have a record."""
        return frozenset(self._standing)

    @property
    def finished(self) -> frozenset[str]:
        """Ids of the runs that need not be measured any more."""
        return frozenset(self._standing.keys() - self._repeated)

    @property
    def failed(self) -> frozenset[str]:
        """Ids of the recorded runs that did not end well, in this session or an earlier one."""
        return frozenset(self._below(Standing.DISTURBED))

    @property
    def disturbed(self) -> frozenset[str]:
        """Ids of the runs that ended well and are left out of speed all the same."""
        return frozenset(self._below(Standing.SOUND) - self._below(Standing.DISTURBED))

    def append(self, record: Record) -> None:
        """Write one record; when this returns it survives a power cut.

        Raises:
            EnvironmentLacking: the disk is full; the file is as it was before.
        """
        if record.spec.run_id in self.finished:
            raise IntegrityError(f"run {record.spec.run_id} is recorded already", where=str(self.folder / RUNS))
        line = records.encode(record)
        length = os.fstat(self._file.fileno()).st_size
        try:
            _write_all(self._file, line)
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), length)
            raise _no_space(error, self.folder) from error
        self._remember(record)

    def describe(self, info: DatasetInfo) -> None:
        """Write dataset.json, whole or not at all."""
        replace_file(self.folder / DATASET, msgspec.json.format(msgspec.json.encode(info), indent=1) + b"\n")

    def seal(self) -> None:
        """Write SHA256SUMS over the raw data, in the form of `sha256sum -c`."""
        names = [name for name in (DATASET, RUNS) if (self.folder / name).exists()]
        lines = [f"{sha256(self.folder / name)}  {name}\n" for name in names]
        replace_file(self.folder / SUMS, "".join(lines).encode())

    def close(self) -> None:
        """Let the next runner in."""
        self._file.close()
        self._lock.close()


def read(path: Path) -> Iterator[Record]:
    """Records of a runs.jsonl.

    Raises:
        IntegrityError: a line is no record; file, line number and reason are named.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield records.decode(line)
            except ValueError as error:
                cure = "`./artifact report --salvage` writes the whole lines to a new file"
                raise IntegrityError(str(error), where=f"{path}, line {number}", cure=cure) from None


def salvage(path: Path, target: Path) -> tuple[int, int]:
    """Copy every whole record of a damaged file to a new one; counts of kept and dropped lines."""
    kept = dropped = 0
    with path.open("rb") as source, target.open("xb") as sink:
        for line in source:
            try:
                records.decode(line)
            except ValueError:
                dropped += 1
                continue
            sink.write(line if line.endswith(b"\n") else line + b"\n")
            kept += 1
    return kept, dropped


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        EnvironmentLacking, UsageError: the disk is full, or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _no_space(error, path.parent) from error


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut, as fsync does for bytes of a file."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sha256(path: Path) -> str:
    """Hex digest of a file, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds_something(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _no_space(error, folder) from error


def _lock(folder: Path) -> BinaryIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("ab")
    except OSError as error:
        raise _no_space(error, folder) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise EnvironmentLacking(
            "another study is writing here", where=str(folder), cure="wait for it, or choose another --out"
        ) from None
    return lock


def _set_torn_tail_aside(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return ()
    aside = _free_name(path)
    aside.write_bytes(data[whole:])
    with path.open("r+b") as file:
        file.truncate(whole)
        os.fsync(file.fileno())
    return (
        f"{path.name}: the last line was cut off in mid-write ({len(data) - whole} bytes); set aside as {aside.name}",
    )


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.torn-{number}")).exists():
        number += 1
    return candidate


def _write_all(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = file.write(view)
        view = view[written:]


def _no_space(error: OSError, folder: Path) -> EnvironmentLacking | UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentLacking("the disk is full", where=str(folder), cure="free some space, then --resume")
    return UsageError(f"can't be written: {error.strerror}", where=str(folder), cure="choose another --out")
