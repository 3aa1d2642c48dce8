"""From one context to HTML, Markdown, CSV, LaTeX and SVG; all files are made first, then put in place one by one."""

from __future__ import annotations

import csv
import errno
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2

from harness.analysis.claims import CLAIMS_FILE, ClaimVerdict, load_claims
from harness.analysis.evidence import Evidence
from harness.analysis.tables.base import Table
from harness.errors import EnvironmentLacking, UsageError
from harness.records import Struct
from harness.report import formats
from harness.report.context import Context

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "reports" / "templates"
REPORT = "report.html"


class ReportSummary(Struct, frozen=True):
    """What was written and what it says."""

    html: Path
    paths: tuple[Path, ...]
    answers: tuple[str, ...]  # one line a machine and MoE model
    comparisons: tuple[str, ...]  # one line a cell that two datasets have in common
    lines: tuple[str, ...]  # one line a claim
    verdicts: tuple[ClaimVerdict, ...]


def write_report(data: Sequence[Path], out: Path, claims: Path = ROOT / CLAIMS_FILE) -> ReportSummary:
    """Report of one or several datasets; the same records give the same bytes.

    Args:
        data: dataset folders or JSONL files; of several, the first is what the others are compared with.
        out: folder for report.html, report.md, tables/ and figures/; other files in it are left alone.
        claims: the claims to judge.

    Raises:
        UsageError: no data, an unknown schema version, or `out` can't be written.
        IntegrityError: a broken line; file and line are named.
        ConfigError: faults in the claims.
        EnvironmentLacking: the disk is full.
    """
    context = Context(Evidence.of(data), load_claims(claims))
    paths = _put(files(context), out)
    return ReportSummary(
        html=out / REPORT,
        paths=paths,
        answers=tuple(f"{answer.machine}: {answer.sentence}" for answer in context.answers),
        comparisons=context.comparisons,
        lines=tuple(verdict.line for verdict in context.verdicts),
        verdicts=context.verdicts,
    )


def files(context: Context) -> dict[str, str]:
    """Text of every file of a report by its path in the folder."""
    html = _environment(autoescape=True)
    plain = _environment(autoescape=False)
    made = {
        REPORT: html.get_template("report.html.j2").render(report=context),
        "report.md": plain.get_template("report.md.j2").render(report=context),
    }
    tex = plain.get_template("table.tex.j2")
    for table in context.tables:
        made[f"tables/{table.id}.csv"] = csv_text(table)
        made[f"tables/{table.id}.tex"] = tex.render(table=table)
    for figure in context.figures:
        made[f"figures/{figure.id}.svg"] = figure.standalone
    return made


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,  # noqa: S701 - Markdown and LaTeX escape by filters of their own
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "shown": formats.shown,
        "raw": formats.raw,
        "latex": formats.latex,
        "md": formats.markdown,
        "whole": formats.whole_names,
    }
    return environment


def csv_text(table: Table) -> str:
    """Raw values, one header line; `marks` holds the watermarks of a row."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*(column.key for column in table.columns), "marks"])
    for row in table.rows:
        writer.writerow([*map(formats.raw, row.values), " ".join(row.marks)])
    return stream.getvalue()


def _put(texts: dict[str, str], out: Path) -> tuple[Path, ...]:
    """All files into a folder beside their places, then each renamed: nothing is ever half-written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".report-", dir=out))
    except OSError as error:
        raise _unwritable(error, out) from error
    try:
        for name, text in texts.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_bytes(text.encode())
        for name in texts:  # all obstacles are met before the first file moves
            (out / name).parent.mkdir(exist_ok=True)
            if (out / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder is in the way", name)
        for name in texts:
            (staging / name).replace(out / name)
        _remove_stale(out, texts)
    except OSError as error:
        raise _unwritable(error, out) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return tuple(out / name for name in texts)


def _remove_stale(out: Path, texts: dict[str, str]) -> None:
    """Figures of an earlier report that this one does not have; a file that no report wrote is left alone."""
    for path in out.glob("figures/*.svg"):
        if path.relative_to(out).as_posix() not in texts and f'"figure-{path.stem}-t ' in path.read_text("utf-8"):
            path.unlink()


def _unwritable(error: OSError, out: Path) -> UsageError | EnvironmentLacking:
    if error.errno == errno.ENOSPC:
        return EnvironmentLacking("the disk is full", where=str(out), cure="free some space, or choose another --out")
    return UsageError(f"cannot be written: {error.strerror}", where=str(out), cure="choose another --out")
