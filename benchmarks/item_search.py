"""Finding items by words: time of a search, memory and build time, over made-up titles.

``python -m benchmarks.item_search --items 1000000`` prints them. Words are drawn by Zipf's law, as in real titles; the
texts that are searched for are beginnings of one to three words of a title, one letter of every fifth one is another.
"""

import argparse
import json
import random
import time

import numpy as np
import pyarrow as pa

from benchmarks.hardware import describe_hardware
from sidera.items.item_search import WordIndex, words_in

_SYLLABLES = [consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou"]
_LONGEST = 9


def made_up_titles(items: int, words: int, rng: np.random.Generator) -> pa.Array:
    """Titles of two to nine words, the more frequent ones by Zipf's law. Type: large_string."""
    syllables = rng.integers(0, len(_SYLLABLES), (words, 4))
    counts = rng.integers(2, 5, words)
    vocabulary = ["".join(_SYLLABLES[one] for one in own[:count]) for own, count in zip(syllables, counts, strict=True)]
    lengths = rng.integers(2, _LONGEST + 1, items)
    chance = 1 / np.arange(1, words + 1)
    drawn = np.searchsorted(np.cumsum(chance / chance.sum()), rng.random(int(lengths.sum())))
    ends = np.cumsum(lengths)
    flat = [vocabulary[word] for word in np.minimum(drawn, words - 1).tolist()]
    begins = ends - lengths
    return pa.array([" ".join(flat[begin:end]) for begin, end in zip(begins, ends, strict=True)], pa.large_string())


def typed_texts(titles: pa.Array, count: int, rng: random.Random) -> list[str]:
    """What somebody types who looks for some of the titles."""
    texts = []
    for place in range(count):
        words = titles[rng.randrange(len(titles))].as_py().split()[: rng.randint(1, 3)]
        last = words[-1][: rng.randint(1, len(words[-1]))]
        if place % 5 == 0 and len(last) > 3:
            wrong = rng.randrange(1, len(last))
            last = last[:wrong] + "q" + last[wrong + 1 :]
        texts.append(" ".join([*words[:-1], last]))
    return texts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=300_000, help="different words")
    parser.add_argument("--searches", type=int, default=500)
    parser.add_argument("--results", type=int, default=10, help="items a search returns at most")
    asked = parser.parse_args()
    titles = made_up_titles(asked.items, asked.words, np.random.default_rng(0))
    texts = typed_texts(titles, asked.searches, random.Random(0))
    begun = time.perf_counter()
    index = WordIndex.of(pa.chunked_array([titles]))
    built = time.perf_counter() - begun
    took, worked, empty = [], [], 0
    for text in texts:
        begun, worked_before = time.perf_counter(), time.thread_time()
        rows = index.search(words_in(text), False, asked.results, None)
        took.append((time.perf_counter() - begun) * 1000)
        worked.append((time.thread_time() - worked_before) * 1000)
        empty += not len(rows)
    p50, p99 = np.percentile(took, [50, 99])
    cpu_p50, cpu_p99 = np.percentile(worked, [50, 99])
    print(json.dumps(describe_hardware()))
    print(
        f"{asked.items} items, {len(index.words)} words: built in {built:.1f} s, {index.num_bytes / 2**20:.0f} MiB kept"
    )
    print(f"{len(texts)} searches: p50 {p50:.1f} ms, p99 {p99:.1f} ms; {empty} found nothing")
    print(f"of the processor alone: p50 {cpu_p50:.1f} ms, p99 {cpu_p99:.1f} ms")


if __name__ == "__main__":
    main()
