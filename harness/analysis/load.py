"""From files to `Dataset`: every line checked, only needed fields kept, order of lines and of files without effect."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.analysis import memory_phases
from harness.analysis.bursts import BurstColumns, Bursts
from harness.analysis.crosscheck import read_crosscheck
from harness.analysis.memory_phases import phase_memory
from harness.analysis.power import pack, why_no_power
from harness.analysis.runs import Cell, Experts, Run, Setup, Shared, peak_memory, plain_workload
from harness.analysis.silent import adopted
from harness.analysis.thermal import peaks
from harness.analysis.views import DatasetFile, MeasuredView, RecordView
from harness.crosscheck_file import Crosscheck
from harness.errors import BundleError, IntegrityError, UsageError
from harness.limits import TooLongError, holds_huge_number, numbered
from harness.records import SCHEMA_VERSION
from harness.standing import Standing
from harness.terms import RunKind

RUN_FILES = ("runs.jsonl", "runs.jsonl.gz")
PLAN_FILE = "dataset.json"
DATASET_SCHEMA = 1
CURE = "restore the file, or remove that line"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One folder (or bare JSONL file) of records."""

    index: int  # place in the order given
    plan: DatasetFile | None  # null for a bare JSONL file
    digest: str  # of all lines, whatever their order
    runs: tuple[Run, ...]
    superseded: int  # failed or disturbed attempts of runs that were tried again
    crosscheck: Crosscheck | None  # null where llama-bench was not asked


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """All datasets of a report; `run` of a burst is the index of its run."""

    datasets: tuple[Dataset, ...]
    runs: tuple[Run, ...]
    bursts: Bursts


class _Line(msgspec.Struct):
    """A line that was taken in; `place` is its number among the bursts' runs before they are put in order."""

    number: int
    digest: bytes
    place: int
    run: Run


def load(paths: Sequence[Path]) -> Loaded:
    """Reads datasets: folders with runs.jsonl or runs.jsonl.gz, or such files by themselves.

    Raises:
        UsageError: no data there, or a schema version that this bundle does not read.
        IntegrityError: a line that is no record; the message names file and line.
    """
    reader = _Reader()
    datasets = tuple(reader.dataset(index, path) for index, path in enumerate(paths))
    runs = tuple(run for dataset in datasets for run in dataset.runs)
    return Loaded(datasets, runs, reader.columns.finish(reader.places))


class _Reader:
    """Takes lines in as they come and puts runs in the order of the plan."""

    def __init__(self) -> None:
        self.columns = BurstColumns()
        self.places: list[int] = []  # of each run in its final order, its place among the lines
        self._shared = Shared()
        self._taken = 0

    def dataset(self, index: int, path: Path) -> Dataset:
        """One dataset, its lines in the order of the plan."""
        file = run_file(path)
        by_id: dict[str, _Line] = {}
        digests: set[bytes] = set()
        superseded = 0
        for number, digest, view in _lines(file):
            if digest in digests:
                continue
            digests.add(digest)
            line = self._take(number, digest, view, index)
            known = by_id.get(line.run.run_id)
            superseded += known is not None
            by_id[line.run.run_id] = line if known is None else _completed(known, line, file)
        if not by_id:
            raise UsageError("no records in it", where=str(file), cure="measure first: ./artifact reproduce")
        lines = sorted(by_id.values(), key=_plan_order)
        self.places += [line.place for line in lines]
        digest_of_all = hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()
        runs = adopted([line.run for line in lines])
        return Dataset(index, read_plan(path), digest_of_all, runs, superseded, read_crosscheck(path))

    def _take(self, number: int, digest: bytes, view: RecordView, dataset: int) -> _Line:
        place = self._taken
        self._taken += 1
        for burst in view.measured.bursts if view.measured else ():
            self.columns.add(place, burst, view.spec.workload.settle_tokens)
        return _Line(number, digest, place, _run(view, dataset, self._shared))


def run_file(path: Path) -> Path:
    """The file of records that `path` means."""
    if path.is_file():
        return path
    for name in RUN_FILES:
        if (path / name).is_file():
            return path / name
    what = f"no {RUN_FILES[0]} in it" if path.is_dir() else "no such file or folder"
    raise UsageError(what, where=str(path), cure="name a dataset folder or a JSONL file of records")


def read_plan(path: Path) -> DatasetFile | None:
    """dataset.json of a folder; null where `path` is a bare file or has none."""
    place = path / PLAN_FILE
    if not path.is_dir() or not place.is_file():
        return None
    try:
        plan = msgspec.json.decode(place.read_bytes(), type=DatasetFile)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"not a dataset description: {error}", where=str(place), cure="restore the file") from None
    if plan.schema != DATASET_SCHEMA:
        raise _unknown_schema(plan.schema, str(place))
    return plan


def _unknown_schema(found: object, where: str) -> UsageError:
    return UsageError(
        f"schema version {found!r} is not known",
        where=where,
        cure=f"this bundle reads version {SCHEMA_VERSION}: use the release of the bundle that wrote the data",
    )


def _completed(one: _Line, other: _Line, file: Path) -> _Line:
    """Of two records of one run, the one that stands higher; two sound ones contradict each other."""
    if one.run.standing is other.run.standing is Standing.SOUND:
        first, second = sorted((one.number, other.number))
        raise IntegrityError(
            f"two different records of run {one.run.run_id}, the other on line {first}",
            where=f"{file}, line {second}",
            cure="keep one of them",
        )
    return max(one, other, key=lambda line: (line.run.standing, line.digest))  # the digest: a rule that knows no order


def _plan_order(line: _Line) -> tuple[int, str, int, str, str, str]:
    run = line.run
    schedule = run.schedule
    return schedule.order, schedule.group, schedule.block, schedule.cohort, run.cell.model.name, run.run_id


def _lines(file: Path) -> Iterator[tuple[int, bytes, RecordView]]:
    decoder = msgspec.json.Decoder(RecordView)
    for number, raw in _numbered(file):
        where = f"{file}, line {number}"
        if not raw.strip():
            continue
        try:
            view = decoder.decode(raw)
            huge = holds_huge_number(raw)
        except (ValueError, RecursionError) as error:
            raise _broken(raw, error, where) from None
        if huge:
            raise IntegrityError("not a record: a number beyond 2^62", where=where, cure=CURE)
        if view.spec.schema != SCHEMA_VERSION:
            raise _unknown_schema(view.spec.schema, where)
        yield number, hashlib.blake2b(raw.strip(), digest_size=16).digest(), view


def _numbered(file: Path) -> Iterator[tuple[int, bytes]]:
    opened = gzip.open if file.suffix == ".gz" else Path.open
    try:
        with opened(file, "rb") as stream:
            yield from numbered(stream)
    except TooLongError as error:
        raise IntegrityError(f"not records: {error}", where=str(file), cure=CURE) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise IntegrityError(f"broken compression: {error}", where=str(file), cure="fetch the file again") from None
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(file), cure="check its permissions") from None


def _broken(raw: bytes, error: Exception, where: str) -> BundleError:
    """What is wrong with a line: a schema of another version explains fields that do not fit."""
    try:
        schema = msgspec.json.decode(raw, type=_Version).spec.schema
    except (ValueError, RecursionError):
        schema = SCHEMA_VERSION
    if schema != SCHEMA_VERSION:
        return _unknown_schema(schema, where)
    return IntegrityError(f"not a record: {error}", where=where, cure=CURE)


class _SpecVersion(msgspec.Struct):
    schema: int


class _Version(msgspec.Struct):
    spec: _SpecVersion


def _run(view: RecordView, dataset: int, shared: Shared) -> Run:
    spec = view.spec
    measured = view.measured
    bursts = measured.bursts if measured else []
    ledger = measured.memory if measured else None
    phases = phase_memory(ledger, spec.environment, view.telemetry) if spec.kind is RunKind.SOLO else ()
    return Run(
        run_id=spec.run_id,
        kind=spec.kind,
        suite=spec.suite,
        cell=shared.one(_cell(view, dataset, shared)),
        schedule=shared.one(spec.schedule),
        prompt_id=spec.workload.prompt_id,
        provenance=shared.one(msgspec.structs.replace(view.provenance, taken_at_utc="")),
        taken_at_utc=view.provenance.taken_at_utc,
        termination=shared.one(view.termination),
        taints=shared.one(view.taints),
        load_ns=measured.load_ns if measured else None,
        experts=shared.one(_experts(measured)),
        memory=peak_memory(ledger, spec.environment, phases),
        phases=memory_phases.pack(phases),
        peaks=peaks(view.telemetry, bursts),
        power=pack(view.telemetry, bursts),
        why_no_power=shared.one(why_no_power(view.telemetry)),
        profile=measured.profile if measured else None,
        routing=measured.routing if measured else None,
        bandwidth=measured.bandwidth if measured else (),
    )


def _cell(view: RecordView, dataset: int, shared: Shared) -> Cell:
    spec = view.spec
    provenance = view.provenance
    setup = Setup(
        schema=spec.schema,
        device=spec.device,
        engine=spec.engine,
        origin=view.origin,
        environment=spec.environment,
        llama_cpp_commit=provenance.llama_cpp_commit,
        build_flags=provenance.build_flags,
        power_mode=provenance.power_mode,
        fingerprint=provenance.host.fingerprint,
    )
    return Cell(
        dataset=dataset,
        setup=shared.one(setup),
        experiment=spec.experiment,
        group=spec.schedule.group.removesuffix(f"/{spec.workload.prompt_id}"),
        model=shared.one(spec.model),
        workload=shared.one(plain_workload(spec.workload)),
        settings=shared.one(spec.settings),
    )


def _experts(measured: MeasuredView | None) -> Experts | None:
    if measured is None or measured.warmup is None:
        return None
    warmup = measured.warmup
    reached = warmup.experts_routed + warmup.experts_touched
    return Experts(warmup.experts_total, reached, warmup.steady, len(warmup.token_ns))
