"""The words that stand out among the items of a code: what the code means, as far as titles say it.

Knows the fields of items and groups of items; does not know SIDs, tokenizers or languages.

A word stands out when more of a group's items have it than the rest of the domain would lead one to expect, by the
log-likelihood ratio of the two by two table (Dunning, "Accurate methods for the statistics of surprise and
coincidence", Computational Linguistics 1993). So a word of two items out of two tells less than one of fifty out of
sixty, and words that are common everywhere never stand out, in any language and without a list of them.
"""

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Group = TypeVar("Group", bound=Hashable)

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece"  # Thai, Lao
    "\u1000-\u1049\u1780-\u17d3"  # Burmese, Khmer
    "\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Letters and their marks of scripts that set no space between words, as ranges of a regular expression."""
_WORD = re.compile(rf"([{_UNSPACED}]+)|([^\W_{_UNSPACED}]{{2,}})")
_LEAST_SURPRISE = 3.84
"""What chance exceeds for one word in twenty (chi-squared with one degree of freedom)."""


@dataclass
class WordCounts:
    """In how many items of a group each word occurs, and how many items there are."""

    items: int = 0
    items_with: Counter[str] = field(default_factory=Counter)

    def add(self, words: Iterable[str]) -> None:
        """Count one more item, given its different words."""
        self.items += 1
        self.items_with.update(words)

    @classmethod
    def total(cls, parts: Iterable["WordCounts"]) -> "WordCounts":
        """Of several groups together, none of which shares an item with another."""
        counts = cls()
        for part in parts:
            counts.items += part.items
            counts.items_with.update(part.items_with)
        return counts


def words_of(title: object, fields: Mapping[str, object]) -> frozenset[str]:
    """The different words, in lower case, of a title and of the fields that are lists of texts (categories, genres).

    A word is two or more letters or digits of any script. Where a script sets no space between words (Chinese,
    Japanese, Thai and others), every two neighbouring characters stand for one, as is usual in search engines. Long
    texts such as descriptions are left out.
    """
    texts = [title] if isinstance(title, str) else []
    for value in fields.values():
        if isinstance(value, list | tuple):
            texts += [part for part in value if isinstance(part, str)]
    words = set[str]()
    for text in texts:
        for run, word in _WORD.findall(text.lower()):
            words |= {word} if word else {run[place : place + 2] for place in range(max(1, len(run) - 1))}
    return frozenset(words)


def count_words(words: Iterable[Iterable[str]]) -> WordCounts:
    """Count the words of items, given the different words of each."""
    counts = WordCounts()
    for own in words:
        counts.add(own)
    return counts


def count_words_by_group(words: Iterable[Iterable[str]], groups: Sequence[Group]) -> dict[Group, WordCounts]:
    """Count them within each group; ``groups`` says which one every item belongs to."""
    by_group: dict[Group, WordCounts] = {}
    for own, group in zip(words, groups, strict=True):
        by_group.setdefault(group, WordCounts()).add(own)
    return by_group


def standing_out(inside: WordCounts, everywhere: WordCounts, most: int = 5) -> list[str]:
    """The words that stand out in a group, the most surprising first; alphabetical where two surprise the same.

    A word of a single item says nothing about the others, so in a group of several it never stands out.

    Args:
        inside: the group's items.
        everywhere: the domain's items, the group's included.
        most: at most so many words.
    """
    scored = []
    for word, count in inside.items_with.items():
        total = everywhere.items_with[word]
        if count >= min(2, inside.items) and count * everywhere.items > total * inside.items:
            surprise = _log_likelihood_ratio(count, inside.items, total, everywhere.items)
            if surprise > _LEAST_SURPRISE:
                scored.append((-surprise, word))
    return [word for _, word in sorted(scored)[:most]]


def _log_likelihood_ratio(count: int, items: int, total: int, all_items: int) -> float:
    """2 sum observed ln(observed / expected) over items inside and outside, with the word and without."""
    surprise = 0.0
    for observed, share, of in (
        (count, total, items),
        (items - count, all_items - total, items),
        (total - count, total, all_items - items),
        (all_items - items - total + count, all_items - total, all_items - items),
    ):
        if observed:
            surprise += 2 * observed * math.log(observed * all_items / (share * of))
    return surprise
