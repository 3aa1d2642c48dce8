"""Reports from records alone, on a machine without compiler or llama.cpp; every Python minor gives the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from golden_report import DATA, GOLDEN

pytestmark = pytest.mark.minors

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("harness", "requirements", "configs", "reports/templates")
FILES = ("artifact", "tasks.py")
PROGRAMS = ("awk", "cat", "cksum", "df", "dirname", "sh", "tail", "tr", "uname")  # all that ./artifact may need here


def interpreter(minor: int) -> str | None:
    """A Python of that minor that can make environments: on the path, or one of pyenv's."""
    named = shutil.which(f"python3.{minor}")
    kept = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
    for candidate in (*([named] if named else []), *map(str, kept)):
        code = "import ensurepip, sys, venv; print(sys.executable)"  # the program itself: a shim needs a shell
        asked = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            return asked.stdout.strip()
    return None


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fresh clone holds of it: no environment, nothing compiled."""
    target = tmp_path_factory.mktemp("clone")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, target)
    tools = target / "tools"
    tools.mkdir()
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found, program
        (tools / program).symlink_to(found)
    return target


def run(checkout: Path, python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`./artifact ARGUMENTS` where no compiler is to be found."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environ = {**kept, "PATH": str(checkout / "tools"), "MOE_BUNDLE_PYTHON": python}
    command = [str(checkout / "artifact"), *arguments]
    return subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_every_minor_gives_the_same_bytes_without_llama_cpp(checkout: Path, tmp_path: Path, minor: int) -> None:
    python = interpreter(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} with venv here")
    shutil.rmtree(checkout / ".venv-report", ignore_errors=True)
    ran = run(checkout, python, "report", "--data", str(DATA), "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert not (checkout / ".venv").exists()
    packages = {path.name for path in checkout.glob(".venv-report/lib/python*/site-packages/*")}
    assert (checkout / ".venv-report" / "lib" / f"python3.{minor}").is_dir()
    assert not any(name.startswith(("llama_cpp", "docker", "psutil")) for name in packages)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(GOLDEN): path.read_bytes() for path in GOLDEN.rglob("*") if path.is_file()}
    assert set(made) == set(kept)
    assert [str(name) for name, data in made.items() if data != kept[name]] == []
    again = run(checkout, python, "claims", "--data", str(DATA))
    assert again.returncode == 0, again.stderr
    assert "making" not in again.stderr
    assert "C7" in again.stdout
