"""The import arrows of the package, read from its sources: who may know whom, and where heavy libraries load."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "harness"
ROOMS = ("llamacpp", "models", "study", "measure", "analysis", "report")
MAY_IMPORT = {
    "": set(),  # the ground floor: errors, units, clock, records, protocols, options, file readers
    "cli": {"report", "analysis", "study", "models"},
    "report": {"analysis"},
    "analysis": set(),
    "study": {"models"},
    "measure": {"llamacpp"},
    "models": {"llamacpp"},
    "llamacpp": set(),
}
ONLY_IN = {  # library -> files that may import it at all
    "llama_cpp": ("harness/llamacpp/",),
    "docker": ("harness/study/environments/container.py",),
    "pandas": ("harness/analysis/", "harness/report/"),
    "matplotlib": ("harness/analysis/",),
    "jinja2": ("harness/report/",),
    "jtop": ("harness/measure/telemetry/",),
    "pynvml": ("harness/measure/telemetry/",),
    "zeus_apple_silicon": ("harness/measure/telemetry/",),
    "invoke": ("tasks.py", "harness/pair_option.py", "harness/cli_program.py"),
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, at the top or inside, as a dotted name."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    inner = path.relative_to(PACKAGE).parts
    if len(inner) > 1:
        return inner[0]
    return "cli" if inner[0].startswith("cli") else ""


def named_room(module: str) -> str | None:
    """The room of a dotted name below `harness`; None for other packages."""
    parts = module.split(".")
    if parts[0] != "harness" or len(parts) < 2:
        return None
    if parts[1] in ROOMS:
        return parts[1]
    return "cli" if parts[1].startswith("cli") else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_one_way(path: Path) -> None:
    here = room_of(path)
    there = {room: module for module in imports_of(path) if (room := named_room(module)) is not None}
    wrong = {module for room, module in there.items() if room not in MAY_IMPORT[here] | {here, ""}}
    assert not wrong, f"{here or 'the ground floor'} imports {', '.join(sorted(wrong))}"


def test_every_room_is_known() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    allowed = ONLY_IN[library]
    for path in (*SOURCES, ROOT / "tasks.py"):
        name = str(path.relative_to(ROOT))
        if any(module.split(".")[0] == library for module in imports_of(path)):
            assert name.startswith(allowed), f"{name} imports {library}"


def test_models_reaches_llama_cpp_through_the_quantizer_only() -> None:
    for path in PACKAGE.glob("models/*.py"):
        reached = {module for module in imports_of(path) if named_room(module) == "llamacpp"}
        assert {module.split(".")[2] for module in reached} <= {"quantizer"}, path.name


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in memory after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


HEAVY = {"llama_cpp", "pandas", "matplotlib", "docker", "numpy", "jinja2", "jtop", "gguf"}


@pytest.mark.parametrize(
    ("statement", "may_load"),
    [
        ("import tasks", set()),
        ("import harness.cli", set()),
        ("import harness.study.conduct", {"numpy", "gguf"}),
        ("import harness.measure.worker, harness.measure.fake", set()),
        ("import harness.measure.worker, harness.measure.llama, harness.measure.probed_llama", {"llama_cpp"}),
        ("import harness.measure.telemetry.__main__", set()),
        ("import harness.report.render", {"pandas", "matplotlib", "numpy", "jinja2"}),
    ],
)
def test_heavy_libraries_load_only_where_they_are_used(statement: str, may_load: set[str]) -> None:
    assert loaded_by(statement) & HEAVY <= may_load


def test_nothing_is_executed_or_unpickled_from_data() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "torch"}
    for path in (*SOURCES, ROOT / "tasks.py"):
        assert not forbidden & {module.split(".")[0] for module in imports_of(path)}, path
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "compile", "__import__", "os.system"}, f"{path}: {called}"
                assert not any(one.arg == "shell" for one in node.keywords), f"{path}: shell"


WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "time.localtime", "time.gmtime"}
DATES_FOR_PEOPLE = {"harness/study/provenance.py", "harness/study/crosscheck.py"}  # taken_at_utc of a file


def test_no_interval_comes_from_a_clock_that_can_be_set() -> None:
    """What settimeofday does to a running study: nothing, because nothing but a date for people is read from it."""
    for path in SOURCES:
        called = {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}
        text = path.read_text(encoding="utf-8")
        if called & WALL_CLOCKS or "CLOCK_REALTIME" in text:
            assert str(path.relative_to(ROOT)) in DATES_FOR_PEOPLE, path
