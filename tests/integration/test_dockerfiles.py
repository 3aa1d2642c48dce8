"""The Dockerfiles as far as they can be checked without their bases: linted, every argument known and resolved."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.study.environments import images
from harness.study.environments.images import BuildOptions

ROOT = Path(__file__).resolve().parents[2]
KNOWN = images.load(ROOT)
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint") or ""
USED = re.compile(r"\$\{?([A-Z][A-Z0-9_]*)\}?")
OF_A_SHELL = {"PATH"}

pytestmark = pytest.mark.docker


@pytest.mark.skipif(not HADOLINT, reason="no hadolint for this machine")
@pytest.mark.parametrize("name", list(KNOWN.images))
def test_hadolint_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(
        [HADOLINT, "--no-color", str(ROOT / images.dockerfile(name))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def instructions(name: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with their arguments, continued lines joined, comments left out."""
    text = (ROOT / images.dockerfile(name)).read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def value(known: Mapping[str, str], found: re.Match[str]) -> str:
    return known.get(found[1], found[0])


@pytest.mark.parametrize("name", list(KNOWN.images))
def test_every_argument_is_declared_where_it_is_used_and_resolves(name: str) -> None:
    """As the engine resolves them: global ones in FROM alone, those of a stage from their declaration on."""
    given = images.build_args(ROOT, KNOWN, name, BuildOptions(index_url="https://index.example/simple"), "commit")
    overall: dict[str, str] = {}
    stage: dict[str, str] | None = None
    bases = []
    for word, rest in instructions(name):
        known = overall if stage is None or word == "FROM" else stage
        used = set(USED.findall(rest)) - OF_A_SHELL
        assert used <= known.keys(), f"{word} uses {sorted(used - known.keys())} before any ARG or ENV"
        resolved = USED.sub(functools.partial(value, known), rest)
        assert not [one for one in used if f"${{{one}}}" in resolved]
        if word == "ARG":
            argument, _, default = rest.partition("=")
            known[argument] = given.get(argument, default.strip('"'))
        elif word == "ENV":
            known.update(re.findall(r"(\w+)=(\S+)", resolved))
        elif word == "FROM":
            bases.append(resolved.split()[0])
            stage = {}
    image = KNOWN.images[name]
    assert bases == [image.build_base.pinned, image.runtime_base.pinned]
    declared = {rest.partition("=")[0] for word, rest in instructions(name) if word == "ARG"}
    assert given.keys() - set(images.PROXIES) <= declared
