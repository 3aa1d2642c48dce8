"""The lock of the report's small environment is a part of the whole one's, and all that reports import is in it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READS_RECORDS = ("harness/analysis", "harness/report")
COMMANDS = ("harness/cli.py", "harness/pair_option.py", "tasks.py")


def pins(name: str) -> dict[str, str]:
    """Each pinned package with its markers and hashes, by name and version."""
    blocks = re.split(r"(?m)^(?=\S)", (ROOT / "requirements" / name).read_text(encoding="utf-8"))
    return {block.partition(" ")[0]: block for block in blocks if block}


def test_the_small_lock_is_a_part_of_the_whole_one() -> None:
    whole, small = pins("runtime.lock"), pins("report.lock")
    assert small
    assert {name: whole.get(name) for name in small} == small


def test_no_program_is_compiled_for_a_report() -> None:
    names = {name.partition("==")[0] for name in pins("report.lock")}
    assert not names & {"llama-cpp-python", "docker", "psutil", "gguf"}


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports outside the functions of other commands."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_all_that_reports_import_is_pinned_there() -> None:
    files = [path for folder in READS_RECORDS for path in (ROOT / folder).rglob("*.py")]
    wanted = set().union(*(imported(path) for path in [*files, *(ROOT / name for name in COMMANDS)]))
    outside = {name for name in wanted if name not in sys.stdlib_module_names and name != "harness"} | {"rich"}
    pinned = {name.partition("==")[0] for name in pins("report.lock")}
    assert outside <= pinned
