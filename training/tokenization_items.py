"""What a person can read of codes: words of the first codes, items with near SIDs, agreement with categories.

Knows the fields of items and their codes; does not know vectors (distances are handed in) or plots.

Shapes: N item, L level, K candidate, d quantised dim.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sidera.explain.code_words import WordCounts, count_words_by_group, standing_out, words_of
from sidera.tokenizers import ItemTokenizer
from training.tokenization_figures import entropy_bits

Fields = Sequence[Mapping[str, object]]
"""The fields of each item of a domain, as ``items.jsonl`` has them, in the order of its vectors."""

_EXAMPLES, _NEAREST, _CANDIDATES = 3, 5, 4096
_TITLES = 3


def name_of(item: Mapping[str, object], row: int) -> str:
    """What to call an item: its title, its id where it has none, or its row."""
    for field in ("title", "item_id"):
        value = item.get(field)
        if isinstance(value, str) and value.strip():
            return value
    return f"item in row {row}"


def first_codes(sids_NL: npt.NDArray[np.integer[Any]], fields: Fields) -> list[dict[str, Any]]:
    """For each first code that an item has: how many items, the words that stand out, a few names. Most items first."""
    codes: list[int] = sids_NL[:, 0].tolist()
    by_code = count_words_by_group((words_of(item.get("title"), item) for item in fields), codes)
    everywhere = WordCounts.total(by_code.values())
    names: dict[int, list[str]] = {}
    for row, code in enumerate(codes):
        own = names.setdefault(code, [])
        if len(own) < _TITLES:
            own.append(name_of(fields[row], row))
    found = [
        {"code": code, "items": counts.items, "words": standing_out(counts, everywhere), "examples": names[code]}
        for code, counts in by_code.items()
    ]
    return sorted(found, key=lambda entry: (-entry["items"], entry["code"]))


def nearest_items(
    tokenizer: ItemTokenizer, sids_NL: npt.NDArray[np.integer[Any]], fields: Fields
) -> list[dict[str, Any]]:
    """The nearest items of a few examples: by the number of first codes they share, then by what their SIDs stand for.

    Of more than 4,096 items that share equally many codes with an example, the first are looked at.
    """
    items = len(sids_NL)
    examples = np.sort(np.random.default_rng([1, items]).permutation(items)[:_EXAMPLES])
    found = []
    for example in examples.tolist():
        shared_N = (sids_NL == sids_NL[example]).cumprod(axis=1).sum(axis=1)
        shared_N[example] = -1
        order_K = np.argsort(-shared_N, kind="stable")[: min(_CANDIDATES, items - 1)]
        rows_K = torch.from_numpy(sids_NL[np.append(order_K, example)].astype(np.int64))
        quantised_Kd = tokenizer.quantised(rows_K).cpu().double().numpy()
        distance_K = np.square(quantised_Kd[:-1] - quantised_Kd[-1]).sum(axis=1)
        best = order_K[np.lexsort((distance_K, -shared_N[order_K]))][:_NEAREST].tolist()
        found.append(
            {
                "item": name_of(fields[example], example),
                "sid": sids_NL[example].tolist(),
                "nearest": [
                    {
                        "item": name_of(fields[row], row),
                        "sid": sids_NL[row].tolist(),
                        "shared_codes": int(shared_N[row]),
                    }
                    for row in best
                ],
            }
        )
    return found


def category_of(item: Mapping[str, object]) -> str | None:
    """The second entry of an item's ``categories`` path, the first where there is no other; None without categories."""
    path = item.get("categories")
    if not isinstance(path, list | tuple):
        return None
    entries = [entry.strip() for entry in path if isinstance(entry, str) and entry.strip()]
    return entries[:2][-1] if entries else None


def category_agreement(codes_NL: npt.NDArray[np.integer[Any]], fields: Fields) -> dict[str, Any] | None:
    """How far codes agree with categories: normalised mutual information of the first code, and of the first two.

    ``chance`` is what the same codes give in random order: many small groups agree a little with anything. None where
    no item has a category, or all share one.
    """
    categories = [category_of(item) for item in fields]
    known = np.array([category is not None for category in categories], dtype=bool)
    numbers: dict[str, int] = {}
    named = [numbers.setdefault(category, len(numbers)) for category in categories if category is not None]
    names, category_n = list(numbers), np.array(named, dtype=np.int64)
    if len(names) < 2:
        return None
    figures: dict[str, Any] = {"items": int(known.sum()), "categories": len(names)}
    for length, figure in ((1, "first_code"), (2, "first_two_codes")):
        _, group_n = np.unique(codes_NL[known, :length], axis=0, return_inverse=True)
        shuffled_n = np.random.default_rng(0).permutation(group_n)
        figures[figure] = {
            "normalised_mutual_information": normalised_mutual_information(group_n, category_n),
            "chance": normalised_mutual_information(shuffled_n, category_n),
        }
    return figures


def normalised_mutual_information(a_N: npt.NDArray[np.integer[Any]], b_N: npt.NDArray[np.integer[Any]]) -> float:
    """2 I(a; b) / (H(a) + H(b)) of two labellings of the same items, 0 to 1; 1 where neither tells anything apart."""
    _, joint_V = np.unique(a_N.astype(np.int64) * (int(b_N.max()) + 1) + b_N, return_counts=True)
    both, apart = entropy_bits(joint_V), entropy_bits(np.bincount(a_N)) + entropy_bits(np.bincount(b_N))
    return max(0.0, 2 * (apart - both) / apart) if apart else 1.0
