"""Released data: records compressed, checksums, schema, a README of every field, RO-Crate metadata; and their check."""

from __future__ import annotations

import ast
import gzip
import hashlib
import inspect
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from harness import records
from harness.analysis.load import load, read_plan, run_file
from harness.analysis.views import DatasetFile
from harness.errors import IntegrityError, UsageError

RUNS = "runs.jsonl.gz"
SUMS = "SHA256SUMS"
SCHEMA = "record.schema.json"
CRATE = "ro-crate-metadata.json"
README = "README.md"
PARTS = (RUNS, "dataset.json", SCHEMA, README, CRATE)
CROSSCHECK = "crosscheck.json"  # only where one of the datasets was checked against llama-bench


def write(data: Sequence[Path], out: Path, title: str, licence: str = "CC-BY-4.0") -> None:
    """Join datasets of one machine into a released one; the same records give the same bytes.

    Raises:
        UsageError: the datasets are of several machines, or a run stands in two of them.
        IntegrityError: a broken line.
    """
    lines = [list(_lines(run_file(path))) for path in data]
    datasets = [[records.decode(line) for line in of_one] for of_one in lines]
    decoded = [record for dataset in datasets for record in dataset]
    hosts = {record.provenance.host.fingerprint for record in decoded if record.provenance.host.fingerprint}
    if len(hosts) > 1:
        raise UsageError("the records are of several machines", where="release", cure="release each by itself")
    ids = [{record.spec.run_id for record in dataset} for dataset in datasets]  # within one: attempts
    if sum(map(len, ids)) != len(set().union(*ids)):
        raise UsageError("a run stands in two of the datasets", where="release")
    out.mkdir(parents=True, exist_ok=True)
    (out / RUNS).write_bytes(gzip.compress(b"".join(itertools.chain(*lines)), compresslevel=9, mtime=0))
    (out / "dataset.json").write_bytes(_pretty(msgspec.json.encode(_joined_plan(data))))
    for path in data:
        if (path / CROSSCHECK).is_file():
            shutil.copyfile(path / CROSSCHECK, out / CROSSCHECK)
    (out / SCHEMA).write_text(json.dumps(records.json_schema(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / README).write_text(_readme(title, decoded), encoding="utf-8")
    (out / CRATE).write_text(json.dumps(_crate(title, licence, _parts(out)), indent=1) + "\n", encoding="utf-8")
    (out / SUMS).write_text(_sums(out), encoding="utf-8")


def check(folder: Path) -> int:
    """Every file against its checksum, every record against the schema; the number of records.

    Raises:
        IntegrityError: one flipped byte anywhere.
    """
    found = _sums(folder)
    if _read(folder / SUMS) != found:
        raise IntegrityError(
            "does not fit the files beside it", where=str(folder / SUMS), cure=_first_misfit(folder, found)
        )
    load([folder])  # first: it bounds what it reads, and names file and line
    try:
        count = len([records.decode(line).spec.run_id for line in _lines(folder / RUNS)])
    except ValueError as error:
        raise IntegrityError(str(error), where=str(folder / RUNS)) from None
    if _read(folder / SCHEMA) != json.dumps(records.json_schema(), indent=1, sort_keys=True) + "\n":
        raise IntegrityError("is not the schema of these records", where=str(folder / SCHEMA))
    return count


def _lines(path: Path) -> Iterator[bytes]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        yield from file


def _pretty(raw: bytes) -> bytes:
    return msgspec.json.format(raw, indent=1) + b"\n"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IntegrityError(f"can't be read: {error.strerror}", where=str(path)) from None


def _parts(folder: Path) -> list[str]:
    return sorted((*PARTS, *([CROSSCHECK] if (folder / CROSSCHECK).exists() else [])))


def _sums(folder: Path) -> str:
    return "".join(f"{_sha256(folder / name)}  {name}\n" for name in _parts(folder))


def _first_misfit(folder: Path, found: str) -> str:
    listed = set(_read(folder / SUMS).split("\n"))
    names = [line.partition("  ")[2] for line in found.splitlines() if line not in listed]
    return f"fetch {names[0] if names else SUMS} anew"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise IntegrityError(f"can't be read: {error.strerror}", where=str(path)) from None


def _joined_plan(data: Sequence[Path]) -> DatasetFile:
    plans = [plan for path in data if (plan := read_plan(path)) is not None]
    if not plans:
        raise UsageError("none of the datasets has a dataset.json", where="release")
    return DatasetFile(
        schema=plans[0].schema,
        suite="+".join(plan.suite for plan in plans),
        device=plans[0].device,
        planned=tuple(run for plan in plans for run in plan.planned),
        not_run={run: reason for plan in plans for run, reason in plan.not_run.items()},
    )


def fields() -> Iterator[tuple[str, str, str, str]]:
    """(struct, field, type, meaning) of everything in a record, read from the comments of harness/records.py."""
    source = inspect.getsource(records)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef) or not any("Struct" in ast.unparse(base) for base in node.bases):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                comment = lines[item.lineno - 1].partition("  # ")[2]
                yield node.name, item.target.id, ast.unparse(item.annotation), comment


def _readme(title: str, decoded: Sequence[records.Record]) -> str:
    host = next(record.provenance.host for record in decoded if record.provenance.host.fingerprint)
    rows = "".join(
        f"| {struct} | `{name}` | `{kind.replace('|', 'or')}` | {meaning} |\n"
        for struct, name, kind, meaning in fields()
    )
    return (
        f"# {title}\n\n{len(decoded)} runs on {host.cpu_model} ({host.cores} cores, "
        f"{host.memory_bytes / 1e9:.0f} GB, {host.system} {host.kernel}).\n\n"
        f"`{RUNS}`: one record a line. `dataset.json`: what was planned. `{SCHEMA}`: JSON Schema of a record. "
        f"`sha256sum -c {SUMS}` checks all files; `./artifact release --check --data FOLDER` also decodes every "
        "record; `./artifact report --data FOLDER --out DIR` regenerates every table.\n\n"
        "Every interval is in nanoseconds of the machine's monotonic clock; units stand in the names. Null means not "
        "observed, and a reason stands beside it.\n\n"
        "| struct | field | type | meaning |\n|---|---|---|---|\n" + rows
    )


def _crate(title: str, licence: str, names: Sequence[str]) -> dict[str, object]:
    """RO-Crate 1.1: the descriptor, the root dataset, its files."""
    parts = [{"@id": name} for name in names if name != CRATE]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": title,
        "description": "Raw measurements of a reproduction of arXiv 2606.21428.",
        "license": licence,
        "hasPart": parts,
    }
    descriptor = {
        "@id": CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    files = [{"@id": part["@id"], "@type": "File"} for part in parts]
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": [descriptor, root, *files]}
