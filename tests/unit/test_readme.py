"""Every shell block of the documents is one that something executes as it stands, or that is planned here."""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import readme_blocks
from invoke.collection import Collection
from invoke.parser import Parser
from readme_blocks import BLOCKS, RunBy

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import tasks as task_file  # noqa: E402 - found at the root of the checkout


def test_every_block_has_someone_who_runs_it_and_none_is_stale() -> None:
    assert {command for _, command in readme_blocks.commands()} == set(BLOCKS)


def test_the_main_job_is_the_first_block_of_the_readme() -> None:
    assert readme_blocks.commands()[0] == ("README.md", "./artifact reproduce")


@pytest.mark.parametrize("command", BLOCKS)
def test_a_block_is_one_that_the_parser_takes(command: str) -> None:
    program, *words = shlex.split(command)
    assert program == "./artifact"
    contexts = copy.deepcopy(Collection.from_module(task_file)).to_contexts()  # they take the help from their tasks
    (parsed,) = Parser(contexts=contexts).parse_argv(words)
    assert parsed.name == words[0]


@pytest.mark.parametrize("command", readme_blocks.of(RunBy.CI))
def test_what_ci_is_said_to_run_stands_there_word_for_word(command: str) -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert any(f" {command} " in f" {line} " for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("command", readme_blocks.of(RunBy.PLANNED))
def test_what_takes_long_has_a_plan_with_the_same_options(command: str) -> None:
    options = shlex.split(command)[2:]
    planned = [sys.executable, "-m", "invoke", "plan", "--json", *options]
    done = subprocess.run(planned, cwd=ROOT, capture_output=True, text=True, check=True)
    plan = json.loads(done.stdout)
    assert plan["suite"] == "quick"
    assert 1 < plan["minutes"] < 20
    assert plan["cohorts"]
