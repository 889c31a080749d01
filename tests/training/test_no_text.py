"""Vectors of items without text: known small worlds, what they may read, and the whole way to a bundle."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Ridge as LibraryRidge

from sidera.loading import load_bundle
from sidera.recommender import Query
from tests import tiny
from training import no_text
from training.config import load_config
from training.data import Dataset, DomainData, read_dataset
from training.errors import DataError
from training.no_text import check_interactions, fill_vectors, ridge, vectors_without_text
from training.pipeline import train
from training.spectral import spectral_coordinates
from training.split import Part, split_events

ITEMS, DIM = 20, 6
REAL = 1_600_000_000


def block_walks(seed: int = 0) -> list[list[int]]:
    """Even users walk even items, odd users odd ones; the last two items of each are of the other block."""
    random = np.random.default_rng(seed)
    return [
        [*(2 * random.permutation(ITEMS // 2)[:6] + user % 2).tolist(), 1 - user % 2, 3 - user % 2]
        for user in range(60)
    ]


def world(walks: list[list[int]], hidden: list[int], items: int = ITEMS) -> Dataset:
    """One domain; ``walks`` are the items of user 0, 1, ..., oldest first, and ``hidden`` those without text."""
    events = [(user, item, REAL + at) for user, own in enumerate(walks) for at, item in enumerate(own)]
    user_E, item_E, time_E = (np.array(column) for column in zip(*events, strict=True))
    domain = DomainData(
        name="shop",
        item_ids=tuple(f"item-{item}" for item in range(items)),
        fields=tuple({} if item in hidden else {"title": f"Item {item}"} for item in range(items)),
        user_E=user_E.astype(np.int32),
        item_E=item_E.astype(np.int32),
        time_E=time_E.astype(np.int64),
        items_file=Path("shop/items.jsonl"),
        no_text={item: item + 1 for item in hidden},
    )
    return Dataset((domain,), tuple(f"user-{user}" for user in range(len(walks))), "digest")


def texts(hidden: list[int]) -> npt.NDArray[np.float32]:
    """Vectors of length 1 that lie around one place for even items and another for odd ones; NaN for ``hidden``."""
    centres = np.eye(DIM)[:2]
    vectors_ND = centres[np.arange(ITEMS) % 2] + 0.1 * np.random.default_rng(1).standard_normal((ITEMS, DIM))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    vectors_ND[hidden] = np.nan
    return vectors_ND.astype(np.float32)


def made(data: Dataset, vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return vectors_without_text(data.domains[0], 0, split_events(data), vectors_ND.copy(), 1.0)


def test_a_textless_item_lands_among_the_texts_of_the_items_that_its_users_take() -> None:
    hidden = [4, 7, 10, 13]
    vectors_MD = made(world(block_walks(), hidden), texts(hidden))
    assert vectors_MD.shape == (4, DIM)
    assert vectors_MD.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_MD, axis=1), 1, atol=1e-5)
    cosine_M2 = vectors_MD @ np.eye(DIM)[:2].T
    assert (cosine_M2.argmax(axis=1) == [0, 1, 0, 1]).all()
    assert (cosine_M2.max(axis=1) > 0.9).all()


def unit(vectors_ND: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled_ND: npt.NDArray[np.float64] = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return scaled_ND


def test_a_vector_is_the_mean_of_the_ridges_prediction_and_of_the_neighbours_by_the_square_of_how_often() -> None:
    hidden = [4, 7, 10, 13]
    data, vectors_ND = world(block_walks(), hidden), texts(hidden)
    events = split_events(data)
    train_E = events.part_E == Part.TRAIN
    coordinates_NK = spectral_coordinates(events.user_E[train_E], events.item_E[train_E], ITEMS, DIM)
    shown = np.setdiff1d(np.arange(ITEMS), hidden)
    fitted = ridge(coordinates_NK, vectors_ND, shown)
    assert 0.3 < fitted.spread < 0.99
    filled_ND = vectors_ND.astype(np.float64)
    filled_ND[hidden] = unit(fitted.predict(coordinates_NK[hidden], (1 / fitted.spread) ** 0.5))

    beside: Counter[tuple[int, int]] = Counter()
    for own in block_walks():
        for first, second in itertools.pairwise(own[:-2]):
            beside.update([(first, second), (second, first)])
    assert max(beside.values()) > 3
    mean_MD = np.empty((4, DIM))
    for row, item in enumerate(hidden):
        parts = [(3.0, item), *((beside[item, other] ** 2, other) for other in range(ITEMS))]
        mean_MD[row] = sum(weight * filled_ND[other] for weight, other in parts) / sum(weight for weight, _ in parts)
    text_mean_D = vectors_ND[shown].mean(axis=0)
    ours, of_texts = (np.square(rows - text_mean_D).sum(axis=1).mean() ** 0.5 for rows in (mean_MD, vectors_ND[shown]))
    expected_MD = unit(text_mean_D + (of_texts / ours) ** 0.5 * (mean_MD - text_mean_D))
    np.testing.assert_allclose(made(data, vectors_ND), expected_MD, atol=1e-5)


def test_validation_test_and_context_events_change_nothing_and_a_train_event_does() -> None:
    hidden, walks = [4, 7], [*block_walks(), [4, 7], [7, 4]]
    before = made(world(walks, hidden), texts(hidden))
    random = np.random.default_rng(5)
    other = [[*own[:-2], *random.integers(ITEMS, size=2).tolist()] for own in walks]
    data = world(other, hidden)
    assert other != walks
    assert set(split_events(data).part_E.tolist()) == {Part.TRAIN, Part.VALIDATION, Part.TEST, Part.CONTEXT}
    assert np.array_equal(made(data, texts(hidden)), before)
    other[0][0] = 4 if other[0][0] != 4 else 6
    assert not np.array_equal(made(world(other, hidden), texts(hidden)), before)


def test_an_item_whose_user_took_no_other_gets_the_mean_of_the_texts() -> None:
    hidden = [4, 19]
    walks = [[item for item in own if item != 19] for own in block_walks()]
    vectors_ND = texts(hidden)
    vectors_MD = made(world([*walks, [19, 0, 0]], hidden), vectors_ND)
    mean_D = np.nanmean(vectors_ND, axis=0)
    np.testing.assert_allclose(vectors_MD[1], mean_D / np.linalg.norm(mean_D), atol=1e-5)
    assert np.abs(vectors_MD[0] - vectors_MD[1]).max() > 0.1


def test_where_no_item_with_text_was_taken_textless_ones_get_the_mean_of_the_texts() -> None:
    data = world([[0, 1, 0, 0, 0]] * 3, [0, 1], items=4)
    vectors_ND = np.array([[np.nan] * 2, [np.nan] * 2, [3, 0], [0, 5]], dtype=np.float32)
    expected = np.array([3, 5]) / 34**0.5 * 4
    np.testing.assert_allclose(made(data, vectors_ND), [expected, expected], atol=1e-5)


def test_the_length_of_the_vectors_is_the_mean_length_of_the_texts() -> None:
    hidden = [4, 7]
    vectors_ND = texts(hidden) * np.linspace(1, 3, ITEMS, dtype=np.float32)[:, None]
    length = np.nanmean(np.where(np.isnan(vectors_ND[:, 0]), np.nan, np.linalg.norm(vectors_ND, axis=1)))
    np.testing.assert_allclose(
        np.linalg.norm(made(world(block_walks(), hidden), vectors_ND), axis=1), length, rtol=1e-5
    )


def test_where_no_item_has_text_the_vectors_are_coordinates_that_separate_the_blocks() -> None:
    hidden = list(range(ITEMS))
    data = world([*block_walks(), [20, 0, 0]], [*hidden, 20], items=21)
    vectors_ND = made(data, np.full((21, 32), np.nan, dtype=np.float32))
    assert vectors_ND.shape == (21, 32)
    assert not vectors_ND[:, 21:].any()
    assert not vectors_ND[20].any()
    np.testing.assert_allclose(np.linalg.norm(vectors_ND[:20], axis=1), 1, atol=1e-5)
    cosine_NN = vectors_ND[:20] @ vectors_ND[:20].T
    same_NN = (np.arange(ITEMS)[:, None] - np.arange(ITEMS)) % 2 == 0
    assert cosine_NN[same_NN].mean() > cosine_NN[~same_NN].mean() + 0.2
    narrow_ND = made(data, np.full((21, 3), np.nan, dtype=np.float32))
    assert narrow_ND.shape == (21, 3)


def test_a_domain_of_one_item_without_text_gets_a_finite_vector() -> None:
    data = world([[0, 0, 0]], [0], items=1)
    check_interactions(data, split_events(data))
    assert made(data, np.full((1, 3), np.nan, dtype=np.float32)).tolist() == [[0, 0, 0]]


def test_one_train_event_is_enough_for_an_item_without_text() -> None:
    hidden, walks = [4], [[item for item in own if item != 4] for own in block_walks()]
    walks[2].insert(1, 4)
    data = world(walks, hidden)
    check_interactions(data, split_events(data))
    (vector_D,) = made(data, texts(hidden))
    assert vector_D.argmax() == 0
    assert vector_D[0] > 0.8


def test_an_item_with_neither_text_nor_train_events_is_refused_by_file_and_line() -> None:
    walks = [[item for item in own if item not in (4, 7)] for own in block_walks()]
    walks[0][-1], walks[1][-2] = 4, 7  # test and validation: not enough
    data = world([*walks, [7, 4]], [4, 7])
    with pytest.raises(DataError) as caught:
        check_interactions(data, split_events(data))
    assert str(caught.value) == (
        'shop/items.jsonl:5: item "item-4" has neither text nor an event in the train part (all but the last two '
        "events of each user with three or more in this domain); give it a title or another text field, or remove it "
        "and its interactions"
    )


def regression(rows: int = 80, width: int = 5, dim: int = 3) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    random = np.random.default_rng(2)
    inputs_NK = random.standard_normal((rows, width))
    outputs_ND = 2 + inputs_NK @ random.standard_normal((width, dim)) + 2 * random.standard_normal((rows, dim))
    return inputs_NK.astype(np.float32), outputs_ND.astype(np.float32)


def test_ridge_is_that_of_the_library_at_the_penalty_of_least_cross_validation_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs_NK, outputs_ND = regression()
    monkeypatch.setattr(no_text, "_ROWS", 7)
    rows_R = np.arange(0, 60)
    x, y = inputs_NK[rows_R].astype(np.float64), outputs_ND[rows_R].astype(np.float64)
    centred = x - x.mean(axis=0)
    errors = {}
    for penalty in no_text._PENALTIES * np.square(centred).sum() / x.shape[1]:
        hat = centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(5), centred.T)
        residual = (np.eye(60) - hat) @ (y - y.mean(axis=0))
        errors[penalty] = np.square(residual).sum() / (60 - 1 - np.trace(hat)) ** 2
    best = min(errors, key=lambda penalty: errors[penalty])
    assert min(errors) < best < max(errors)
    library = LibraryRidge(alpha=best).fit(x, y)
    fitted = ridge(inputs_NK, outputs_ND, rows_R)
    np.testing.assert_allclose(fitted.predict(inputs_NK[60:]), library.predict(inputs_NK[60:]), atol=1e-5)
    deviation = library.predict(x) - y.mean(axis=0)
    assert fitted.spread == pytest.approx(np.linalg.norm(deviation) / np.linalg.norm(y - y.mean(axis=0)), rel=1e-5)
    np.testing.assert_allclose(
        fitted.predict(inputs_NK[rows_R], stretch=2.0), y.mean(axis=0) + 2 * deviation, atol=1e-4
    )


@pytest.mark.parametrize("rows", [[3], [3, 3, 3], [3, 4]])
def test_ridge_on_too_few_rows_to_learn_from_predicts_their_mean(rows: list[int]) -> None:
    inputs_NK, outputs_ND = regression()
    fitted = ridge(inputs_NK, outputs_ND, np.array(rows))
    predicted_RD = fitted.predict(inputs_NK[:10])
    mean_D = outputs_ND[rows].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(predicted_RD, np.tile(mean_D, (10, 1)), atol=1e-2)


@pytest.mark.parametrize("hidden", [[4, 7, 10, 13, 19], list(range(ITEMS))])
def test_vectors_made_block_by_block_on_disk_are_those_made_at_once(
    hidden: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world([[item for item in own if item != 19] for own in block_walks()], hidden)
    at_once = made(data, texts(hidden))
    monkeypatch.setattr(no_text, "_ROWS", 2)
    files = [
        np.lib.format.open_memmap(tmp_path / f"{rows}.npy", "w+", np.float32, (rows, DIM))
        for rows in (ITEMS, len(hidden))
    ]
    files[0][:] = texts(hidden)
    out_MD = files[1]
    vectors_MD = vectors_without_text(data.domains[0], 0, split_events(data), files[0], 1.0, out_MD)
    assert vectors_MD is out_MD
    np.testing.assert_allclose(out_MD, at_once, atol=1e-6)


def test_filled_vectors_leave_texts_as_they_are_and_are_kept_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = [4, 7]
    data, embedder = world(block_walks(), hidden), {"pooling": "mean", "digest": "abc"}
    events = split_events(data)
    first = {"shop": texts(hidden)}
    assert fill_vectors(data, events, first, tmp_path, embedder) == 2
    shown = np.setdiff1d(np.arange(ITEMS), hidden)
    assert np.array_equal(first["shop"][shown], texts(hidden)[shown])
    assert np.array_equal(first["shop"][hidden], made(data, texts(hidden)))

    calls = []
    compute = no_text.vectors_without_text

    def spy(*arguments: object) -> npt.NDArray[np.float32]:
        calls.append(arguments)
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(no_text, "vectors_without_text", spy)
    again = {"shop": texts(hidden)}
    fill_vectors(data, events, again, tmp_path, embedder)
    assert np.array_equal(again["shop"], first["shop"])
    assert calls == []
    for changed, by in ((dataclasses.replace(data, digest="other"), embedder), (data, {**embedder, "digest": "other"})):
        fill_vectors(changed, events, {"shop": texts(hidden)}, tmp_path, by)
    assert len(calls) == 2


def test_data_whose_items_all_have_text_make_no_stage(tmp_path: Path) -> None:
    data = world(block_walks(), [])
    vectors = {"shop": texts([])}
    assert fill_vectors(data, split_events(data), vectors, tmp_path, {}) == 0
    assert np.array_equal(vectors["shop"], texts([]))
    assert not list(tmp_path.iterdir())


def without_text(source: Path, target: Path, hidden: dict[str, range]) -> Path:
    """A copy of a data folder in which some items of some domains have no field but their id."""
    for name, numbers in hidden.items():
        rows = [
            {"item_id": f"{name}-{item}"} | ({} if item in numbers else {"title": tiny.title(name, item)})
            for item in range(tiny.DOMAINS[name])
        ]
        lines = (source / name / "interactions.csv").read_text().split("\n")[1:-1]
        events = [(user, item, int(time)) for user, item, time in (line.split(",") for line in lines)]
        tiny.write_domain(target / name, rows, events)
    return target


def test_a_catalog_of_which_some_all_and_no_items_have_text_trains_and_recommends(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    hidden = {"books": range(6), "films": range(tiny.DOMAINS["films"]), "games": range(0)}
    data = without_text(tiny_data, tmp_path / "data", hidden)
    document = tiny.config_of(data, tmp_path / "bundle", tiny_encoder)
    document["tokenizer"] = {"method": "rqkmeans", "codebook_sizes": [8, 8, 8]}
    document["language_model"]["universal"]["epochs"] = 1
    config = load_config(tiny.write_config(tmp_path / "config.yaml", document))
    said: list[str] = []
    train(config, said.append)
    assert "vectors: 106 items, 16 dimensions, 46 of them without text: from the train part's events" in said
    bundle = load_bundle(tmp_path / "bundle", "cpu")
    catalog = bundle.recommender.catalog
    number = catalog.find("films", "films-3")
    assert number is not None
    assert catalog.item(number).title is None
    assert not catalog.item(number).fields
    found = set()
    for start in range(tiny.DOMAINS["books"]):
        (answer,) = bundle.recommender.recommend([Query("books", (("books", f"books-{start}"),))])
        assert len(answer.items) == 10
        found |= {item.item_id for item in answer.items if item.title is None}
    assert found <= {f"books-{item}" for item in hidden["books"]}
    assert found

    whole = read_dataset(data)
    books = whole.domain("books")
    assert list(books.no_text) == list(hidden["books"])


def test_training_refuses_an_item_with_neither_before_anything_is_computed(tmp_path: Path, tiny_encoder: Path) -> None:
    items = [{"item_id": f"d-{item}", "title": tiny.title("books", item)} for item in range(4)]
    tiny.write_domain(
        tmp_path / "data" / "d", [*items, {"item_id": "mute"}], [("u", f"d-{at}", REAL + at) for at in range(4)]
    )
    config = tiny.write_config(
        tmp_path / "config.yaml", tiny.config_of(tmp_path / "data", tmp_path / "bundle", tiny_encoder)
    )
    with pytest.raises(DataError, match=r'd/items.jsonl:5: item "mute" has neither text nor an event'):
        train(load_config(config), lambda sentence: None)
    assert not (tmp_path / "bundle.work" / "vectors").exists()
