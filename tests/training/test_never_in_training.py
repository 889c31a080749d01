"""No event of validation or test is ever in training, nor one that is held out for the user router.

Held for everything that learns from events: whatever such an event says, all that learns reads the same.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from training import pipeline
from training.collaborative import CfSource, cf_vectors
from training.config import load_config
from training.data import Dataset, DomainData
from training.no_text import vectors_without_text
from training.sequences import TrainingSequences, training_sequences
from training.split import Events, Part, hold_out, split_events

REAL = 1_600_000_000
ITEMS, DOMAINS = 8, 2
KEPT_OUT = (Part.ROUTER, Part.VALIDATION, Part.TEST)
SIDS = [np.stack([np.arange(ITEMS), np.full(ITEMS, domain)], axis=1).astype(np.int32) for domain in range(DOMAINS)]
SOURCE = CfSource(folder=None, dim=3, iterations=3, regularization=0.01, confidence=20.0, seed=0)

rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, ITEMS - 1), st.one_of(st.integers(0, 3), st.integers(REAL, REAL + 9))),
    min_size=12,
    max_size=40,
)


def dataset(rows_of: list[list[tuple[int, int, int]]]) -> Dataset:
    """Items 0 and 1 of every domain have no text."""
    domains = []
    for number, own in enumerate(rows_of):
        user, item, time = (np.array(column) for column in zip(*own, strict=True))
        domains.append(
            DomainData(
                name=f"domain-{number}",
                item_ids=tuple(f"i{item}" for item in range(ITEMS)),
                fields=tuple({} for _ in range(ITEMS)),
                user_E=user.astype(np.int32),
                item_E=item.astype(np.int32),
                time_E=time.astype(np.int64),
                no_text={0: 1, 1: 2},
            )
        )
    return Dataset(tuple(domains), tuple("abcd"), "digest")


def with_other_items(events: Events, seed: int) -> Events:
    """The same events, but what is kept out of training is of other items."""
    out_E = np.isin(events.part_E, KEPT_OUT)
    step_E = np.random.default_rng(seed).integers(1, ITEMS, size=len(out_E))
    return replace(events, item_E=np.where(out_E, (events.item_E + step_E) % ITEMS, events.item_E).astype(np.int32))


@settings(max_examples=30, deadline=None)
@given(st.lists(rows, min_size=DOMAINS, max_size=DOMAINS), st.integers(0, 3))
def test_sequences_collaborative_vectors_and_vectors_without_text_read_none_of_them(
    rows_of: list[list[tuple[int, int, int]]], seed: int
) -> None:
    data = dataset(rows_of)
    events = hold_out(split_events(data), 0.9, 100, seed)
    other = with_other_items(events, seed)
    own, others = training_sequences(events, SIDS), training_sequences(other, SIDS)
    for name in TrainingSequences.__dataclass_fields__:
        assert np.array_equal(getattr(own, name), getattr(others, name)), name
    learned = Counter(zip(own.domain_E.tolist(), own.codes_EL[:, 0].tolist(), strict=True))
    inside = np.isin(events.part_E, (Part.TRAIN, Part.CONTEXT))
    assert learned == Counter(zip(events.domain_E[inside].tolist(), events.item_E[inside].tolist(), strict=True))

    for domain, (one, two) in enumerate(
        zip(cf_vectors(data, events, SOURCE).values(), cf_vectors(data, other, SOURCE).values(), strict=True)
    ):
        assert np.array_equal(one, two, equal_nan=True)
        texts_ND = np.random.default_rng(0).standard_normal((ITEMS, 4)).astype(np.float32)
        texts_ND[:2] = np.nan
        trained_N = np.bincount(
            events.item_E[(events.domain_E == domain) & (events.part_E == Part.TRAIN)], minlength=ITEMS
        )
        if trained_N[:2].all():
            made = [vectors_without_text(data.domains[domain], domain, each, texts_ND, 1.0) for each in (events, other)]
            assert np.array_equal(made[0], made[1])


class ReachedMixtureError(Exception):
    """All phases are trained."""


def test_the_weights_of_every_phase_are_the_same_whatever_these_events_say(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch each, so that validation has nothing to select."""
    held: list[int] = []

    def stop(*arguments: Any) -> None:
        raise ReachedMixtureError

    def weights(name: str, change: bool) -> dict[str, bytes]:
        def held_out(events: Events, share: float, most: int, seed: int) -> Events:
            split = hold_out(events, 0.5, most, seed)
            held.append(int((split.part_E == Part.ROUTER).sum()))
            return with_other_items(split, 0) if change else split

        monkeypatch.setattr(pipeline, "hold_out", held_out)
        out = tmp_path / name / "bundle"
        out.parent.mkdir()
        document = tiny.config_of(tiny_data, out, tiny_encoder)
        document["language_model"]["universal"]["epochs"] = 1
        config = load_config(tiny.write_config(out.with_name("config.yaml"), document))
        with pytest.raises(ReachedMixtureError):
            pipeline.train(config, lambda sentence: None)
        return {str(path.relative_to(out.parent)): path.read_bytes() for path in out.parent.rglob("*model.safetensors")}

    monkeypatch.setattr(pipeline, "mixture_stage", stop)
    own, others = weights("own", False), weights("other", True)
    assert held[0] == held[1] > 60
    stages = {f"adapter-{name}" for name in tiny.DOMAINS} | {"universal"}
    assert {name.split("/")[1] for name in own} == stages
    assert own == others
