"""Memory planning: nothing alive overlaps, and the peak lies between the bound and the sum."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_fixture import graph_of

from compiler.passes import fusion
from compiler.passes.memory import lifetimes, plan
from compiler.passes.pipeline import optimised
from compiler.zoo import build
from isa.errors import CompileError

KB = 1024


def test_disjoint_lives_share_and_overlapping_ones_do_not() -> None:
    apart = plan([("a", KB, 0, 1), ("b", KB, 2, 3)])
    assert apart.addresses == {"a": 0, "b": 0} and apart.peak_bytes == KB
    touching = plan([("a", KB, 0, 1), ("b", KB, 1, 3)])
    assert sorted(touching.addresses.values()) == [0, KB] and touching.peak_bytes == 2 * KB


def test_sizes_are_rounded_to_the_alignment() -> None:
    found = plan([("a", 257, 0, 0), ("b", 1, 0, 0)], align=256)
    assert found.peak_bytes == 768 and set(found.addresses.values()) == {0, 512}


def test_smallest_gap_is_taken() -> None:
    # At launch 4, gaps of 3 KB (at 0) and 1 KB (under the top block) are free: the small tensor takes the small one.
    tensors = [("big", 4 * KB, 0, 1), ("top", 4 * KB, 0, 9), ("late", 2 * KB, 2, 9), ("small", KB, 3, 9)]
    found = plan(tensors)
    assert found.peak_bytes == found.max_live_bytes == 8 * KB


def test_an_alias_lengthens_its_owner() -> None:
    tensors = [("a", KB, 0, 1), ("view", KB, 2, 5), ("b", KB, 4, 4)]
    assert plan(tensors).peak_bytes == 2 * KB
    found = plan(tensors, aliases={"view": "a"})
    assert found.addresses["view"] == found.addresses["a"] != found.addresses["b"]
    early = plan([("a", KB, 0, 1), ("view", KB, 2, 5), ("b", KB, 6, 6)], aliases={"view": "a"})
    assert early.peak_bytes == KB


@pytest.mark.parametrize(
    ("tensors", "aliases", "reason"),
    [
        ([("a", -1, 0, 1)], {}, "size -1"),
        ([("a", 1, 2, 1)], {}, r"life \[2, 1\]"),
        ([("a", 1, 0, 1)], {"a": "nowhere"}, "nowhere"),
    ],
)
def test_refuses(tensors: list, aliases: dict, reason: str) -> None:
    with pytest.raises(CompileError, match=reason):
        plan(tensors, aliases=aliases)


lives = st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 10))


@settings(max_examples=200, deadline=None)
@given(st.lists(lives, max_size=25), st.sampled_from([1, 64, 256]))
def test_random_plans(drawn: list[tuple[int, int, int]], align: int) -> None:
    tensors = [(f"t{i}", size, first, first + length) for i, (size, first, length) in enumerate(drawn)]
    found = plan(tensors, align)
    assert found.max_live_bytes <= found.peak_bytes <= found.naive_bytes
    for i, (a, size_a, first_a, last_a) in enumerate(tensors):
        assert found.addresses[a] % align == 0
        for b, size_b, first_b, last_b in tensors[:i]:
            if first_a <= last_b and first_b <= last_a:
                low, high = sorted([(found.addresses[a], size_a), (found.addresses[b], size_b)])
                assert low[0] + low[1] <= high[0] or 0 in (size_a, size_b)


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_lifetimes_of_a_chain_with_a_view() -> None:
    graph = fusion.run(
        graph_of("""
        graph "t"
        input %x : fp32[4,64]
        %a : fp32[4,64] = Softmax(%x) {"axis": -1}
        %v : fp32[256] = Reshape(%a) {"shape": [256]}
        %b : fp32[256] = Exp(%v)
        %y : fp32[1] = ReduceSum(%b) {"axes": [0], "keepdims": 1}
        output %y
    """)
    )
    found, aliases = lifetimes(graph)
    assert found == [("x", 1024, 0, 0), ("a", 1024, 0, 1), ("v", 1024, 1, 2), ("b", 1024, 2, 3), ("y", 4, 3, 4)]
    assert aliases == {"v": "a"}
    assert plan(found, 4, aliases).peak_bytes == 2048
    in_place, shared = lifetimes(graph, in_place=True)
    assert shared == {"v": "a", "b": "a"}
    assert plan(in_place, 4, shared).peak_bytes == 2048  # x and a still meet in launch 0


def test_in_place_lowers_the_peak_and_spares_what_is_read_later() -> None:
    lines = ["%a : fp32[64] = Softmax(%x)", "%b : fp32[64] = Exp(%a)", "%c : fp32[64] = Softmax(%b)"]
    text = "\n".join(['graph "t"', "input %x : fp32[64]", *lines, "%y : fp32[64] = {last}", "output %y"])
    for last, in_place in (("Softmax(%c)", 1), ("Add(%c, %a)", 1), ("MatMul(%c, %a)", 0)):
        shape = "%y : fp32[]" if last.startswith("MatMul") else "%y : fp32[64]"
        graph = fusion.run(graph_of(text.replace("%y : fp32[64]", shape).format(last=last)))
        assert len(lifetimes(graph, in_place=True)[1]) == in_place


def test_inner_results_of_a_group_take_no_memory() -> None:
    graph = optimised(build("resnet18"))
    names = {name for name, *_ in lifetimes(graph)[0]}
    assert len(names) == len(fusion.groups(graph)) + 1  # one result a group, and the image


@pytest.mark.parametrize("name", ["resnet18", "bert-block:16,32,2", "llama-block:8"])
def test_reuse_pays_on_networks(name: str) -> None:
    found, aliases = lifetimes(optimised(build(name)), in_place=True)
    planned = plan(found, aliases=aliases)
    assert planned.max_live_bytes <= planned.peak_bytes < planned.naive_bytes
