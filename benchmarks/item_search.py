"""Finding items by words: time of a search, memory and build time, over made-up titles.

``python -m benchmarks.item_search --out FILE.json``. Words are drawn by Zipf's law, as in real titles; the
texts that are searched for are beginnings of one to three words of a title, one letter of every fifth one is another.
The same texts are searched for in the index alone, and in a service that holds these items, over HTTP.
"""

import random
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from benchmarks.harness import at_most, report, shown
from benchmarks.item_search_service import searched
from benchmarks.tokenizer_store import say
from sidera.items.word_index import WordIndex, words_in

_SYLLABLES = [consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou"]
_LONGEST = 9
_MOST_MS = 20.0


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


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    items: Annotated[int, typer.Option(min=1_000, help="How many items there are.")] = 1_000_000,
    words: Annotated[int, typer.Option(min=100, help="How many different words their titles draw from.")] = 300_000,
    searches: Annotated[int, typer.Option(min=1, help="How many searches are timed.")] = 500,
    results: Annotated[int, typer.Option(min=1, help="Items that a search returns at most.")] = 10,
) -> None:
    """Build the index and time searches in it, then serve the items and time searches over HTTP."""
    titles = made_up_titles(items, words, np.random.default_rng(0))
    texts = typed_texts(titles, searches, random.Random(0))
    begun = time.perf_counter()
    index = WordIndex.of(pa.chunked_array([titles]))
    built = time.perf_counter() - begun
    took, worked, empty = [], [], 0
    for text in texts:
        begun, worked_before = time.perf_counter(), time.thread_time()
        rows = index.search(words_in(text), False, results, None)
        took.append((time.perf_counter() - begun) * 1000)
        worked.append((time.thread_time() - worked_before) * 1000)
        empty += not len(rows)
    p50, p99 = (float(value) for value in np.percentile(took, [50, 99]))
    note = f"{len(texts)} searches, {empty} found nothing; of the processor alone {np.percentile(worked, 50):.1f} ms"
    figures = {
        "search_p50_ms": at_most(p50, _MOST_MS, "ms", note),
        "search_p99_ms": shown(p99, "ms", f"of the processor alone {np.percentile(worked, 99):.1f} ms"),
        "build_seconds": shown(built, "s", f"{items:,} items, {len(index.words):,} words"),
        "kept_mebibytes": shown(index.num_bytes / 2**20, "MiB", "words and postings"),
    }
    over_http = searched(titles, texts, results, say)
    http_p50, http_p99 = (float(value) for value in np.percentile(over_http.took_ms, [50, 99]))
    http_note = f"{len(texts)} searches on one connection, {over_http.empty} found nothing"
    figures |= {
        "http_p50_ms": at_most(http_p50, _MOST_MS, "ms", http_note),
        "http_p99_ms": shown(http_p99, "ms"),
        "http_first_seconds": shown(over_http.first_seconds, "s", "until the service had made its index"),
    }
    report("Items by words", figures, out, {"items": items, "words": words})


if __name__ == "__main__":
    typer.run(main)
