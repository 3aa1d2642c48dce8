"""Text prompts for weights that have a vocabulary: three lengths, four kinds, each pair once."""

from __future__ import annotations

import difflib
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from harness.config_tables import read_toml
from harness.errors import ConfigError, UsageError
from harness.records import Struct


class Length(StrEnum):
    """How much there is to read before the first token."""

    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"


class Kind(StrEnum):
    """What is asked for."""

    QUESTION = "question"
    SUMMARY = "summary"
    CODE = "code"
    DIALOGUE = "dialogue"


# Fewest and most words of each length; what a tokenizer makes of them differs from model to model.
WORDS = {Length.SHORT: (1, 60), Length.MEDIUM: (61, 250), Length.LONG: (251, 2000)}


class _Entry(Struct, frozen=True):
    length: Length
    kind: Kind
    text: Annotated[str, Meta(min_length=1)]

    def __post_init__(self) -> None:
        """A length that the text does not have would mislead whoever reads the tables."""
        words = len(self.text.split())
        fewest, most = WORDS[self.length]
        if not fewest <= words <= most:
            raise ValueError(f"{words} words, a {self.length} prompt has {fewest} to {most}")


class Prompt(_Entry, frozen=True, kw_only=True):
    """One user turn, and its name in records."""

    prompt_id: str


class _Tables(Struct, frozen=True):
    prompts: dict[Annotated[str, Meta(pattern="^[a-z][a-z0-9-]*$")], _Entry]


def load(root: Path) -> tuple[Prompt, ...]:
    """Reads `configs/prompts.toml` below the repository root, in the order of the file.

    Raises:
        ConfigError: with all faults of the file; also when a length and a kind never stand together.
    """
    path = root / "configs" / "prompts.toml"
    prompts = tuple(
        Prompt(prompt_id=name, length=entry.length, kind=entry.kind, text=entry.text.strip())
        for name, entry in read_toml(path, _Tables).prompts.items()
    )
    there = {(prompt.length, prompt.kind) for prompt in prompts}
    lacking = [
        f"no prompt is {length} and a {kind}" for length, kind in product(Length, Kind) if (length, kind) not in there
    ]
    if lacking:
        raise ConfigError(lacking, where=str(path))
    return prompts


def get(prompts: tuple[Prompt, ...], prompt_id: str) -> Prompt:
    """The prompt of that name.

    Raises:
        UsageError: there is none; the message names those that are spelled alike.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    if prompt_id in by_id:
        return by_id[prompt_id]
    close = difflib.get_close_matches(prompt_id, by_id, n=3)
    cure = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(by_id)}"
    raise UsageError(f"no prompt {prompt_id!r}", where="configs/prompts.toml", cure=cure)
