"""Vectors on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import training.vectors
from sidera.embedding import EncoderSpec, TextEncoder
from training.errors import DataError
from training.vectors import item_vectors


@dataclass(frozen=True)
class Domain:
    name: str
    item_ids: tuple[str, ...]
    fields: tuple[Mapping[str, object], ...]


DOMAIN = Domain("toys", tuple("abcdef"), tuple({"title": f"Toy {i % 5}"} for i in range(6)))


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(EncoderSpec())


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.vectors, "SHARD_TEXTS", 2)


class Spy:
    """Counts the texts that an encoder is asked for, and fails at a given call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoder: TextEncoder, fail_at: int | None = None) -> None:
        self.texts: list[str] = []
        self.calls = 0
        encode = encoder.encode

        def spy(texts: list[str], **options: object) -> np.ndarray:
            self.calls += 1
            if self.calls == fail_at:
                raise KeyboardInterrupt
            self.texts += texts
            return encode(texts, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(encoder, "encode", spy)


def test_vectors_are_those_of_the_texts_in_item_order(encoder: TextEncoder, tmp_path: Path) -> None:
    vectors = item_vectors(DOMAIN, encoder, tmp_path)
    np.testing.assert_allclose(vectors, encoder.encode([f"Toy {i % 5}" for i in range(6)]), atol=1e-5)
    assert (vectors[0] == vectors[5]).all()
    assert len(list((tmp_path / "toys").glob("shard-*"))) == 3
    assert isinstance(vectors, np.memmap)


def test_a_second_run_computes_nothing(encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = item_vectors(DOMAIN, encoder, tmp_path)
    spy = Spy(monkeypatch, encoder)
    assert (item_vectors(DOMAIN, encoder, tmp_path) == first).all()
    assert spy.calls == 0


def test_after_a_kill_finished_shards_are_not_computed_again(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Spy(patch, encoder, fail_at=2)
        with pytest.raises(KeyboardInterrupt):
            item_vectors(DOMAIN, encoder, tmp_path)
    spy = Spy(monkeypatch, encoder)
    item_vectors(DOMAIN, encoder, tmp_path)
    assert spy.texts == ["Toy 2", "Toy 3", "Toy 4"]


def test_only_shards_with_another_text_or_damage_are_computed_again(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item_vectors(DOMAIN, encoder, tmp_path)
    (tmp_path / "toys" / "shard-00000.safetensors").write_bytes(b"torn")
    fields = (*DOMAIN.fields[:4], {"title": "Another toy"})
    spy = Spy(monkeypatch, encoder)
    item_vectors(Domain("toys", DOMAIN.item_ids[:5], fields), encoder, tmp_path)
    assert spy.texts == ["Toy 0", "Toy 1", "Another toy"]
    item_vectors(Domain("toys", ("a",), fields[:1]), encoder, tmp_path)
    assert len(list((tmp_path / "toys").glob("shard-*"))) == 1


def test_another_way_of_pooling_computes_all_again(encoder: TextEncoder, tmp_path: Path) -> None:
    mean = item_vectors(DOMAIN, encoder, tmp_path)
    first = item_vectors(DOMAIN, TextEncoder(EncoderSpec(pooling="cls")), tmp_path)
    assert np.abs(mean - first).max() > 0.01


def test_an_item_without_text_has_a_row_of_nan_and_is_not_encoded(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = item_vectors(DOMAIN, encoder, tmp_path)
    spy = Spy(monkeypatch, encoder)
    fields = (*DOMAIN.fields, {"title": ""}, {})
    vectors = item_vectors(Domain("toys", tuple("abcdefgh"), fields), encoder, tmp_path)
    assert spy.calls == 0
    assert np.array_equal(vectors[:6], whole)
    assert np.isnan(vectors[6:]).all()
    assert np.isnan(item_vectors(Domain("mute", ("a", "b"), ({}, {})), encoder, tmp_path)).all()


def test_a_field_that_has_no_text_is_refused_by_domain_and_item(encoder: TextEncoder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="domain 'toys': item 'b': field 'title' holds int"):
        item_vectors(Domain("toys", ("a", "b"), ({"title": "Ball"}, {"title": 3})), encoder, tmp_path)
