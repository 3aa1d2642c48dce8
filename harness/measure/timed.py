"""Timed runs: the speed of prefill and decode, in rounds with others or alone, and the memory of each phase."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from harness.clock import now_ns
from harness.measure import tokens, windows
from harness.measure.engine import Coverage, Engine, Loader
from harness.measure.telemetry import memory
from harness.measure.telemetry.counters import Waiting
from harness.protocol import Task, Turn
from harness.records import Burst, Measured, MemoryLedger, MemorySample, RunSpec, Taint, Text, Warmup
from harness.terms import BurstKind, TaintKind, TokenSource
from harness.units import NS_PER_S

MINIMUM_WARM_TOKENS = 8
MAXIMUM_WARM_TOKENS = 48
STEADY_TOLERANCE = 0.05  # medians of two successive stretches of four tokens
MINIMUM_BURST_TOKENS = 4
WARM_ROUND = -1  # draws ids that no counted round sees


class NotFiniteError(Exception):
    """The network's outputs hold NaN or infinity: its speed would mean nothing."""


class TimedWork:
    """One model, one workload; bursts as they are asked for."""

    def __init__(self, task: Task, open_loader: Callable[[], Loader], root: Path = Path("/")) -> None:
        self._spec: RunSpec = task.spec
        self._prompt_text = task.prompt_text
        self._open_loader = open_loader
        self._root = root
        self._bursts: list[Burst] = []
        self._texts: list[Text] = []
        self._samples: list[MemorySample] = []
        self._absent: dict[str, str] = {}
        self._peak_reset = False
        self._waiting = Waiting()
        self._engine: Engine
        self._loader: Loader
        self._prompt: list[int] = []
        self._first: tuple[int, ...] = ()
        self._load_ns = 0
        self._decode_tokens = 0
        self._warmup: Warmup | None = None

    def prepare(self) -> int:
        """Load, bring in every expert, open the context, warm up until two stretches of tokens agree."""
        self._observe("start")
        start_ns = now_ns()
        self._loader = self._open_loader()
        self._load_ns = now_ns() - start_ns
        self._observe("loaded")
        coverage = self._loader.cover_experts()
        self._engine = self._loader.open()
        self._prompt = self._prompt_ids()
        token_ns = self._warm()
        step_ns = round(statistics.median(token_ns[-MINIMUM_WARM_TOKENS:]))
        self._warmup = _warmup(token_ns, len(self._prompt), coverage)
        self._decode_tokens = self._burst_tokens(step_ns)
        self._observe("warm")
        self._engine.pause()
        self._waiting.begin()
        return step_ns

    def _observe(self, phase: str) -> None:
        """One sample at the end of a phase, outside of any window; the next phase starts with a peak of its own."""
        sample, self._absent = memory.sample(phase, self._root)
        self._samples.append(msgspec.structs.replace(sample, hwm_of_phase=self._peak_reset))
        self._peak_reset = memory.reset_peak(self._root)

    def _observe_first(self, kind: BurstKind) -> None:
        """The first prompt and the first decode burst end a phase each."""
        phase = "prefill" if kind is BurstKind.PREFILL else "decode"
        if all(sample.phase != phase for sample in self._samples):
            self._observe(phase)

    def _prompt_ids(self) -> list[int]:
        workload = self._spec.workload
        if workload.source is TokenSource.TEXT:
            return self._loader.chat_tokens(self._prompt_text)
        return tokens.prompt(workload, self._loader.vocabulary_size, max(1, workload.prompt_tokens))

    def _depth(self) -> int:
        workload = self._spec.workload
        return len(self._prompt) if workload.source is TokenSource.TEXT else max(1, workload.depth_tokens)

    def _warm(self) -> list[int]:
        self._engine.prefill(self._prompt)
        self._settle()
        token_ns: list[int] = []
        turn = Turn(kind=BurstKind.DECODE, round=WARM_ROUND, position=0)
        room = self._spec.settings.context_tokens - self._depth()
        while len(token_ns) < min(MAXIMUM_WARM_TOKENS, room - 4):
            burst, _ = windows.decode_window(self._engine, turn, self._first, self._stream(turn), 4)
            token_ns.extend(burst.token_ns)
            if len(token_ns) >= MINIMUM_WARM_TOKENS and _steady(token_ns):
                break
        if not self._engine.logits_finite():
            raise NotFiniteError("the last logits hold NaN or infinity; the weights are broken")
        return token_ns

    def _burst_tokens(self, step_ns: int) -> int:
        workload = self._spec.workload
        room = self._spec.settings.context_tokens - self._depth()
        if workload.decode_tokens:
            return min(workload.decode_tokens, room)
        wanted = round(workload.decode_seconds * NS_PER_S / max(1, step_ns))
        return min(max(MINIMUM_BURST_TOKENS, wanted) + workload.settle_tokens, room)

    def _stream(self, turn: Turn) -> Iterator[Sequence[int]] | None:
        if self._spec.workload.source is TokenSource.TEXT:
            return None
        return tokens.stream(self._spec.workload, self._loader.vocabulary_size, turn.round)

    def turn(self, turn: Turn) -> Burst:
        """One prefill or decode burst."""
        waited_ns, waited_cpu_ns = self._waiting.end()
        touched_ns = self._touch() if turn.after_others and turn.kind is not BurstKind.PREFILL else None
        self._engine.resume()
        burst = self._prefill(turn) if turn.kind is BurstKind.PREFILL else self._decode(turn)
        self._engine.pause()
        waited = {"waited_ns": waited_ns, "waited_cpu_ns": waited_cpu_ns, "touched_ns": touched_ns}
        self._bursts.append(msgspec.structs.replace(burst, **waited))
        self._observe_first(turn.kind)
        self._waiting.begin()
        return burst

    def _touch(self) -> int | None:
        start_ns = now_ns()
        return now_ns() - start_ns if self._loader.touch_weights() else None

    def _prefill(self, turn: Turn) -> Burst:
        burst = windows.prefill_window(self._engine, turn, self._prompt)
        self._remember_first()
        return burst

    def _decode(self, turn: Turn) -> Burst:
        self._settle()
        burst, chosen = windows.decode_window(self._engine, turn, self._first, self._stream(turn), self._decode_tokens)
        if self._spec.workload.source is TokenSource.TEXT:
            ids = (*self._first[:1], *chosen[:-1])
            self._texts.append(
                Text(prompt_id=self._spec.workload.prompt_id, token_ids=ids, text=self._loader.text(ids))
            )
        return burst

    def _settle(self) -> None:
        """Bring the cache to the depth that decoding starts from, outside of any window."""
        depth = self._depth()
        if not self._engine.truncate(depth):
            self._engine.truncate(0)
            ids = self._prompt
            if len(ids) != depth:
                ids = tokens.prompt(self._spec.workload, self._loader.vocabulary_size, depth)
            self._engine.prefill(ids)
            self._first = ()
        if not self._first:
            self._remember_first()
        self._engine.share_prefix()

    def _remember_first(self) -> None:
        self._first = (self._engine.argmax(),) * self._engine.width

    def finish(self) -> tuple[Measured, tuple[Taint, ...]]:
        """All bursts, the memory ledger, texts."""
        self._observe("finished")
        measured = Measured(
            load_ns=self._load_ns,
            warmup=self._warmup,
            bursts=tuple(self._bursts),
            memory=self._ledger(),
            texts=tuple(self._texts),
            engine_info=self._loader.info(),
        )
        self._engine.close()
        self._loader.close()
        return measured, self._taints()

    def _ledger(self) -> MemoryLedger:
        predicted = self._loader.predicted()
        return MemoryLedger(
            weights_bytes=predicted.weights_bytes,
            kv_bytes=predicted.kv_bytes,
            compute_bytes=predicted.compute_bytes,
            samples=tuple(self._samples),
            ceiling_bytes=memory.ceiling_bytes(self._root),
            absent=self._absent,
        )

    def _taints(self) -> tuple[Taint, ...]:
        outputs = {text.token_ids for text in self._texts}
        if len(outputs) <= 1:
            return ()
        detail = f"greedy output came in {len(outputs)} versions over {len(self._texts)} repetitions"
        return (Taint(kind=TaintKind.OUTPUT_DIFFERS, detail=detail),)


def _steady(token_ns: Sequence[int]) -> bool:
    last, previous = statistics.median(token_ns[-4:]), statistics.median(token_ns[-8:-4])
    return abs(last - previous) <= STEADY_TOLERANCE * previous


def _warmup(token_ns: Sequence[int], prefill_tokens: int, coverage: Coverage) -> Warmup:
    return Warmup(
        token_ns=tuple(token_ns),
        prefill_tokens=prefill_tokens,
        experts_total=coverage.experts_total,
        experts_routed=coverage.experts_routed,
        experts_touched=coverage.experts_touched,
        steady=len(token_ns) >= MINIMUM_WARM_TOKENS and _steady(token_ns),
    )
