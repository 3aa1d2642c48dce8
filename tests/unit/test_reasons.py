"""Why: each sentence tells what its records hold, and is not there without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import extensions
import pytest
import records_factory as factory
from records_factory import FOUR, LLAMA, OLMOE, Lab
from test_memory_ceiling import GB, under_limits

from harness.analysis.evidence import Evidence
from harness.records import Record
from harness.report.answer import answers

LAB = Lab(rounds=12, cohorts=2, decode_tokens=8, noise=0.001)


def why(folder: Path, *others: Record) -> dict[str, str]:
    """Sentences of the answer by their first word."""
    evidence = Evidence.of([factory.write(folder, [*factory.rounds(LAB, FOUR), *others])])
    answer = answers(evidence)[0]  # of the native machine
    return {sentence.partition(" ")[0].rstrip(":,"): sentence for sentence in answer.reasons}


def memory(_lab: Lab) -> Iterator[Record]:
    """OLMoE needs 5 GB and dies at 3; Llama needs 1."""
    yield from under_limits(OLMOE, [(8 * GB, 1.0), (5 * GB, 0.97), (4 * GB, 0.08), (3 * GB, 0.0)])
    yield from under_limits(LLAMA, [(8 * GB, 1.0), (1 * GB, 1.0), (750_000_000, 0.05)])


def bandwidth(lab: Lab) -> Iterator[Record]:
    yield extensions.read(lab)


def test_without_more_than_speeds_nothing_is_explained(tmp_path: Path) -> None:
    assert why(tmp_path) == {}


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            [bandwidth],
            {
                "Bytes": "Bytes: by what a token reads it would be 1.00 times as fast as Llama-3.2-1B, by all that its "
                "file holds 0.19 times. 0.97 was measured: a token pays for what it reads, not for what the file holds."
            },
        ),
        (
            [extensions.profiles],
            {
                "Time": "Time: a token's nodes take 31.1 against 30.1 ms in Llama-3.2-1B; feed-forward 18.5 against "
                "17.0 ms, attention and its cache 8.08 against 6.07 ms, logits 3.01 against 6.04 ms. Profiling changed "
                "too much for these to be more than bounds.",
                "Routing": "of the MoE block's time.",
            },
        ),
        (
            [extensions.depths],
            {
                "Context": "Context: at 2,048 tokens it keeps 83.3 % (83.3 to 83.3) of its speed at 128, Llama-3.2-1B "
                "83.3 % (83.3 to 83.3); there it is 0.97 times as fast (0.97 to 0.97)."
            },
        ),
        (
            [extensions.family],
            {"By": "By experiment, 5 models that differ in experts alone: a GB that a token does not"},
        ),
        (
            [memory],
            {
                "Memory": "Memory: it keeps its speed down to 5 GB, Llama-3.2-1B down to 1 GB. With 4 GB 8.0 % of it "
                "are left."
            },
        ),
    ],
    ids=lambda one: one[0].__name__ if isinstance(one, list) else "",
)
def test_each_sentence_tells_its_records(
    tmp_path: Path, made: Sequence[Callable[[Lab], Iterator[Record]]], told: dict[str, str]
) -> None:
    found = why(tmp_path, *(record for make in made for record in make(LAB)))
    assert set(found) == set(told)
    for word, text in told.items():
        assert text in found[word]


def test_the_slopes_are_those_that_the_family_was_made_with(tmp_path: Path) -> None:
    sentence = why(tmp_path, *extensions.family(LAB))["By"]
    idle_ms = float(sentence.partition("does not read costs it ")[2].split()[0])
    active_ms = float(sentence.partition("token reads costs it ")[2].split()[0])
    assert idle_ms == pytest.approx(0.3, abs=0.1)
    assert active_ms == pytest.approx(12 / 0.45, rel=0.05)


def test_a_limit_that_kills_is_told(tmp_path: Path) -> None:
    records = [*under_limits(OLMOE, [(8 * GB, 1.0), (3 * GB, 0.0)]), *under_limits(LLAMA, [(8 * GB, 1.0)])]
    assert why(tmp_path, *records)["Memory"].endswith("With 3 GB it is killed.")
