"""Which part of a transformer a graph node belongs to: one table for all architectures, unknown nodes told apart.

A node is placed by the first of these that knows it: the weight that it reads, its own name, its operation, the part
that the nodes before it belong to. Names are llama.cpp's (`llm_graph_context::cb` and GGUF tensor names); nothing here
needs llama.cpp, so the table is tested on its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.terms import NodeCategory

NO_LAYER = "-"
EMPTY_OPS = frozenset({"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"})  # compute nothing: ggml skips them
WEIGHT = re.compile(r"^(?:blk\.(?P<layer>\d+)\.)?(?P<stem>[\w.]+)\.(?:weight|bias|scale)$")
LAYER_SUFFIX = re.compile(r"-(\d+)$")
VIEW_SUFFIX = re.compile(r"( \((?:view|reshaped|permuted|transposed|copy|cont|copy of .*)\))+$")
UNNAMED = re.compile(r"^(node|leaf)_\d+$")
CACHE = re.compile(r"^cache_[a-z_]*l(\d+)")


@dataclass(frozen=True)
class Source:
    """A tensor that a node reads."""

    name: str
    touched_bytes: int = 0  # of it, in one step


@dataclass(frozen=True)
class Node:
    """One node as the scheduler's callback sees it."""

    name: str
    op: str
    sources: tuple[Source, ...] = ()
    written_bytes: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether it only gives another shape to data that is there."""
        return self.op in EMPTY_OPS


@dataclass(frozen=True)
class Place:
    """Where a node belongs; `known` is False when no rule knew it and it went to `other`."""

    category: NodeCategory
    layer: str
    known: bool = True


# Stems of GGUF tensor names; the first pattern that matches from the beginning decides.
WEIGHT_RULES: tuple[tuple[str, NodeCategory], ...] = (
    (r".*norm", NodeCategory.NORM),
    (r"ffn_gate_inp_shexp|ffn_\w+_shexp", NodeCategory.SHARED_EXPERT),
    (r"ffn_gate_inp|exp_probs_b", NodeCategory.ROUTER),
    (r"ffn_gate_exps", NodeCategory.EXPERT_GATE),
    (r"ffn_(gate_)?up_exps", NodeCategory.EXPERT_UP),
    (r"ffn_down_exps", NodeCategory.EXPERT_DOWN),
    (r"ffn_", NodeCategory.DENSE_FFN),
    (r"attn_|rope_", NodeCategory.ATTENTION),
    (r"shortconv", NodeCategory.CONVOLUTION),
    (r"output$", NodeCategory.HEAD),
)

# Names that the graph gives to its nodes, without layer and view suffixes.
NAME_RULES: tuple[tuple[str, NodeCategory], ...] = (
    (r".*norm(ed|_w)?$|.*layernorm$", NodeCategory.NORM),
    (r"cache_|kq|kqv|fattn|__fattn__|v_cont$", NodeCategory.KV),
    (r"ffn_moe_(logits|probs|argsort|topk|group|weights)", NodeCategory.ROUTER),
    (r"ffn_moe_(weighted|out)", NodeCategory.COMBINE),
    (r"ffn_moe_down", NodeCategory.EXPERT_DOWN),
    (r"ffn_moe_gate(_scaled|_biased)?$", NodeCategory.EXPERT_GATE),
    (r"ffn_moe_(gate_)?up(_scaled|_biased)?$", NodeCategory.EXPERT_UP),
    (r"ffn_moe_", NodeCategory.EXPERT_ACTIVATION),
    (r"ffn_shexp", NodeCategory.SHARED_EXPERT),
    (r"conv\.", NodeCategory.CONVOLUTION),
    (r"[QKV]cur|attn_out|self_attn|wqkv|(q|k|v)(_(nope|pe)\w*)?$|kv(_cmpr\w*)?$|k_nope_view$", NodeCategory.ATTENTION),
    (r"result_output$", NodeCategory.HEAD),
    (r"ffn_inp$|l_out$|sa_out$|inp_scaled$|embd$|inp_|embed_tokens$|deepstack_in$|out_ids$", NodeCategory.OTHER),
)

# Nodes of these names are dense, shared or combining, by what flows into them.
FFN_NAMES = re.compile(r"ffn_(up|gate|down|silu|swiglu|geglu|gelu|relu|reglu|act|sqr|out)")

OP_RULES: Mapping[str, NodeCategory] = {
    "ROPE": NodeCategory.ATTENTION,
    "FLASH_ATTN_EXT": NodeCategory.KV,
    "SET_ROWS": NodeCategory.KV,
    "SSM_CONV": NodeCategory.CONVOLUTION,
    "ARGSORT": NodeCategory.ROUTER,
    "TOP_K": NodeCategory.ROUTER,
    "RMS_NORM": NodeCategory.NORM,
    "NORM": NodeCategory.NORM,
}

# What an unnamed sum or product continues, by the part that its inputs belong to.
CONTINUES: Mapping[NodeCategory, NodeCategory] = {
    NodeCategory.EXPERT_DOWN: NodeCategory.COMBINE,
    NodeCategory.EXPERT_UP: NodeCategory.EXPERT_ACTIVATION,
    NodeCategory.EXPERT_GATE: NodeCategory.EXPERT_ACTIVATION,
}
MOE_OUTPUTS = frozenset({NodeCategory.COMBINE, NodeCategory.SHARED_EXPERT})


class NodeTable:
    """Places the nodes of one graph in the order in which they are computed."""

    def __init__(self) -> None:
        self._seen: dict[str, NodeCategory] = {}
        self._layer = NO_LAYER

    def place(self, node: Node) -> Place:
        """The part of the model that a node belongs to."""
        inflow = [self._seen[source.name] for source in node.sources if source.name in self._seen]
        found = _by_weight(node) or _by_name(node, inflow) or _by_op(node) or _by_inflow(inflow)
        self._layer = _layer(node) or self._layer
        category = found or NodeCategory.OTHER
        if found is not None:
            self._seen[node.name] = found
        layer = NO_LAYER if category is NodeCategory.HEAD else self._layer
        return Place(category, layer, known=found is not None)


def _first(rules: Sequence[tuple[str, NodeCategory]], text: str) -> NodeCategory | None:
    return next((category for pattern, category in rules if re.match(pattern, text)), None)


def _by_weight(node: Node) -> NodeCategory | None:
    for source in node.sources:
        match = WEIGHT.match(source.name)
        if match is None:
            continue
        if match["stem"] == "token_embd":  # a tied model multiplies by it, every model reads rows of it
            return NodeCategory.HEAD if node.op == "MUL_MAT" else NodeCategory.OTHER
        return _first(WEIGHT_RULES, match["stem"])
    return None


def base_name(name: str) -> str:
    """A name without its layer number, view suffixes and the path that LFM2's graph writes before it."""
    bare = LAYER_SUFFIX.sub("", VIEW_SUFFIX.sub("", name))
    return bare.removeprefix("model.").removeprefix("layers.{}.")


def _by_name(node: Node, inflow: Sequence[NodeCategory]) -> NodeCategory | None:
    base = base_name(node.name)
    if UNNAMED.match(base):
        return None
    if FFN_NAMES.match(base):
        if NodeCategory.SHARED_EXPERT in inflow and NodeCategory.COMBINE not in inflow:
            return NodeCategory.SHARED_EXPERT
        return NodeCategory.COMBINE if MOE_OUTPUTS.intersection(inflow) else NodeCategory.DENSE_FFN
    return _first(NAME_RULES, base)


def _by_op(node: Node) -> NodeCategory | None:
    if node.op == "CPY" and any(CACHE.match(source.name) for source in node.sources):
        return NodeCategory.KV
    return OP_RULES.get(node.op)


def _by_inflow(inflow: Sequence[NodeCategory]) -> NodeCategory | None:
    """An unnamed step works on what was just computed; residual sums and the like tell least."""
    useful = [category for category in inflow if category is not NodeCategory.OTHER] or inflow
    return CONTINUES.get(useful[0], useful[0]) if useful else None


def _layer(node: Node) -> str | None:
    for text in (node.name, *(source.name for source in node.sources)):
        match = LAYER_SUFFIX.search(VIEW_SUFFIX.sub("", text)) or CACHE.match(text)
        if match:
            return match[1]
        weight = WEIGHT.match(text)
        if weight and weight["layer"]:
            return weight["layer"]
    return None
