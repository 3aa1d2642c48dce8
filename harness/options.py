"""Options of the commands as structs: what a user may ask for, checked before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from harness.errors import UsageError
from harness.terms import EnvironmentKind, Weights

Choice = TypeVar("Choice", bound=StrEnum)
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What `reproduce`, `bench`, `profile` and `plan` take."""

    device: str = AUTO
    suite: str = "quick"
    weights: Weights | None = None  # null: auto
    out: Path
    environment: EnvironmentKind = EnvironmentKind.NATIVE
    resume: bool = False
    retry: bool = False  # resume, and failed or disturbed runs once more
    host: str = ""  # address of another machine's engine; empty: this machine
    fake: bool = False


def study_options(
    *,
    device: str,
    suite: str,
    weights: str,
    out: str,
    env: str,
    resume: bool,
    retry: bool = False,
    host: str = "",
    fake: bool = False,
) -> StudyOptions:
    """Options from the command line.

    Raises:
        UsageError: a value that is none of the choices.
    """
    environment = choice(EnvironmentKind, env, "--env")
    return StudyOptions(
        device=device,
        suite=suite,
        weights=None if weights == AUTO else choice(Weights, weights, "--weights", also=AUTO),
        out=Path(out or f"out-{suite}"),
        environment=EnvironmentKind.CONTAINER if host else environment,  # over there everything runs in containers
        resume=resume or retry,
        retry=retry,
        host=checked_host(host),
        fake=fake,
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A study's options as they were typed, for one machine or for several."""

    device: str
    suite: str
    weights: str
    out: str
    env: str
    resume: bool
    retry: bool = False

    def options(self, host: str = "") -> StudyOptions:
        """For one machine; errors as `study_options`."""
        return study_options(
            device=self.device,
            suite=self.suite,
            weights=self.weights,
            out=self.out,
            env=self.env,
            resume=self.resume,
            retry=self.retry,
            host=host,
        )


def checked_host(host: str) -> str:
    """An address of `--host`.

    Raises:
        UsageError: it is none.
    """
    if host and not host.startswith("ssh://"):
        raise UsageError(
            f"{host!r} is no address of a host", where="--host", cure="ssh://user@host, or ssh://user@host:port"
        )
    return host


def choice(kind: type[Choice], text: str, option: str, also: str = "") -> Choice:
    """One of an enumeration's values by its name."""
    try:
        return kind(text)
    except ValueError:
        known = ", ".join([*([also] if also else []), *(member.value for member in kind)])
        raise UsageError(f"{text!r} is not known", where=option, cure=f"one of {known}") from None
