"""What a person can read of codes: words, near items, agreement with categories."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from sidera.tokenizers.rqkmeans import RqKMeans
from training.tokenization_items import (
    category_agreement,
    category_of,
    first_codes,
    name_of,
    nearest_items,
    normalised_mutual_information,
)


def test_first_codes_come_with_their_words_names_and_number_of_items_most_items_first() -> None:
    fields: list[dict[str, Any]] = [{"item_id": f"l{n}", "title": f"Lamp {n}{n}"} for n in range(4)]
    fields += [{"item_id": f"b{n}", "categories": ["Boat"]} for n in range(6)]
    sids = np.array([[5, n] for n in range(4)] + [[2, n] for n in range(6)])
    assert first_codes(sids, fields) == [
        {"code": 2, "items": 6, "words": ["boat"], "examples": ["b0", "b1", "b2"]},
        {"code": 5, "items": 4, "words": ["lamp"], "examples": ["Lamp 00", "Lamp 11", "Lamp 22"]},
    ]


def test_an_item_is_called_by_title_id_or_row() -> None:
    assert name_of({"item_id": "a", "title": "Lamp"}, 3) == "Lamp"
    assert name_of({"item_id": "a", "title": " "}, 3) == "a"
    assert name_of({"title": None}, 3) == "item in row 3"


def line() -> RqKMeans:
    """SID (a, b) stands for the number 10 a + b."""
    tokenizer = RqKMeans(1, (10, 10), 1)
    with torch.no_grad():
        tokenizer.quantiser.codebooks[0].copy_(10 * torch.arange(10.0)[:, None])
        tokenizer.quantiser.codebooks[1].copy_(torch.arange(10.0)[:, None])
    return tokenizer.eval().requires_grad_(False)


def test_near_items_share_codes_first_and_lie_near_next() -> None:
    sids = np.array([[3, 0], [3, 9], [3, 4], [2, 9], [4, 0], [9, 9], [0, 0]])
    fields = [{"item_id": f"{10 * a + b}"} for a, b in sids.tolist()]
    for example in nearest_items(line(), sids, fields):
        own = example["sid"]

        def rank(item: dict[str, Any], own: list[int] = own) -> tuple[int, int]:
            shares = -1 if item["sid"][0] == own[0] else 0
            return shares, abs(10 * (item["sid"][0] - own[0]) + item["sid"][1] - own[1])

        assert example["item"] == f"{10 * own[0] + own[1]}"
        assert len(example["nearest"]) == 5
        assert all(item["sid"] != own for item in example["nearest"])
        assert [item["shared_codes"] for item in example["nearest"]] == [-rank(item)[0] for item in example["nearest"]]
        others = sorted(rank({"sid": sid}) for sid in sids.tolist() if sid != own)
        assert [rank(item) for item in example["nearest"]] == others[:5]


def test_a_single_item_has_no_near_ones() -> None:
    assert nearest_items(line(), np.array([[3, 0]]), [{}]) == [{"item": "item in row 0", "sid": [3, 0], "nearest": []}]


@pytest.mark.parametrize(
    ("categories", "category"),
    [
        (["Home", "Light", "Lamp"], "Light"),
        (["Home"], "Home"),
        (("Home", " "), "Home"),
        ([], None),
        (None, None),
        ("Home", None),
    ],
)
def test_a_category_is_the_second_of_the_path_or_else_the_first(categories: object, category: str | None) -> None:
    assert category_of({"categories": categories}) == category


def test_agreement_counts_items_with_a_category_and_shows_what_chance_gives() -> None:
    random = np.random.default_rng(0)
    category = random.integers(4, size=400)
    fields: list[dict[str, Any]] = [{"categories": ["All", f"c{c}"]} for c in category]
    fields += [{"title": "none"} for _ in range(50)]
    codes = np.stack([np.append(category, random.integers(4, size=50)), random.integers(4, size=450)], axis=1)
    found = category_agreement(codes, fields)
    assert found is not None
    assert (found["items"], found["categories"]) == (400, 4)
    assert found["first_code"]["normalised_mutual_information"] == pytest.approx(1)
    assert found["first_code"]["chance"] < 0.05
    pairs = codes[:400, 0] * 4 + codes[:400, 1]
    expected = normalized_mutual_info_score(category, pairs)
    assert found["first_two_codes"]["normalised_mutual_information"] == pytest.approx(expected)


def test_without_categories_or_with_one_for_all_there_is_no_agreement() -> None:
    codes = np.array([[0, 1], [1, 1]])
    assert category_agreement(codes, [{}, {}]) is None
    assert category_agreement(codes, [{"categories": ["Home"]}] * 2) is None


@pytest.mark.parametrize("groups", [1, 3, 40])
def test_mutual_information_is_that_of_scikit_learn(groups: int) -> None:
    random = np.random.default_rng(groups)
    a, b = random.integers(groups, size=200), random.integers(5, size=200)
    assert normalised_mutual_information(a, b) == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)
    assert normalised_mutual_information(a, a) == pytest.approx(1)
