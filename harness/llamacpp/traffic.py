"""Bytes that a decode step touches, by category, from the shapes of the tensors in its graph."""

from __future__ import annotations

from collections.abc import Iterable

from harness.llamacpp.nodes import CACHE, WEIGHT, Node
from harness.llamacpp.stretches import Graph
from harness.records import NodeTraffic
from harness.terms import NodeCategory


def traffic(graph: Graph) -> dict[NodeCategory, NodeTraffic]:
    """Weights, KV cache and activations, read and written, of every category that computes."""
    members: dict[NodeCategory, list[Node]] = {}
    for node, place in zip(graph.nodes, graph.places, strict=True):
        if not node.is_empty:
            members.setdefault(place.category, []).append(node)
    return {category: _sum(found) for category, found in members.items()}


def _sum(nodes: Iterable[Node]) -> NodeTraffic:
    weights = kv = activations = 0
    for node in nodes:
        for source in node.sources:
            if WEIGHT.match(source.name):
                weights += source.touched_bytes
            elif CACHE.match(source.name):
                kv += source.touched_bytes
            else:
                activations += source.touched_bytes
        if CACHE.match(node.name):
            kv += node.written_bytes
        else:
            activations += node.written_bytes
    return NodeTraffic(weight_bytes=weights, kv_bytes=kv, activation_bytes=activations)
