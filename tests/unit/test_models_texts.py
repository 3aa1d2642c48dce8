"""The twelve prompts: each length with each kind, and faults of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError, UsageError
from harness.models.texts import Kind, Length, get, load

ROOT = Path(__file__).parents[2]


def prompts_of(folder: Path, text: str) -> Path:
    (folder / "configs").mkdir()
    (folder / "configs" / "prompts.toml").write_text(text, encoding="utf-8")
    return folder


def test_twelve_prompts_each_length_with_each_kind() -> None:
    prompts = load(ROOT)
    assert len(prompts) == 12
    assert {(prompt.length, prompt.kind) for prompt in prompts} == {(a, b) for a in Length for b in Kind}
    assert all(prompt.prompt_id == f"{prompt.length}-{prompt.kind}" for prompt in prompts)
    assert len({prompt.text for prompt in prompts}) == 12
    assert all(prompt.text == prompt.text.strip() for prompt in prompts)


def test_code_keeps_its_lines() -> None:
    assert "\n    merged = []\n    for start, end in spans:\n" in get(load(ROOT), "medium-code").text


def test_a_prompt_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="did you mean short-code"):
        get(load(ROOT), "short-cod")
    with pytest.raises(UsageError, match="there are short-question"):
        get(load(ROOT), "%")


def test_a_length_that_the_text_does_not_have(tmp_path: Path) -> None:
    text = '[prompts.a]\nlength = "long"\nkind = "code"\ntext = "one two"\n'
    with pytest.raises(ConfigError, match=r"prompts\.a \(line 1\): 2 words, a long prompt has 251 to 2000"):
        load(prompts_of(tmp_path, text))


def test_pairs_that_never_stand_together(tmp_path: Path) -> None:
    text = '[prompts.a]\nlength = "short"\nkind = "code"\ntext = "one two"\n'
    with pytest.raises(ConfigError) as caught:
        load(prompts_of(tmp_path, text))
    assert len(caught.value.faults) == 11
    assert "no prompt is long and a dialogue" in caught.value.faults
