"""Which children become beams, and in what order equal ones stand."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidera.decoding.beams import best_children, in_order
from sidera.decoding.diversity import Diversity
from sidera.language_model import LanguageModel
from tests.sidera.worlds import SIZES, VOCABULARY, Request, Sid, World, random_backbone

ranks = st.sampled_from([-math.inf, -2.0, -1.0, -0.5, -0.0, 0.0])


@given(st.data(), st.integers(1, 12), st.integers(1, 4), st.integers(1, 14))
def test_the_best_children_go_on_and_of_equal_ones_the_first_in_sid_order(
    data: st.DataObject, candidates: int, rows: int, width: int
) -> None:
    of_row = st.lists(ranks, min_size=candidates, max_size=candidates)
    rank_BX = torch.tensor(data.draw(st.lists(of_row, min_size=rows, max_size=rows)))
    nodes_BX = torch.tensor([data.draw(st.permutations(range(candidates))) for _ in range(rows)])
    index_BK, cut_B = best_children(rank_BX, nodes_BX, width)
    order_BX = in_order(rank_BX, nodes_BX)
    for rank, nodes, index, cut, order in zip(
        *map(Tensor.tolist, (rank_BX, nodes_BX, index_BK, cut_B, order_BX)), strict=True
    ):
        best = sorted(range(candidates), key=lambda place: (-rank[place], nodes[place]))
        assert order == best
        alive = [place for place in best if rank[place] > -math.inf]
        assert {place for place in index if rank[place] > -math.inf} == set(alive[:width])
        assert len(index) == min(width, candidates)
        assert cut == (rank[best[width]] if width < candidates else -math.inf)


class Scripted(LanguageModel):
    """A language model whose logits are written down: the same at each level whatever came before."""

    def __init__(self, logits: Sequence[Sequence[float]]) -> None:
        super().__init__(random_backbone(), VOCABULARY)
        self.written = [torch.tensor(level) for level in logits]

    def code_logits(self, hidden_XD: Tensor, level: int) -> Tensor:
        return self.written[level].expand(*hidden_XD.shape[:-1], -1)


EVERY_SID: list[Sid] = list(itertools.product(*map(range, SIZES)))
few_values = st.tuples(
    *[
        st.lists(st.sampled_from([0.0, high]), min_size=size, max_size=size)
        for size, high in zip(SIZES, (1.5, 0.9, 0.4), strict=True)
    ]
)
"""No two sums of other terms are as close as rounding, so that equal items are equal to the last bit."""


@settings(deadline=None, max_examples=40)
@given(few_values, st.integers(1, 130))
def test_equal_items_come_in_sid_order_at_every_width_alone_and_in_a_batch(
    logits: tuple[list[float], ...], width: int
) -> None:
    world = World(Scripted(logits), {"books": [(1, 1, 1)], "films": EVERY_SID})
    width = min(width, len(EVERY_SID))
    logprobs = [torch.tensor(level).log_softmax(0).tolist() for level in logits]
    beams: list[tuple[float, Sid]] = [(0.0, ())]
    for level in logprobs:
        grown = [(score + own, (*sid, code)) for score, sid in beams for code, own in enumerate(level)]
        beams = sorted(grown, key=lambda beam: (-round(beam[0], 3), beam[1]))[:width]
    request = Request(num_results=width)
    for found in (
        world.search([request], width)[0],
        world.search([Request("books", num_results=1), request], width)[1],
    ):
        assert found.sids == [sid for _, sid in beams]


@pytest.mark.parametrize("width", [4, 9, 120])
def test_equal_items_of_capped_prefixes_come_in_sid_order(width: int) -> None:
    world = World(Scripted([[0.0] * size for size in SIZES]), {"films": EVERY_SID})
    found = world.search([Request(num_results=4, diversity=Diversity(1, 1))], width)[0]
    assert found.sids == [(code, 0, 0) for code in range(4)]
