"""The words of titles, what is one edit away, and the titles that have all words."""

import random

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sidera.items.word_index import WordIndex, is_one_edit, words_in


def test_many_titles_are_found_as_by_looking_at_each() -> None:
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abc", k=drawn.randint(1, 3))) for _ in range(40)]
    rows = [" ".join(drawn.choices(words, k=drawn.randint(1, 4))) for _ in range(2000)]
    index = WordIndex.of(
        pa.chunked_array([pa.array(rows[:700], pa.large_string()), pa.array(rows[700:], pa.large_string())])
    )
    for first, last in [(drawn.choice(words), drawn.choice("abc")) for _ in range(50)]:
        expected = [
            row
            for row, title in enumerate(rows)
            if first in title.split() and any(w.startswith(last) for w in title.split())
        ]
        assert sorted(index.search([first, last], False, len(rows), None).tolist()) == expected
        allowed_N = np.arange(len(rows)) % 2 == 0
        kept = index.search([first, last], False, len(rows), allowed_N).tolist()
        assert sorted(kept) == [row for row in expected if row % 2 == 0]
        assert kept[:5] == index.search([first, last], False, 5, allowed_N).tolist()


@given(st.text("abc", min_size=1, max_size=5), st.text("abc", min_size=1, max_size=5))
def test_one_edit_is_what_the_edits_make(typed: str, word: str) -> None:
    made = {typed[:place] + typed[place + 1 :] for place in range(len(typed))}
    made |= {typed[:place] + letter + typed[place:] for place in range(len(typed) + 1) for letter in "abc"}
    made |= {typed[:place] + letter + typed[place + 1 :] for place in range(len(typed)) for letter in "abc"}
    made |= {typed[:place] + typed[place + 1] + typed[place] + typed[place + 2 :] for place in range(len(typed) - 1)}
    if typed != word:
        assert is_one_edit(typed, word, True) == (word in made)


def test_words_are_lower_case_without_accents() -> None:
    assert words_in("Léon: The Pro (1994)") == ["leon", "the", "pro", "1994"]
