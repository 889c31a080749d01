"""Vectors of items without text: from the company that they keep in the train part's events.

Where some items of the domain have text, ridge regression leads from spectral coordinates to text vectors, fitted on
the items that have both; an item's vector is then the mean of that prediction and of the vectors of the items that
users took right before or after it. Where none has text, the coordinates are the vectors. An item without text that
nobody took in the train part is refused. No event of the validation or test part is read.

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

from training.co_occurrence import side_by_side
from training.data import Dataset, DomainData
from training.data_files import BadRow, quoted
from training.errors import DataError
from training.spectral import MOST_COORDINATES, spectral_coordinates
from training.split import Events, Part, parts_digest
from training.stages import stage

_PENALTIES = np.logspace(4, -3, 29)
"""Candidates, strongest first, in units of the coordinates' mean variance times the number of items."""

_PREDICTION_WEIGHT = 3.0
"""Of the ridge prediction beside the neighbours, each of which has the square of how often it was one."""

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
    inputs = {"data": dataset.digest, "parts": parts_digest(events), "embedder": dict(embedder)}
    with stage(work, "vectors-without-text", inputs) as made:
        for number, domain in enumerate(dataset.domains):
            if domain.no_text:
                vectors_ND, no_text_M = vectors[domain.name], np.array(list(domain.no_text), dtype=np.int64)
                path = made.folder / f"{domain.name}.npy"
                if not made.done:
                    shape = (len(no_text_M), vectors_ND.shape[1])
                    file_MD = np.lib.format.open_memmap(path, "w+", np.float32, shape)
                    vectors_without_text(domain, number, events, vectors_ND, length, file_MD)
                    file_MD.flush()
                kept_MD = np.load(path, mmap_mode="r", allow_pickle=False)
                for rows in _blocks(np.arange(len(no_text_M))):
                    vectors_ND[no_text_M[rows]] = kept_MD[rows]
    return count


def text_length(dataset: Dataset, vectors: Mapping[str, npt.NDArray[np.float32]]) -> float:
    """The mean length of the vectors of all items with text; 1 where no item has any."""
    total, count = 0.0, 0
    for domain in dataset.domains:
        rows_R = np.setdiff1d(np.arange(len(domain.item_ids)), list(domain.no_text))
        if len(rows_R):
            total += len(rows_R) * _moments(vectors[domain.name], rows_R).length
            count += len(rows_R)
    return total / count if count else 1.0


def vectors_without_text(
    domain: DomainData,
    number: int,
    events: Events,
    vectors_ND: npt.NDArray[np.float32],
    length: float,
    out_MD: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """The vectors of a domain's items without text, from the events of the train part alone.

    Where some item has text: the mean of the ridge prediction (weight ``_PREDICTION_WEIGHT``) and of the items that
    users took right before or after it, each by the square of how often; a neighbour without text stands there by its
    own prediction. Both predictions and means lie closer together than texts do, so that a tokenizer would crowd them
    into few codes; they are moved away from the texts' mean until their spread is halfway (the geometric mean) between
    the two, and scaled to the mean length of the domain's text vectors. An item that shares no user with another gets
    the direction of the texts' mean. Where no item has text: the coordinates, with zeros behind them and of the length
    that texts have in other domains; an item that shares no user with another is all zeros.

    Args:
        number: of the domain in ``events``.
        vectors_ND: text vectors, which may lie on disk. What is in the rows of items without text does not matter;
            predictions are left there.
        length: of vectors where no item of the domain has text.
        out_MD: where to write, such as a file; a new array by default. Memory holds blocks of it.

    Returns:
        float32[M, D], in the order of ``domain.no_text``.
    """
    items, dim = vectors_ND.shape
    user_E, item_E = _train_events(events, number)
    coordinates_NK = spectral_coordinates(user_E, item_E, items, min(MOST_COORDINATES, dim))
    no_text_M = np.array(list(domain.no_text), dtype=np.int64)
    if out_MD is None:
        out_MD = np.empty((len(no_text_M), dim), dtype=np.float32)
    text_R = np.setdiff1d(np.arange(items), no_text_M)
    blocks = _blocks(np.arange(len(no_text_M)))
    if not len(text_R):
        for rows in blocks:
            out_MD[rows] = 0
            out_MD[rows, : coordinates_NK.shape[1]] = coordinates_NK[no_text_M[rows]] * length
        return out_MD

    text = _moments(vectors_ND, text_R)
    known_N = np.asarray(coordinates_NK.any(axis=1))
    fit_R = text_R[known_N[text_R]]
    fitted = ridge(coordinates_NK, vectors_ND, fit_R) if len(fit_R) else None
    for rows in blocks:
        items_R = no_text_M[rows]
        predicted_RD = np.tile(text.mean_D, (len(rows), 1))
        if fitted is not None:
            known_R = known_N[items_R]
            stretch = fitted.spread**-0.5 if fitted.spread else 1.0
            predicted_RD[known_R] = fitted.predict(coordinates_NK[items_R[known_R]], stretch)
        vectors_ND[items_R] = text.scaled(predicted_RD)
    del coordinates_NK

    beside_NN, squares = side_by_side(user_E, item_E, items), 0.0
    for rows in blocks:
        weight_RN = beside_NN[no_text_M[rows]].power(2)
        sum_RD = weight_RN @ vectors_ND + _PREDICTION_WEIGHT * vectors_ND[no_text_M[rows]]
        out_MD[rows] = sum_RD / (_PREDICTION_WEIGHT + np.asarray(weight_RN.sum(axis=1)))
        squares += float(np.square(out_MD[rows] - text.mean_D).sum())
    spread = (squares / len(no_text_M)) ** 0.5
    stretch = (text.spread / spread) ** 0.5 if spread else 1.0
    for rows in blocks:
        out_MD[rows] = text.scaled(text.mean_D + stretch * (out_MD[rows] - text.mean_D))
    return out_MD


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


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of some vectors: their mean float64[D], mean length, and root mean square distance from the mean."""

    mean_D: npt.NDArray[np.float64]
    length: float
    spread: float

    def scaled(self, vectors_MD: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Vectors of the same directions and of the mean length, float32[M, D]."""
        lengths_M = np.linalg.norm(vectors_MD, axis=1, keepdims=True)
        scaled_MD: npt.NDArray[np.float32] = (vectors_MD * (self.length / np.maximum(lengths_M, 1e-12))).astype(
            np.float32
        )
        return scaled_MD


def _moments(vectors_ND: npt.NDArray[np.float32], rows_R: npt.NDArray[np.int64]) -> _Moments:
    sum_D, length, squares = np.zeros(vectors_ND.shape[1]), 0.0, 0.0
    for rows in _blocks(rows_R):
        sum_D += vectors_ND[rows].sum(axis=0, dtype=np.float64)
        length_R = np.linalg.norm(vectors_ND[rows], axis=1).astype(np.float64)
        length, squares = length + float(length_R.sum()), squares + float(np.square(length_R).sum())
    mean_D = sum_D / len(rows_R)
    variance = squares / len(rows_R) - float(np.square(mean_D).sum())
    return _Moments(mean_D, length / len(rows_R), max(variance, 0.0) ** 0.5)


def _blocks(rows_R: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return np.split(rows_R, range(_ROWS, len(rows_R), _ROWS))
