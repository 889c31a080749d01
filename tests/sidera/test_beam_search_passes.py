"""Forward passes of beam search: what is fed, when, and that it changes no result."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidera.decoding import walk
from sidera.language_model import LanguageModel
from sidera.model.vocabulary import Vocabulary
from tests.sidera.worlds import (
    VOCABULARY,
    Request,
    Sid,
    World,
    random_backbone,
    random_sids,
    write_adapter,
)


@pytest.fixture
def never_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """No children are fed with their parents."""
    monkeypatch.setattr(walk, "_PASS_TOKENS", {"cpu": 0})


def passes(sids: Sequence[Sid], width: int = 50) -> tuple[int, int]:
    """Forward passes and tokens of a search, as it reports them and as the model sees them."""
    model = LanguageModel(random_backbone(), VOCABULARY)
    fed = []
    extend = model.extend

    def counted(history: Any, tokens_BT: Tensor, depths_BT: Tensor, visible_BTS: Tensor) -> Tensor:
        fed.append(int((tokens_BT != VOCABULARY.pad).sum()))
        return extend(history, tokens_BT, depths_BT, visible_BTS)

    model.extend = counted  # type: ignore[method-assign]
    found = World(model, {"films": sids}).raw_search([Request(num_results=1)], width)
    assert (found.passes, found.tokens_fed) == (len(fed), sum(fed))
    return found.passes, found.tokens_fed


def test_a_beam_with_one_child_costs_no_forward_pass() -> None:
    assert passes([(2, 1, 3)]) == (0, 0)
    assert passes([(0, 0, 0), (1, 3, 5), (4, 2, 2)]) == (0, 0)
    assert passes([(3, 1, code) for code in range(6)]) == (1, 2)


def test_a_deferred_token_rides_in_the_pass_that_first_needs_it() -> None:
    assert passes([(0, 0, 0), (0, 0, 1)]) == (1, 2)
    assert passes([(0, 0, 0), (1, 2, 0), (1, 2, 1)]) == (1, 2)
    assert passes([(0, 0, 0), (0, 0, 1), (1, 2, 0), (1, 2, 1)]) == (1, 4)
    assert passes([(0, 0, 0), (0, 1, 1)]) == (1, 1)


@pytest.mark.usefixtures("never_ahead")
def test_only_beams_that_branch_again_are_fed() -> None:
    full = [(a, b, c) for a in range(2) for b in range(2) for c in range(2)]
    assert passes(full) == (2, 2 + 4)
    assert passes([*full, (3, 0, 0), (4, 1, 1)]) == (2, 2 + 4)
    # (0) branches at level 2, (1) only at level 3, with its deferred token.
    assert passes([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 0, 1)]) == (2, 1 + 2)
    assert passes(full, width=1) == (2, 2)


@pytest.mark.usefixtures("never_ahead")
def test_requests_that_are_done_feed_nothing_while_others_go_on() -> None:
    model = LanguageModel(random_backbone(), VOCABULARY)
    full = [(a, b, c) for a in range(2) for b in range(2) for c in range(2)]
    world = World(model, {"films": [(1, 1, 1)], "books": full})
    found = world.raw_search([Request("films"), Request("books"), Request("films")], 8)
    assert (found.passes, found.tokens_fed) == (2, 6)


def test_few_children_that_branch_again_are_fed_with_their_parents_and_save_a_pass() -> None:
    full = [(a, b, c) for a in range(2) for b in range(2) for c in range(2)]
    assert passes(full) == (1, 2 + 4)
    assert passes([*full, (3, 0, 0), (4, 1, 1)]) == (1, 2 + 4)
    assert passes(full, width=1) == (1, 1 + 2)
    # (0) branches at level 2, (1) only at level 3: its deferred token and its child's ride along.
    assert passes([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 0, 1)]) == (1, 1 + 2)


def test_as_many_children_as_a_pass_is_worth_are_fed_with_their_parents_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = [(a, b, c) for a in range(2) for b in range(2) for c in range(2)]
    for worth, expected in ((4, (1, 6)), (3, (2, 6))):
        monkeypatch.setattr(walk, "_PASS_TOKENS", {"cpu": worth})
        assert passes(full) == expected


DEEP = (3, 2, 3, 2, 3)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_feeding_children_with_their_parents_changes_no_result_at_any_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gamma: float
) -> None:
    backbone = random_backbone()
    adapters = {"films": write_adapter(tmp_path / "films", backbone)}
    model = LanguageModel(backbone, Vocabulary(DEEP, {"films": 0}, base=7), adapters)
    rng = np.random.default_rng(3)
    saved = 0
    for count in (2, 5, 12, 40):
        world = World(model, {"films": random_sids(rng, count, DEEP)})
        some = tuple(("films", sid) for sid in world.sids["films"][:2])
        requests = [Request(gamma=gamma), Request(history=some, gamma=gamma), Request(history=some[1:], num_results=2)]
        for asked in (requests[1:2], requests):
            for width in (3, 9):
                found = {}
                for worth in (0, 6, 10_000):
                    monkeypatch.setattr(walk, "_PASS_TOKENS", {"cpu": worth})
                    found[worth] = world.raw_search(asked, width)
                for worth in (6, 10_000):
                    assert torch.equal(found[worth].leaves_BK, found[0].leaves_BK)
                    torch.testing.assert_close(found[worth].scores_BK, found[0].scores_BK, atol=1e-4, rtol=0)
                    assert torch.equal(found[worth].certified_B, found[0].certified_B)
                    assert found[worth].passes <= found[0].passes
                saved += found[0].passes - found[10_000].passes
    assert saved > 0
