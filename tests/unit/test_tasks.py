"""Every command explains itself, and what the documents name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import tasks as task_file  # noqa: E402 - found at the root of the checkout

AnyTask = Task[Callable[..., Any]]
TASKS: dict[str, AnyTask] = dict(Collection.from_module(task_file).tasks)
DOCUMENTS = [path for name in ("README.md", "ARTIFACT.md", "CONTRIBUTING.md") if (path := ROOT / name).exists()]
COMMAND = re.compile(r"\./artifact ([a-z]+)((?: +--[a-z-]+(?:[ =][^\s`|-][^\s`|]*)?)*)")


def invoked(*arguments: str) -> str:
    ran = subprocess.run([sys.executable, "-m", "invoke", *arguments], cwd=ROOT, capture_output=True, text=True)  # noqa: PLW1510
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def flags(task: AnyTask) -> set[str]:
    return {name for argument in task.get_arguments() for name in argument.names if len(name) > 1}


def test_the_list_of_commands_has_a_line_for_each() -> None:
    listed = dict(re.findall(r"^ +([a-z-]+) +(\S.*)$", invoked("--list"), re.MULTILINE))
    assert set(TASKS) <= set(listed)  # long lines are wrapped: the words of the second part are listed as well


@pytest.mark.parametrize("name", TASKS)
def test_every_command_and_every_option_is_explained(name: str) -> None:
    task = TASKS[name]
    assert task.__doc__
    assert len(task.__doc__.splitlines()[0]) <= 90
    for argument in task.get_arguments():
        assert argument.help, f"{name} --{argument.name}"


def test_help_of_a_command_shows_its_options() -> None:
    shown = invoked("--help", "reproduce")
    assert all(f"--{flag.replace('_', '-')}" in shown for flag in flags(TASKS["reproduce"]))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_and_options_that_exist(path: Path) -> None:
    for command, rest in COMMAND.findall(path.read_text(encoding="utf-8")):
        assert command in TASKS, f"{path.name}: ./artifact {command}"
        for flag in re.findall(r"--([a-z-]+)", rest):
            assert flag in flags(TASKS[command]), f"{path.name}: ./artifact {command} --{flag}"


def test_every_command_stands_in_the_documents() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert [name for name in TASKS if not re.search(rf"\./artifact {name}\b|`{name}`", text)] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "--nonsense"), "bench: No idea what '--nonsense' is!"),
        (("--nonsense",), "--nonsense"),
        (("nonsense",), "nonsense"),
        (("bench", "--suite"), "suite"),
        (("crosscheck", "--rounds", "many"), "many"),
        (("--help", "nonsense"), "nonsense"),
    ],
    ids=" ".join,
)
def test_what_was_typed_wrong_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    command = [sys.executable, "-m", "harness.cli_program", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert words in ran.stderr
    assert " -> ./artifact --" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_the_version_is_that_of_the_project(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "harness.cli_program", "--version"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert ran.stdout.split() == ["artifact", tomllib.load(file)["project"]["version"]]


def test_the_launcher_runs_that_program_and_imports_nothing_from_where_it_is_called(tmp_path: Path) -> None:
    """A dataset folder from a stranger may hold a file named like one of our modules."""
    last = (ROOT / "artifact").read_text().rstrip().splitlines()[-1]
    assert " -P -m harness.cli_program " in last
    for name in ("invoke", "harness", "tasks", "msgspec"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('executed')")
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "harness.cli_program", "--search-root", str(ROOT), "--list"]
    ran = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "reproduce" in ran.stdout
