"""Finds titles by their words, as somebody types them: prefixes, and words with a mistake.

Titles become words: lower case, accents taken off, one character a word in scripts that set no space between words. All
different words lie sorted in one array, so the words that begin with what was typed are one range of it, and the items
that have any of them one range of the postings. A word that no title has is compared with the words that could be one
edit away (a letter more, less, another, or two swapped: Damerau, Communications of the ACM 1964); which ones these can
be is known from a set of letters of each word, 64 bits wide, in one pass over the words, not over the items.

An index never changes, and knows nothing of the catalog.

Memory: 4 bytes a word of a title, and 26 bytes and its letters a different word; building takes about five times that.

Shapes: N titles, V different words, P postings (one for each word of each title), C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Rows = npt.NDArray[np.int64]

MAX_WORDS = 8
"""Words of a text that are searched for; those behind them change nothing."""
_UNSPACED = (
    r"[\x{0e01}-\x{0edf}\x{1000}-\x{109f}\x{1780}-\x{17ff}"  # Thai, Lao, Burmese, Khmer
    r"\x{3005}-\x{30ff}\x{31f0}-\x{31ff}\x{3400}-\x{4dbf}\x{4e00}-\x{9fff}\x{f900}-\x{faff}]"  # kana, Chinese
)
"""As a range of RE2."""
_TITLES_AT_ONCE = 100_000
_LEAST_FUZZY = 4
"""Shorter words have too many neighbours for a mistake to be guessed."""
_MOST_FUZZY = 64
_MOST_COMPARED = 4000


def _words_of(texts: pa.Array) -> pa.Array:
    """The words of each text, some of them empty. Type: list of large_string."""
    plain = pc.replace_substring_regex(pc.utf8_normalize(pc.utf8_lower(texts), "NFKD"), r"\p{Mn}+", "")
    apart = pc.replace_substring_regex(plain, rf"({_UNSPACED})", r" \1 ")
    return pc.split_pattern_regex(apart, r"[^\p{L}\p{N}]+")


def words_in(text: str) -> list[str]:
    """The words of one text, in order."""
    return [word for word in _words_of(pa.array([text], pa.large_string()))[0].as_py() if word]


@dataclass(frozen=True)
class WordIndex:
    """The titles of N items, by their words.

    Attributes:
        words: all different words, sorted by their bytes in UTF-8. Shape: large_binary[V].
        begin_V1: where the postings of each word begin. Shape: int64[V + 1].
        rows_P: the row of the title of each posting, sorted within a word. Shape: int32[P].
        letters_V: the letters that each word has, hashed to 64. Shape: uint64[V].
        lengths_V: its letters, 255 at most. Shape: uint8[V].
        count_N: the words of each title, 255 at most. Shape: uint8[N].
    """

    words: pa.LargeBinaryArray
    begin_V1: npt.NDArray[np.int64]
    rows_P: npt.NDArray[np.int32]
    letters_V: npt.NDArray[np.uint64]
    lengths_V: npt.NDArray[np.uint8]
    count_N: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, titles: pa.ChunkedArray) -> "WordIndex":
        """The index of titles, some of which may be null.

        Nearly all of it runs outside Python's lock, so that a service answers on meanwhile.
        """
        parts, rows = [], []
        for begin in range(0, len(titles), _TITLES_AT_ONCE):
            part = titles.slice(begin, _TITLES_AT_ONCE).combine_chunks()
            lists = _words_of(pc.fill_null(part.cast(pa.large_string()), ""))
            flat, parents = pc.list_flatten(lists), pc.list_parent_indices(lists)
            filled = pc.not_equal(flat, "")
            parts.append(flat.filter(filled).dictionary_encode())
            rows.append(parents.filter(filled).to_numpy().astype(np.int32) + np.int32(begin))
        encoded = pa.chunked_array(parts, pa.dictionary(pa.int32(), pa.large_string())).unify_dictionaries()
        found = encoded.chunk(0).dictionary if parts else pa.array([], pa.large_string())
        order = pc.sort_indices(found.cast(pa.large_binary())).to_numpy()
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        word_P = rank[np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [order])]
        row_P = np.concatenate(rows or [rank])
        begin_V1 = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum(np.bincount(word_P, minlength=len(order)), out=begin_V1[1:])
        counts = np.bincount(row_P, minlength=len(titles))
        words = found.take(pa.array(order))
        return cls(
            words=words.cast(pa.large_binary()),
            begin_V1=begin_V1,
            rows_P=row_P[np.argsort(word_P, kind="stable")],
            letters_V=_letters(words),
            lengths_V=np.minimum(pc.utf8_length(words).to_numpy(), 255).astype(np.uint8),
            count_N=np.minimum(counts, 255).astype(np.uint8),
        )

    @property
    def num_bytes(self) -> int:
        """What it holds in memory."""
        arrays = (self.begin_V1, self.rows_P, self.letters_V, self.lengths_V, self.count_N)
        return int(self.words.nbytes) + sum(array.nbytes for array in arrays)

    def search(
        self, wanted: Sequence[str], whole_last: bool, most: int, allowed_N: npt.NDArray[np.bool_] | None
    ) -> Rows:
        """The rows of titles that have all words, the best first.

        Titles with more of the words as they were typed come first, then shorter ones. Mistakes are guessed only where
        no title has all words as they were typed.

        Args:
            wanted: the words as :func:`words_in` gives them.
            whole_last: whether the last one was typed to its end; otherwise it is a beginning.
            most: at most so many rows.
            allowed_N: the rows that may come back; None: all. Shape: bool[N].
        """
        wanted = wanted[:MAX_WORDS]
        if not wanted or not len(self.words):
            return np.empty(0, dtype=np.int64)
        encoded = [word.encode() for word in wanted]
        typed = [self._range(word, whole_last or place < len(wanted) - 1) for place, word in enumerate(encoded)]
        exact = [self._range(word, True) for word in encoded]
        found = self._with_all([[own] for own in typed], allowed_N)
        if not len(found):
            loose = [
                [own, *self._one_edit(word, whole_last or place < len(wanted) - 1)]
                for place, (word, own) in enumerate(zip(wanted, typed, strict=True))
            ]
            if any(len(ranges) > 1 for ranges in loose):
                found = self._with_all(loose, allowed_N)
        return self._best(found, exact, most)

    def _range(self, word: bytes, whole: bool) -> tuple[int, int]:
        """The words that are, or begin with, a word: from the first to before the last."""
        begin = self._place(word, 0)
        if whole:
            return begin, begin + int(begin < len(self.words) and self.words[begin].as_py() == word)
        return begin, self._place(word + b"\xff", begin)  # no text holds this byte

    def _place(self, word: bytes, low: int) -> int:
        high = len(self.words)
        while low < high:
            middle = (low + high) // 2
            if self.words[middle].as_py() < word:
                low = middle + 1
            else:
                high = middle
        return low

    def _with_all(
        self, ranges_of: Sequence[Sequence[tuple[int, int]]], allowed_N: npt.NDArray[np.bool_] | None
    ) -> Rows:
        """The rows that have, for each wanted word, a word of one of its ranges; sorted."""
        found = [
            np.concatenate([self.rows_P[self.begin_V1[low] : self.begin_V1[high]] for low, high in ranges])
            for ranges in ranges_of
        ]
        found.sort(key=len)
        rows = _different(found[0], len(self.count_N))
        if allowed_N is not None:
            rows = rows[allowed_N[rows]]
        for others in found[1:]:
            if not len(rows):
                break
            has_N = np.zeros(len(self.count_N), dtype=bool)
            has_N[others] = True
            rows = rows[has_N[rows]]
        return rows

    def _best(self, rows_C: Rows, exact: Sequence[tuple[int, int]], most: int) -> Rows:
        """The best of some rows, which are sorted."""
        key_C = 255 - self.count_N[rows_C].astype(np.int32)
        for low, high in exact:
            own = self.rows_P[self.begin_V1[low] : self.begin_V1[high]]
            if len(own):
                place_C = np.minimum(own.searchsorted(rows_C.astype(np.int32)), len(own) - 1)
                key_C += 256 * (own[place_C] == rows_C)
        if len(rows_C) > most:
            worst = np.partition(key_C, len(key_C) - most)[len(key_C) - most] if most else np.iinfo(np.int32).max
            better_C = np.flatnonzero(key_C > worst)
            equal_C = np.flatnonzero(key_C == worst)[: most - len(better_C)]
            kept_C = np.concatenate([better_C, equal_C])
            rows_C, key_C = rows_C[kept_C], key_C[kept_C]
        best: Rows = rows_C[np.lexsort((rows_C, -key_C))]
        return best

    def _one_edit(self, word: str, whole: bool) -> list[tuple[int, int]]:
        """The words that are one edit away, or, of a beginning, that begin with something one edit away."""
        if len(word) < _LEAST_FUZZY:
            return []
        letters = _letters(pa.array([word], pa.large_string()))[0]
        near_V = np.bitwise_count(self.letters_V ^ letters) <= 2
        near_V &= (self.lengths_V >= min(len(word) - 1, 254)) & (self.lengths_V <= len(word) + 1)
        candidates = np.flatnonzero(near_V)[:_MOST_COMPARED].tolist()
        if not whole:
            low, high = self._range(word[0].encode(), whole=False)
            has_V = np.bitwise_count(letters & ~self.letters_V[low:high]) <= 1
            has_V &= self.lengths_V[low:high] >= min(len(word) - 1, 254)
            candidates += (np.flatnonzero(has_V) + low)[:_MOST_COMPARED].tolist()
        near = dict.fromkeys(
            place for place in candidates if is_one_edit(word, self.words[place].as_py().decode(), whole)
        )
        return [(place, place + 1) for place in islice(near, _MOST_FUZZY)]


def _different(rows: npt.NDArray[np.int32], count: int) -> Rows:
    """The different ones of some rows, sorted."""
    if len(rows) * 16 < count:
        return np.unique(rows).astype(np.int64)
    has_N = np.zeros(count, dtype=bool)
    has_N[rows] = True
    return np.flatnonzero(has_N)


def _letters(words: pa.Array) -> npt.NDArray[np.uint64]:
    """Which letters each word has: bit (code point mod 64). Shape: uint64[V]."""
    points = np.frombuffer("".join(words.to_pylist()).encode("utf-32-le"), dtype=np.uint32)
    ends = np.cumsum(pc.utf8_length(words).to_numpy())
    bits = np.left_shift(np.uint64(1), (points % 64).astype(np.uint64))
    if not len(bits):
        return np.zeros(len(words), dtype=np.uint64)
    found: npt.NDArray[np.uint64] = np.bitwise_or.reduceat(bits, np.concatenate([[0], ends[:-1]]))
    return found


def is_one_edit(typed: str, word: str, whole: bool) -> bool:
    """Whether one edit makes the typed word the other one, or, if it is not whole, a beginning of it."""
    same = 0
    while same < min(len(typed), len(word)) and typed[same] == word[same]:
        same += 1
    mine, theirs = typed[same:], word[same:]
    edits = (
        (mine, theirs[1:]),  # a letter is missing
        (mine[1:], theirs),  # one too many
        (mine[1:], theirs[1:]),  # another one
        (mine[1:2] + mine[:1] + mine[2:], theirs),  # two swapped
    )
    if whole:
        return any(own == other for own, other in edits)
    return any(other.startswith(own) for own, other in edits)
