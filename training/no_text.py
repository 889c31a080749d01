"""Vectors of items without text: from the company that they keep in the train part's events.

Where some items of the domain have text, ridge regression leads from spectral coordinates to text vectors, fitted on
the items that have both. Where none has, the coordinates are the vectors. An item without text that nobody took in the
train part is refused. No event of the validation or test part is read.

All domains' vectors have the encoder's width D, with text or without: one tokenizer reads them all, and it is the
encoder that makes the vectors of items that come later.

Shapes: N items, M items without text, R items of a fit, K coordinates, D dim, E events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data import Dataset, DomainData
from training.data_files import BadRow, quoted
from training.errors import DataError
from training.spectral import MOST_COORDINATES, spectral_coordinates
from training.split import Events, Part
from training.stages import stage

_PENALTIES = np.logspace(4, -3, 29)
"""Candidates, strongest first, in units of the coordinates' mean variance times the number of items."""

_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression with an intercept.

    Attributes:
        mean_K: of the inputs, float64[K].
        mean_D: of the outputs, float64[D].
        weights_KD: float64[K, D].
        spread: root mean square distance of the predictions from ``mean_D``, beside that of the outputs: 0..1.
    """

    mean_K: npt.NDArray[np.float64]
    mean_D: npt.NDArray[np.float64]
    weights_KD: npt.NDArray[np.float64]
    spread: float

    def predict(self, inputs_RK: npt.NDArray[np.float32], stretch: float = 1.0) -> npt.NDArray[np.float64]:
        """Predictions float64[R, D]; their distances from ``mean_D`` times ``stretch``."""
        predicted_RD: npt.NDArray[np.float64] = self.mean_D + stretch * ((inputs_RK - self.mean_K) @ self.weights_KD)
        return predicted_RD


def check_interactions(dataset: Dataset, events: Events) -> None:
    """Refuse an item that has neither text nor an event in the train part.

    Raises:
        DataError: file and line of the first such item, and what to do.
    """
    for number, domain in enumerate(dataset.domains):
        for row in unknown_items(domain, number, events):
            raise DataError(str(row))


def unknown_items(domain: DomainData, number: int, events: Events) -> list[BadRow]:
    """The items of a domain that have neither text nor an event in the train part, in file order.

    Args:
        number: of the domain in ``events``.
    """
    _, item_E = _train_events(events, number)
    trained_N = np.zeros(len(domain.item_ids), dtype=bool)
    trained_N[item_E] = True
    return [
        BadRow(
            domain.items_file,
            line,
            f"item {quoted(domain.item_ids[item])} has neither text nor an event in the train part (all but the last "
            "two events of each user with three or more in this domain); give it a title or another text field, or "
            "remove it and its interactions",
        )
        for item, line in domain.no_text.items()
        if not trained_N[item]
    ]


def fill_vectors(
    dataset: Dataset,
    events: Events,
    vectors: Mapping[str, npt.NDArray[np.float32]],
    work: Path,
    embedder: Mapping[str, Any],
) -> int:
    """Write the vectors of all items without text into their rows; computed once, and kept in a stage.

    Args:
        vectors: of every domain, float32[N, D]; written to.
        work: the folder of the run's stages.
        embedder: what the text vectors were made with, as :func:`sidera.embedding.embedder_identity` says it.

    Returns:
        How many items have no text.
    """
    count = sum(len(domain.no_text) for domain in dataset.domains)
    if not count:
        return 0
    length = text_length(dataset, vectors)
    with stage(work, "vectors-without-text", {"data": dataset.digest, "embedder": dict(embedder)}) as made:
        for number, domain in enumerate(dataset.domains):
            if domain.no_text:
                path = made.folder / f"{domain.name}.npy"
                if not made.done:
                    np.save(path, vectors_without_text(domain, number, events, vectors[domain.name], length))
                vectors[domain.name][list(domain.no_text)] = np.load(path, allow_pickle=False)
    return count


def text_length(dataset: Dataset, vectors: Mapping[str, npt.NDArray[np.float32]]) -> float:
    """The mean length of the vectors of all items with text; 1 where no item has any."""
    total, count = 0.0, 0
    for domain in dataset.domains:
        rows_R = np.setdiff1d(np.arange(len(domain.item_ids)), list(domain.no_text))
        if len(rows_R):
            total += len(rows_R) * _mean_and_length(vectors[domain.name], rows_R)[1]
            count += len(rows_R)
    return total / count if count else 1.0


def vectors_without_text(
    domain: DomainData, number: int, events: Events, vectors_ND: npt.NDArray[np.float32], length: float
) -> npt.NDArray[np.float32]:
    """The vectors of a domain's items without text, from the events of the train part alone.

    Where some item has text: the ridge prediction. Predictions lie closer together than texts do, so that a tokenizer
    would crowd them into few codes; they are moved away from their mean until their spread is halfway (the geometric
    mean) between the two, and scaled to the mean length of the domain's text vectors. An item that shares no user with
    another gets the direction of the texts' mean. Where no item has text: the coordinates, with zeros behind them
    and of the length that texts have in other domains; an item that shares no user with another is all zeros.

    Args:
        number: of the domain in ``events``.
        vectors_ND: text vectors; the rows of items without text are not read.
        length: of vectors where no item of the domain has text.

    Returns:
        float32[M, D], in the order of ``domain.no_text``.
    """
    items, dim = vectors_ND.shape
    user_E, item_E = _train_events(events, number)
    coordinates_NK = spectral_coordinates(user_E, item_E, items, min(MOST_COORDINATES, dim))
    no_text_M = np.array(list(domain.no_text), dtype=np.int64)
    coordinates_MK = coordinates_NK[no_text_M]
    has_text_N = np.ones(items, dtype=bool)
    has_text_N[no_text_M] = False
    if not has_text_N.any():
        vectors_MD = np.zeros((len(no_text_M), dim), dtype=np.float32)
        vectors_MD[:, : coordinates_MK.shape[1]] = coordinates_MK * length
        return vectors_MD

    mean_D, own_length = _mean_and_length(vectors_ND, np.flatnonzero(has_text_N))
    fit_R = np.flatnonzero(has_text_N & coordinates_NK.any(axis=1))
    vectors_MD = np.tile(mean_D, (len(no_text_M), 1))
    if len(fit_R):
        known_M = coordinates_MK.any(axis=1)
        fitted = ridge(coordinates_NK, vectors_ND, fit_R)
        stretch = fitted.spread**-0.5 if fitted.spread else 1.0
        vectors_MD[known_M] = fitted.predict(coordinates_MK[known_M], stretch)
    lengths_M = np.linalg.norm(vectors_MD, axis=1, keepdims=True)
    scaled_MD: npt.NDArray[np.float32] = (vectors_MD * (own_length / np.maximum(lengths_M, 1e-12))).astype(np.float32)
    return scaled_MD


def ridge(
    inputs_NK: npt.NDArray[np.float32], outputs_ND: npt.NDArray[np.float32], rows_R: npt.NDArray[np.int64]
) -> Ridge:
    """Ridge regression with an intercept, whose penalty has the least generalised cross-validation error.

    Golub, Heath and Wahba, Technometrics 1979: the error of a penalty is ||residuals||^2 / (R - 1 - degrees of
    freedom)^2. One penalty for all outputs; of errors that are equal up to rounding the strongest penalty's counts.
    Rows are read in blocks.

    Args:
        rows_R: the rows to fit on; at least one.
    """
    count, width, dim = len(rows_R), inputs_NK.shape[1], outputs_ND.shape[1]
    mean_K, mean_D, size = np.zeros(width), np.zeros(dim), 0.0
    for rows in _blocks(rows_R):
        size += float(np.square(inputs_NK[rows], dtype=np.float64).sum())
        mean_K += inputs_NK[rows].sum(axis=0, dtype=np.float64) / count
        mean_D += outputs_ND[rows].sum(axis=0, dtype=np.float64) / count
    gram_KK, cross_KD, total = np.zeros((width, width)), np.zeros((width, dim)), 0.0
    for rows in _blocks(rows_R):
        centred_RK, centred_RD = inputs_NK[rows] - mean_K, outputs_ND[rows] - mean_D
        gram_KK += centred_RK.T @ centred_RK
        cross_KD += centred_RK.T @ centred_RD
        total += float(np.square(centred_RD).sum())
    squares_K, axes_KK = np.linalg.eigh(gram_KK)
    kept = squares_K > 1e-10 * size
    if not kept.any():
        return Ridge(mean_K, mean_D, np.zeros((width, dim)), 0.0)
    squares_K, axes_KK = squares_K[kept], axes_KK[:, kept]
    turned_KD = axes_KK.T @ cross_KD
    explained_K = np.square(turned_KD).sum(axis=1) / squares_K

    unexplained = total - float(explained_K.sum())
    if unexplained < 1e-10 * total:  # rounding: as many coordinates as rows
        unexplained = 0.0
    best, penalty = np.inf, 0.0
    for candidate in _PENALTIES * squares_K.sum() / width:
        share_K = squares_K / (squares_K + candidate)
        residual = unexplained + float((np.square(1 - share_K) * explained_K).sum())
        error = residual / (count - 1 - share_K.sum()) ** 2
        if error < best * (1 - 1e-6):
            best, penalty = error, float(candidate)
    shrunk_KD = turned_KD / (squares_K + penalty)[:, None]
    predicted = float((squares_K[:, None] * np.square(shrunk_KD)).sum())
    return Ridge(mean_K, mean_D, axes_KK @ shrunk_KD, (predicted / total) ** 0.5 if total else 0.0)


def _train_events(events: Events, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Users and items, int32[E] each, of a domain's events in the train part."""
    own_E = (events.domain_E == number) & (events.part_E == Part.TRAIN)
    return events.user_E[own_E], events.item_E[own_E]


def _mean_and_length(
    vectors_ND: npt.NDArray[np.float32], rows_R: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], float]:
    """The mean float64[D] of some rows, and their mean length."""
    sum_D, length = np.zeros(vectors_ND.shape[1]), 0.0
    for rows in _blocks(rows_R):
        sum_D += vectors_ND[rows].sum(axis=0, dtype=np.float64)
        length += float(np.linalg.norm(vectors_ND[rows], axis=1).sum())
    return sum_D / len(rows_R), length / len(rows_R)


def _blocks(rows_R: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return np.split(rows_R, range(_ROWS, len(rows_R), _ROWS))
