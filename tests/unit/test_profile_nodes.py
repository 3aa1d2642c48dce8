from __future__ import annotations

import itertools

import pytest

from harness.llamacpp.nodes import Node, NodeTable, Source
from harness.llamacpp.stretches import Cut, Graph, cut, empty_times_ns, read_graph
from harness.llamacpp.traffic import traffic
from harness.records import NodeTraffic
from harness.terms import NodeCategory as C


def node(name: str, op: str, *sources: str) -> Node:
    return Node(name=name, op=op, sources=tuple(Source(source, 100) for source in sources), written_bytes=10)


# (node, category, layer) in the order of llama.cpp's graph
OLMOE_LAYER = [
    (node("norm-3", "RMS_NORM", "l_out-2"), C.NORM, "3"),
    (node("attn_norm-3", "MUL", "norm-3", "blk.3.attn_norm.weight"), C.NORM, "3"),
    (node("Qcur-3", "MUL_MAT", "blk.3.attn_q.weight", "attn_norm-3"), C.ATTENTION, "3"),
    (node("Qcur_normed-3", "MUL", "norm-3", "blk.3.attn_q_norm.weight"), C.NORM, "3"),
    (node("Qcur-3", "ROPE", "Qcur_normed-3 (reshaped)", "inp_pos"), C.ATTENTION, "3"),
    (node("cache_k_l3 (view)", "SET_ROWS", "Kcur-3", "attn_inp_k_idxs", "cache_k_l3 (view)"), C.KV, "3"),
    (node("node_25", "FLASH_ATTN_EXT", "Qcur-3 (view)", "cache_k_l3 (view) (permuted)"), C.KV, "3"),
    (node("kqv_out-3", "RESHAPE", "node_25"), C.KV, "3"),
    (node("node_27", "MUL_MAT", "blk.3.attn_output.weight", "kqv_out-3"), C.ATTENTION, "3"),
    (node("ffn_inp-3", "ADD", "node_27", "l_out-2"), C.OTHER, "3"),
    (node("ffn_moe_logits-3", "MUL_MAT", "blk.3.ffn_gate_inp.weight", "ffn_norm-3"), C.ROUTER, "3"),
    (node("ffn_moe_probs-3", "SOFT_MAX", "ffn_moe_logits-3"), C.ROUTER, "3"),
    (node("ffn_moe_argsort-3", "ARGSORT", "ffn_moe_probs-3"), C.ROUTER, "3"),
    (node("ffn_moe_topk-3", "VIEW", "ffn_moe_argsort-3"), C.ROUTER, "3"),
    (node("ffn_moe_weights-3", "GET_ROWS", "ffn_moe_probs-3 (reshaped)", "ffn_moe_topk-3"), C.ROUTER, "3"),
    (node("ffn_moe_gate-3", "MUL_MAT_ID", "blk.3.ffn_gate_exps.weight", "ffn_norm-3"), C.EXPERT_GATE, "3"),
    (node("ffn_moe_up-3", "MUL_MAT_ID", "blk.3.ffn_up_exps.weight", "ffn_norm-3"), C.EXPERT_UP, "3"),
    (node("ffn_moe_swiglu-3", "GLU", "ffn_moe_gate-3", "ffn_moe_up-3"), C.EXPERT_ACTIVATION, "3"),
    (node("ffn_moe_down-3", "MUL_MAT_ID", "blk.3.ffn_down_exps.weight", "ffn_moe_swiglu-3"), C.EXPERT_DOWN, "3"),
    (node("ffn_moe_weighted-3", "MUL", "ffn_moe_down-3", "ffn_moe_weights-3"), C.COMBINE, "3"),
    (node("ffn_moe_weighted-3 (view)", "VIEW", "ffn_moe_weighted-3"), C.COMBINE, "3"),
    (node("node_51", "ADD", "ffn_moe_weighted-3 (view)", "ffn_moe_weighted-3 (view)"), C.COMBINE, "3"),
    (node("ffn_moe_out-3", "ADD", "node_51", "ffn_moe_weighted-3 (view)"), C.COMBINE, "3"),
    (node("l_out-3", "ADD", "ffn_moe_out-3", "ffn_inp-3"), C.OTHER, "3"),
    (node("result_norm", "MUL", "norm", "output_norm.weight"), C.NORM, "3"),
    (node("result_output", "MUL_MAT", "output.weight", "result_norm"), C.HEAD, "-"),
]


def test_every_node_of_an_olmoe_layer_has_its_place() -> None:
    graph = read_graph(entry[0] for entry in OLMOE_LAYER)
    found = [(place.category, place.layer) for place in graph.places]
    assert found == [(category, layer) for _, category, layer in OLMOE_LAYER]
    assert graph.unknown == ()


@pytest.mark.parametrize(
    ("nodes", "category"),
    [
        # a tied model multiplies by its embedding; every model reads rows of it
        ([node("result_output", "MUL_MAT", "token_embd.weight", "result_norm")], C.HEAD),
        ([node("embd", "GET_ROWS", "token_embd.weight", "inp_tokens")], C.OTHER),
        # Gemma 2 caps its logits in nodes without names
        ([node("result_output", "MUL_MAT", "output.weight", "x"), node("node_9", "SCALE", "result_output")], C.HEAD),
        ([node("attn_post_norm-1", "MUL", "norm-1", "blk.1.post_attention_norm.weight")], C.NORM),
        # a dense block
        ([node("ffn_up-0", "MUL_MAT", "blk.0.ffn_up.weight", "ffn_norm-0")], C.DENSE_FFN),
        ([node("ffn_gate-0", "MUL_MAT", "blk.0.ffn_gate.weight", "x"), node("ffn_swiglu-0", "GLU", "ffn_gate-0")],
         C.DENSE_FFN),
        # Qwen's shared expert uses the names of a dense block
        ([node("ffn_up-0", "MUL_MAT", "blk.0.ffn_up_shexp.weight", "x"), node("ffn_swiglu-0", "GLU", "ffn_up-0")],
         C.SHARED_EXPERT),
        ([node("ffn_moe_out-0", "ADD", "x"), node("ffn_shexp-0", "MUL_MAT", "blk.0.ffn_down_shexp.weight", "y"),
          node("ffn_out-0", "ADD", "ffn_moe_out-0", "ffn_shexp-0")], C.COMBINE),
        ([node("ffn_shexp_gate-0", "MUL_MAT", "blk.0.ffn_gate_inp_shexp.weight", "x")], C.SHARED_EXPERT),
        # without flash attention
        ([node("kq-2", "MUL_MAT", "cache_k_l2 (view)", "Qcur-2")], C.KV),
        ([node("kq_soft_max-2", "SOFT_MAX", "kq-2", "mask")], C.KV),
        # DeepSeek's latent attention
        ([node("kv_cmpr-4", "VIEW", "kv_cmpr_pe-4")], C.ATTENTION),
        ([node("q_nope_absorbed-4", "MUL_MAT", "blk.4.attn_k_b.weight", "q_nope-4")], C.ATTENTION),
        # LFM2's short convolution, whose names keep the path of the original
        ([node("model.layers.{}.conv.in_proj-1", "MUL_MAT", "blk.1.shortconv.in_proj.weight", "x")], C.CONVOLUTION),
        ([node("model.layers.{}.conv.conv-1", "SSM_CONV", "x", "blk.1.shortconv.conv.weight")], C.CONVOLUTION),
        ([node("model.layers.{}.ffn_norm-1", "MUL", "norm-1", "blk.1.ffn_norm.weight")], C.NORM),
        # the selection bias of sigmoid routers
        ([node("ffn_moe_probs_biased-1", "ADD", "ffn_moe_probs-1", "blk.1.exp_probs_b.bias")], C.ROUTER),
    ],
)  # fmt: skip
def test_what_the_architectures_do_differently(nodes: list[Node], category: C) -> None:
    assert read_graph(nodes).places[-1].category is category


def test_an_unknown_node_is_counted_under_other_and_listed() -> None:
    graph = read_graph([node("surprise-5", "CUMSUM", "nowhere"), node("node_8", "CONT", "surprise-5")])
    assert [place.category for place in graph.places] == [C.OTHER, C.OTHER]
    assert graph.unknown == ("surprise-5: CUMSUM", "node_8: CONT")


def test_a_table_carries_the_layer_to_nodes_without_names() -> None:
    table = NodeTable()
    assert table.place(node("ffn_moe_out-7", "ADD")).layer == "7"
    assert table.place(node("node_1", "ADD", "ffn_moe_out-7")).layer == "7"


def graph() -> Graph:
    return read_graph(entry[0] for entry in OLMOE_LAYER)


def test_node_cut_asks_for_every_node_that_computes() -> None:
    plan = cut(graph(), Cut.NODE)
    assert sum(plan.asks) == len(plan.ends) == sum(not entry[0].is_empty for entry in OLMOE_LAYER)
    assert all(plan.asks[end] for end in plan.ends)


def test_range_cut_ends_where_category_or_layer_change() -> None:
    whole = graph()
    plan = cut(whole, Cut.RANGE)
    categories = [whole.places[end].category for end in plan.ends]
    assert all(one is not other for one, other in itertools.pairwise(categories))
    assert plan.ends[-1] == len(OLMOE_LAYER) - 1


def test_empty_nodes_behind_the_last_computing_one_belong_to_no_stretch() -> None:
    plan = cut(read_graph([node("a-0", "ADD"), node("b-0", "VIEW", "a-0")]), Cut.RANGE)
    assert plan.asks == (True, False)


def test_calibration_reads_the_empty_nodes_alone() -> None:
    from harness.llamacpp.stretches import Steps

    small = read_graph([node("ffn_norm-0", "MUL"), node("x-0", "VIEW", "ffn_norm-0"), node("l_out-0", "ADD")])
    steps = Steps(small, cut(small, Cut.EVERY), [[50, 1, 60], [51, 2, 61]])
    assert empty_times_ns(steps) == [1, 2]


def test_traffic_tells_weights_cache_and_activations_apart() -> None:
    found = traffic(graph())
    assert found[C.EXPERT_UP] == NodeTraffic(weight_bytes=100, kv_bytes=0, activation_bytes=110)
    # the cache is read by one node, and written by another whose third source is its destination
    assert found[C.KV].kv_bytes == 100 + 100 + 10
    assert C.COMBINE in found
    assert found[C.COMBINE].weight_bytes == 0
