"""Beams over all codes: against scoring every sequence of codes, and against the trie of all sequences."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.no_trie import free_beams, recommend_without_trie
from sidera.catalog import CatalogItem, create_catalog
from sidera.recommender import Query, Recommender
from tests.sidera.worlds import SIZES, adapted_model
from training.data import DomainData
from training.split import Target

EVERY = list(itertools.product(*(range(size) for size in SIZES)))
IDS = [f"film-{number}" for number in range(len(EVERY))]


def domain_of(ids: list[str]) -> DomainData:
    nothing = np.zeros(0, dtype=np.int32)
    return DomainData("films", tuple(ids), tuple({} for _ in ids), nothing, nothing, nothing.astype(np.int64))


def recommender_of(folder: Path, sids: list[tuple[int, ...]], beams: int) -> Recommender:
    items = [CatalogItem("films", IDS[EVERY.index(sid)], sid) for sid in sids]
    return Recommender(adapted_model(folder), create_catalog(items, SIZES), 10, beams)


def test_where_every_sequence_is_an_items_sid_both_searches_give_the_same(tmp_path: Path) -> None:
    recommender = recommender_of(tmp_path, EVERY, 12)
    queries = [Query("films", history) for history in ((), (("films", IDS[7]), ("films", IDS[80])))]
    answers = recommender.recommend([Query("films", q.history, 12, exclude_history=False) for q in queries])
    prompts = [recommender.prompt(query) for query in queries]
    codes_BKL, scores_BK = free_beams(recommender.model, prompts, ["films", "films"], 12)
    for row, answer in enumerate(answers):
        assert [tuple(sid) for sid in codes_BKL[row].tolist()] == [item.sid for item in answer.items]
        np.testing.assert_allclose(scores_BK[row], [item.score for item in answer.items], atol=1e-5)


def test_with_as_many_beams_as_sequences_the_scores_are_a_distribution(tmp_path: Path) -> None:
    recommender = recommender_of(tmp_path, EVERY[:5], 10)
    prompt = recommender.prompt(Query("films"))
    codes_BKL, scores_BK = free_beams(recommender.model, [prompt], ["films"], len(EVERY))
    assert len({tuple(sid) for sid in codes_BKL[0].tolist()}) == len(EVERY)
    assert float(scores_BK.logsumexp(dim=1)) == pytest.approx(0.0, abs=1e-4)
    assert torch.equal(scores_BK, scores_BK.sort(dim=1, descending=True).values)


def test_a_sid_that_is_no_items_takes_a_place_and_counts_as_a_miss(tmp_path: Path) -> None:
    sids = EVERY[::3]
    recommender = recommender_of(tmp_path, sids, 14)
    domain = domain_of([IDS[EVERY.index(sid)] for sid in sids])
    target = Target(user=0, domain=0, item=0, history=((0, 2), (0, 5)), repeated=False)
    prompt = recommender.prompt(Query("films", (("films", domain.item_ids[2]), ("films", domain.item_ids[5]))))
    best = [tuple(sid) for sid in free_beams(recommender.model, [prompt], ["films"], 14)[0][0].tolist()]
    shown = [sid for sid in best if sid not in (sids[2], sids[5])][:10]
    answers = recommend_without_trie(recommender, [domain], [target])
    assert answers.top_NP.tolist() == [[sids.index(sid) if sid in sids else -1 for sid in shown]]
    assert answers.invalid == pytest.approx(sum(sid not in sids for sid in shown) / 10)
    assert 0 < answers.invalid < 1


def test_the_history_is_passed_over_as_the_product_does(tmp_path: Path) -> None:
    recommender = recommender_of(tmp_path, EVERY, len(EVERY))
    domain = domain_of(IDS)
    history = tuple((0, item) for item in range(0, len(EVERY), 2))
    answers = recommend_without_trie(recommender, [domain], [Target(0, 0, 1, history, False)])
    assert answers.invalid == 0
    assert all(item % 2 for item in answers.top_NP[0].tolist())
