"""An option of two values, `--compare A B`: Invoke itself gives an option one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from invoke.parser.argument import Argument
from invoke.tasks import Task

PAIR = 2


class PairArgument(Argument):
    """Asks the parser for values until it has two: while `raw_value` is null, the parser hands the next one over."""

    def set_value(self, value: Any, cast: bool = True) -> None:  # noqa: ARG002 - Invoke's signature
        """Takes one value in."""
        self._value = (*(self._value or ()), value)
        self.raw_value = self._value if len(self._value) >= PAIR else None


class TaskWithPair(Task[Callable[..., Any]]):
    """A task whose option `compare` takes two values."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """As Invoke makes them, the one replaced."""
        made = super().get_arguments(ignore_unknown_help)
        return [_pair(argument) if argument.name == "compare" else argument for argument in made]


def _pair(argument: Argument) -> PairArgument:
    return PairArgument(names=argument.names, default=argument.default, help=argument.help)
