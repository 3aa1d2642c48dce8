"""Known vulnerabilities of the locked packages: pip-audit over the locks, with exceptions that are written down.

A service that can't be asked is no pass: every package that nobody looked up is counted and told.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.config_tables import read_toml
from harness.errors import EnvironmentLacking, IntegrityError

EXCEPTIONS = "audit-exceptions.toml"
SERVICES = ("osv", "pypi")  # asked in turn until one answers for every package
TIMEOUT_S = 15  # of one connection


class Vulnerability(msgspec.Struct, frozen=True):
    """One advisory as pip-audit tells it."""

    id: str
    fix_versions: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class Dependency(msgspec.Struct, frozen=True):
    """One locked package; `skip_reason`: why nobody looked it up."""

    name: str
    version: str = ""
    vulns: tuple[Vulnerability, ...] = ()
    skip_reason: str = ""


class Answer(msgspec.Struct, frozen=True):
    """pip-audit's report."""

    dependencies: tuple[Dependency, ...]


class Exceptions(msgspec.Struct, frozen=True):
    """Advisories that are accepted: id -> why."""

    exceptions: dict[str, str] = {}


@dataclass(frozen=True)
class Silence:
    """A service that gave no report, with its last words."""

    words: str


Ask = Callable[[str], Answer | Silence]


def audit(root: Path, ask: Ask, say: Callable[[str], None]) -> None:
    """Ask for every package of the locks.

    Raises:
        IntegrityError: a package has a known vulnerability that is no written exception.
        EnvironmentLacking: no service could be asked about every package: nothing is proven.
        ConfigError: the file of exceptions has faults.
    """
    folder = root / "requirements"
    accepted = read_toml(folder / EXCEPTIONS, Exceptions).exceptions
    answer = _first_answer(ask)
    found = list(_open_advisories(answer.dependencies, accepted))
    if found:
        cure = f"lock a version without it, or write the exception and its reason into requirements/{EXCEPTIONS}"
        raise IntegrityError("; ".join(found), where="requirements", cure=cure)
    for unused in sorted(set(accepted) - set(_ids(answer.dependencies))):
        say(f"{EXCEPTIONS}: {unused} is not found any more, remove it")
    say(f"{len(answer.dependencies)} locked packages, no known vulnerability but {len(accepted)} written exceptions")


def _first_answer(ask: Ask) -> Answer:
    why = []
    for service in SERVICES:
        answer = ask(service)
        if isinstance(answer, Silence):
            why.append(f"{service}: {answer.words}")
            continue
        unknown = [one.name for one in answer.dependencies if one.skip_reason]
        if not unknown and answer.dependencies:
            return answer
        why.append(f"{service}: {len(unknown)} of {len(answer.dependencies)} packages could not be looked up")
    what = f"no vulnerability service could be asked, nothing was checked ({'; '.join(why)})"
    raise EnvironmentLacking(what, where="audit", cure="run it where the Internet can be reached")


def _open_advisories(dependencies: Iterable[Dependency], accepted: Mapping[str, str]) -> Iterator[str]:
    for one in dependencies:
        for advisory in one.vulns:
            if not {advisory.id, *advisory.aliases} & set(accepted):
                fixed = f", fixed in {', '.join(advisory.fix_versions)}" if advisory.fix_versions else ""
                yield f"{one.name} {one.version}: {advisory.id}{fixed}"


def _ids(dependencies: Iterable[Dependency]) -> Iterator[str]:
    for one in dependencies:
        for advisory in one.vulns:
            yield from (advisory.id, *advisory.aliases)


def ask_pip_audit(root: Path) -> Ask:
    """pip-audit of this environment over all locks; it resolves nothing and installs nothing."""

    def ask(service: str) -> Answer | Silence:
        done = subprocess.run(_command(root, service), capture_output=True, check=False)
        try:
            return msgspec.json.decode(done.stdout, type=Answer)
        except ValueError:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            return Silence(words[-1][:100])

    return ask


def _command(root: Path, service: str) -> Sequence[str]:
    found = sorted((root / "requirements").glob("*.lock"))
    locks = [word for lock in found for word in ("--requirement", str(lock))]
    quiet = ("--format", "json", "--desc", "off", "--progress-spinner", "off", "--timeout", str(TIMEOUT_S))
    options = ("--disable-pip", "--require-hashes", "--vulnerability-service", service, *quiet)
    return (sys.executable, "-m", "pip_audit", *options, *locks)
