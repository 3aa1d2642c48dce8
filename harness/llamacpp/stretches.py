"""Which nodes of a graph are timed together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from harness.llamacpp.nodes import Node, NodeTable, Place
from harness.terms import ProfileMode


class ProbeError(Exception):
    """A callback failed, or saw another graph than it should: what it collected means nothing."""


class Cut(Enum):
    """How a decode step is cut into timed stretches."""

    NONE = "none"  # not at all: it runs as without a callback
    NODE = "node"  # every node that computes
    RANGE = "range"  # neighbours of one category and layer together
    EVERY = "every"  # empty nodes too: their times are what asking costs


CUT_OF_MODE = {ProfileMode.NODE: Cut.NODE, ProfileMode.RANGE: Cut.RANGE}


@dataclass(frozen=True)
class Graph:
    """One decode step as it was learned."""

    nodes: tuple[Node, ...]
    places: tuple[Place, ...]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Nodes that compute and that no rule of the table knows, each once."""
        pairs = zip(self.nodes, self.places, strict=True)
        found = (f"{node.name}: {node.op}" for node, place in pairs if not place.known and not node.is_empty)
        return tuple(dict.fromkeys(found))


def read_graph(nodes: Iterable[Node]) -> Graph:
    """Place the nodes of a step, given in the order in which they are computed."""
    table = NodeTable()
    kept = tuple(nodes)
    return Graph(kept, tuple(table.place(node) for node in kept))


@dataclass(frozen=True)
class Plan:
    """A decode step cut into stretches."""

    asks: tuple[bool, ...]  # one a node: whether a stretch ends with it
    ends: tuple[int, ...]  # one a stretch: number of its last node


@dataclass(frozen=True)
class Steps:
    """Timed steps of one graph under one plan."""

    graph: Graph
    plan: Plan
    times_ns: list[list[int]] = field(default_factory=list)  # one a step; in it one a stretch

    @property
    def parts(self) -> tuple[Place, ...]:
        """Where each stretch belongs."""
        return tuple(self.graph.places[end] for end in self.plan.ends)


def cut(graph: Graph, how: Cut) -> Plan:
    """Where stretches end.

    Nodes that compute nothing go with the next one that does, except under `Cut.EVERY`; behind the last one that
    computes they belong to no stretch, and the scheduler runs them unasked.
    """
    ends = tuple(_ends(graph, how))
    chosen = frozenset(ends)
    return Plan(tuple(index in chosen for index in range(len(graph.nodes))), ends)


def _ends(graph: Graph, how: Cut) -> Iterable[int]:
    if how is Cut.NONE:
        return []
    if how is Cut.EVERY:
        return range(len(graph.nodes))
    computing = [index for index, node in enumerate(graph.nodes) if not node.is_empty]
    if how is Cut.NODE:
        return computing
    borders = (one for one, other in itertools.pairwise(computing) if _border(graph, one, other))
    return [*borders, *computing[-1:]]


def _border(graph: Graph, one: int, other: int) -> bool:
    first, second = graph.places[one], graph.places[other]
    return (first.category, first.layer) != (second.category, second.layer)


def empty_times_ns(steps: Steps) -> list[int]:
    """Times of the nodes that compute nothing, of steps under `Cut.EVERY`."""
    empty = [index for index, node in enumerate(steps.graph.nodes) if node.is_empty]
    return [times[index] for times in steps.times_ns for index in empty]
