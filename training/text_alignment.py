"""Text alignment: titles and SIDs in one sequence, so that a pretrained backbone uses what it knows of words.

Two auxiliary tasks of phase 1, after LC-Rec (arXiv 2311.09049): the SID of a title, and the title of a SID. Titles
are tokens of the backbone's own, whose rows never change; SID and domain tokens are the new rows.

    title -> SID:   t_1 .. t_n domain c_1 .. c_L     the codes are predicted, c_1 at the domain's token as in a history
    SID -> title:   domain c_1 .. c_L t_1 .. t_n     the title is predicted, t_1 at c_L, over the backbone's own tokens

In a history nothing is predicted at c_L, so neither task asks one place for two things. Only the catalog is read, no
event. Batches of titles stand among those of histories at places that (seed, epoch) decide, so a run goes on anywhere.

Shapes: I titles, X tokens of all titles, B titles of a batch, T tokens of a row, n tokens of a title, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidera.catalog import Catalog
from sidera.model.vocabulary import Vocabulary
from training.data import Dataset
from training.errors import ConfigError, DataError
from training.model_config import TextAlignmentConfig
from training.pretrained import FoundBackbone, load_text_tokenizer
from training.sequences import EpochBatches, SequenceBatch

Task = Literal["title to SID", "SID to title"]
_TASKS: tuple[Task, Task] = ("title to SID", "SID to title")
_SALT = 1
"""Keeps the draws of titles apart from those of windows, which come from (seed, epoch) alone."""


@dataclass(frozen=True)
class Titles:
    """The titles of a catalog as tokens, end to end.

    Attributes:
        token_X: tokens of the backbone's own vocabulary. Shape: int64[X].
        begin_I: where each title begins, and where the last one ends; none is empty. Shape: int64[I + 1].
        domain_I: the domain (index) of its item. Shape: int64[I].
        codes_IL: its item's SID. Shape: int64[I, L].
    """

    token_X: npt.NDArray[np.int64]
    begin_I: npt.NDArray[np.int64]
    domain_I: npt.NDArray[np.int64]
    codes_IL: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.domain_I)


@dataclass(frozen=True)
class TitleBatch:
    """Items of one auxiliary task, padded on the right.

    Attributes:
        tokens_BT: as the module's text shows them. Shape: int64[B, T].
        title_length_B: n of each. Shape: int64[B].
        domain_B: Shape: int64[B].
        codes_BL: Shape: int64[B, L].
    """

    task: Task
    tokens_BT: Tensor
    title_length_B: Tensor
    domain_B: Tensor
    codes_BL: Tensor
    name: str

    @property
    def num_tokens(self) -> int:
        """Tokens that are read, padding included."""
        return self.tokens_BT.numel()

    @property
    def weight(self) -> int:
        """How many targets the batch has: items, or tokens of titles."""
        return len(self.tokens_BT) if self.task == "title to SID" else int(self.title_length_B.sum())

    def part(self, index: int, parts: int) -> "TitleBatch | None":
        """Every ``parts``-th item; None where none is left."""
        rows = slice(index, None, parts)
        if index >= len(self.tokens_BT):
            return None
        return TitleBatch(
            self.task,
            self.tokens_BT[rows],
            self.title_length_B[rows],
            self.domain_B[rows],
            self.codes_BL[rows],
            self.name,
        )

    @property
    def code_places_BL(self) -> Tensor:  # noqa: N802
        """Of title to SID: where each code is predicted. Shape: int64[B, L]."""
        return self.title_length_B[:, None] + torch.arange(self.codes_BL.shape[1])

    @property
    def is_title_BT(self) -> Tensor:  # noqa: N802
        """Of SID to title: which tokens are of the title. Shape: bool[B, T]."""
        place_T = torch.arange(self.tokens_BT.shape[1]) - 1 - self.codes_BL.shape[1]
        return (place_T >= 0) & (place_T < self.title_length_B[:, None])


def check_text_alignment(config: TextAlignmentConfig, found: FoundBackbone, num_levels: int, dataset: Dataset) -> None:
    """Refuse, before anything is computed, what could align nothing.

    Raises:
        ConfigError: the backbone has no tokenizer, or reads fewer tokens than a title and a SID have.
        DataError: no item has a title.
    """
    load_text_tokenizer(found)
    longest = config.max_title_tokens + 1 + num_levels
    if found.max_tokens is not None and longest > found.max_tokens:
        raise ConfigError(
            f"language_model.text_alignment: backbone {found.name!r} reads {found.max_tokens} tokens, a title of "
            f"{config.max_title_tokens} and its SID are {longest}; set a smaller max_title_tokens"
        )
    if not any(_has_title(item.get("title")) for domain in dataset.domains for item in domain.fields):
        raise DataError(
            "language_model.text_alignment: no item has a title; name one in items.jsonl, or leave text_alignment out"
        )


def catalog_titles(catalog: Catalog, domain_names: Sequence[str], tokenizer: Any, max_title_tokens: int) -> Titles:
    """The titles of all domains' items, items without one left out.

    Args:
        domain_names: name of each domain index.
        tokenizer: a ``transformers`` tokenizer; its special tokens are not used.

    Raises:
        DataError: no item has a title that the tokenizer makes a token of.
    """
    tokens: list[list[int]] = []
    domains: list[npt.NDArray[np.int64]] = []
    codes: list[npt.NDArray[np.int32]] = []
    for domain, name in enumerate(domain_names):
        titles = [catalog.name(number)[1] for number in catalog.index(name).number_of_leaf.tolist()]
        named = [leaf for leaf, title in enumerate(titles) if _has_title(title)]
        read = _tokens([str(titles[leaf]) for leaf in named], tokenizer, max_title_tokens)
        kept = [place for place, title in enumerate(read) if title]
        tokens += [read[place] for place in kept]
        domains.append(np.full(len(kept), domain, dtype=np.int64))
        codes.append(catalog.sids(name)[[named[place] for place in kept]])
    if not tokens:
        raise DataError("language_model.text_alignment: the tokenizer reads no item's title; leave text_alignment out")
    return Titles(
        np.concatenate([np.array(title, dtype=np.int64) for title in tokens]),
        np.cumsum([0, *map(len, tokens)], dtype=np.int64),
        np.concatenate(domains),
        np.concatenate(codes).astype(np.int64),
    )


class MixedBatches(Sequence[SequenceBatch | TitleBatch]):
    """The batches of one epoch, histories and titles; each is made when it is taken.

    Args:
        histories: the epoch's batches without titles, all of which are among these, in the same order.
        titles: what the others are made of.
        vocabulary: the tokens of codes and domains.
        domain_names: name of each domain index.
        share: titles' share of all batches; at least one batch of titles, where there is one of histories.
        batch_tokens: tokens of a batch of titles at the most, padding included; at least one title.
        seed: the same numbers, of which the last is the epoch, give the same batches.
    """

    def __init__(
        self,
        histories: EpochBatches,
        titles: Titles,
        vocabulary: Vocabulary,
        domain_names: Sequence[str],
        share: float,
        batch_tokens: int,
        seed: Sequence[int],
    ) -> None:
        self._histories, self._titles, self._vocabulary = histories, titles, vocabulary
        self._domain_token_of = np.array([vocabulary.domain_token(name) for name in domain_names])
        self._first_code_L = np.array([vocabulary.first_code(level) for level in range(vocabulary.num_levels)])
        count = max(1, round(len(histories) * share / (1 - share))) if len(histories) and share else 0
        random = np.random.default_rng([*seed, _SALT])
        self._is_title = np.zeros(len(histories) + count, dtype=bool)
        self._is_title[random.choice(len(self._is_title), size=count, replace=False)] = True
        self._number = np.where(self._is_title, np.cumsum(self._is_title), np.cumsum(~self._is_title)) - 1
        longest = int(np.diff(titles.begin_I).max()) + vocabulary.tokens_per_item
        size = min(max(1, batch_tokens // longest), len(titles))
        # No title comes again before all have come.
        rounds = -(-count * size // len(titles))
        stream = np.concatenate([random.permutation(len(titles)) for _ in range(rounds)] or [np.arange(0)])
        self._groups = stream[: count * size].reshape(count, size)
        self._first_task = int(seed[-1])

    def __len__(self) -> int:
        return len(self._is_title)

    @overload
    def __getitem__(self, place: int) -> SequenceBatch | TitleBatch: ...

    @overload
    def __getitem__(self, place: slice) -> list[SequenceBatch | TitleBatch]: ...

    def __getitem__(self, place: int | slice) -> SequenceBatch | TitleBatch | list[SequenceBatch | TitleBatch]:
        if isinstance(place, slice):
            return [self[step] for step in range(*place.indices(len(self)))]
        number = int(self._number[place])
        if not self._is_title[place]:
            return self._histories[number]
        return self._batch(self._groups[number], _TASKS[(self._first_task + number) % len(_TASKS)])

    def _batch(self, rows_B: npt.NDArray[np.int64], task: Task) -> TitleBatch:
        titles = self._titles
        begin_B, length_B = titles.begin_I[rows_B], np.diff(titles.begin_I)[rows_B]
        domain_B, codes_BL = titles.domain_I[rows_B], titles.codes_IL[rows_B]
        item_BX = np.concatenate([self._domain_token_of[domain_B][:, None], codes_BL + self._first_code_L], axis=1)
        width = item_BX.shape[1]
        title_first = task == "title to SID"
        title_at_B = np.zeros_like(length_B) if title_first else np.full_like(length_B, width)
        item_at_B = length_B if title_first else np.zeros_like(length_B)
        tokens_BT = np.full((len(rows_B), int(length_B.max()) + width), self._vocabulary.pad, dtype=np.int64)
        row = np.repeat(np.arange(len(rows_B)), length_B)
        step = np.arange(len(row)) - np.repeat(np.cumsum(length_B) - length_B, length_B)
        tokens_BT[row, title_at_B[row] + step] = titles.token_X[begin_B[row] + step]
        np.put_along_axis(tokens_BT, item_at_B[:, None] + np.arange(width), item_BX, axis=1)
        return TitleBatch(
            task=task,
            tokens_BT=torch.from_numpy(tokens_BT),
            title_length_B=torch.from_numpy(length_B),
            domain_B=torch.from_numpy(domain_B),
            codes_BL=torch.from_numpy(codes_BL),
            name=f"{task} of titles {rows_B[:3].tolist()}...",
        )


def _has_title(title: object) -> bool:
    return title is not None and bool(str(title).strip())


def _tokens(titles: list[str], tokenizer: Any, most: int) -> list[list[int]]:
    if not titles:
        return []
    return [tokens[:most] for tokens in tokenizer(titles, add_special_tokens=False)["input_ids"]]
