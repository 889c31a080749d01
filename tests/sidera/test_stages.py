"""Stages of an answer are told to whoever asks, and cover its time."""

import threading

import numpy as np

from sidera.catalog import CatalogItem, create_catalog
from sidera.language_model import LanguageModel
from sidera.recommender import Query, Recommender
from sidera.stages import stage_ended, timed
from tests.sidera.worlds import SIZES, VOCABULARY, random_backbone, random_sids


def recommender() -> Recommender:
    rng = np.random.default_rng(0)
    items = [CatalogItem("films", f"f{place}", sid, "T") for place, sid in enumerate(random_sids(rng, 30))]
    return Recommender(
        LanguageModel(random_backbone(), VOCABULARY), create_catalog(items, SIZES), max_history=4, beam_width=5
    )


def test_an_answer_is_tokenised_then_prefilled_then_decoded() -> None:
    with timed() as times:
        recommender().recommend([Query("films", history=(("films", "f1"),))])
    assert [interval.stage for interval in times.intervals] == ["tokenisation", "prefill", "decode"]
    first, second, third = times.intervals
    assert times.begun == first.begun
    assert first.ended == second.begun
    assert second.ended == third.begun
    assert third.ended <= times.ended
    assert all(interval.seconds > 0 for interval in times.intervals)


def test_searches_one_after_the_other_add_up() -> None:
    with timed() as times:
        answering = recommender()
        for beams in (5, 9):
            answering.recommend([Query("films", beam_width=beams)])
    assert len(times.intervals) == 6
    assert list(times.seconds()) == ["tokenisation", "prefill", "decode"]
    total = times.intervals[-1].ended - times.begun
    assert abs(sum(times.seconds().values()) - total) < 1e-6


def test_what_another_thread_computes_is_not_measured() -> None:
    with timed() as times:
        other = threading.Thread(target=stage_ended, args=("decode",))
        other.start()
        other.join()
    assert times.intervals == []


def test_nothing_is_measured_once_the_measurement_has_ended() -> None:
    with timed() as times:
        stage_ended("prefill")
    stage_ended("decode")
    assert len(times.intervals) == 1
