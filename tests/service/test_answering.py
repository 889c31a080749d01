"""A batch tells how long its stages took, and counts what must not come back."""

import json
from dataclasses import replace
from io import StringIO

from service.answering import answer_batch, count_invalid
from service.logs import make_logger
from service.metrics import Metrics
from sidera.recommender import Query, Recommendation
from sidera.stages import stage_ended
from tests.service.fakes import FakeModel

QUERY = Query("drama", num_results=3)


def recommended(model: FakeModel) -> Recommendation:
    return model.recommend([QUERY])[0]


def test_items_of_the_catalog_are_valid() -> None:
    model = FakeModel()
    assert count_invalid(model.catalog, [QUERY, QUERY], [recommended(model), recommended(model)]) == 0


def test_an_item_that_is_unknown_of_another_domain_or_has_another_sid_is_invalid() -> None:
    model = FakeModel()
    answer = recommended(model)
    first, second, third = answer.items
    unknown = replace(answer, items=(replace(first, item_id="none"), second, third))
    other_sid = replace(answer, items=(first, replace(second, sid=(3, 3)), third))
    assert count_invalid(model.catalog, [QUERY], [unknown]) == 1
    assert count_invalid(model.catalog, [QUERY], [other_sid]) == 1
    assert count_invalid(model.catalog, [Query("comedy")], [answer]) == 3


def test_a_hidden_item_is_invalid() -> None:
    model = FakeModel()
    answer = recommended(model)
    hidden = model.catalog.with_hidden([("drama", answer.items[0].item_id)], 2)
    assert count_invalid(hidden, [QUERY], [answer]) == 1


def test_invalid_items_are_counted_and_logged_with_the_catalog_version() -> None:
    class Inventing(FakeModel):
        def recommend(self, queries: object) -> list[Recommendation]:
            answer = recommended(FakeModel())
            return [replace(answer, items=(replace(answer.items[0], item_id="none"),))]

    log, metrics = StringIO(), Metrics()
    answer_batch(Inventing(), [QUERY], metrics, make_logger("error", log))
    assert "sidera_invalid_items_total 1.0" in metrics.render().decode()
    assert json.loads(log.getvalue())["catalog"] == 1


def test_the_seconds_of_each_stage_are_observed_and_stay_with_the_answer() -> None:
    model, metrics = FakeModel(), Metrics()

    def stages(_: object) -> None:
        for stage in ("tokenisation", "prefill", "decode"):
            stage_ended(stage)

    model.before_recommend = stages
    first, second = answer_batch(model, [QUERY, QUERY], metrics, make_logger("error"))
    text = metrics.render().decode()
    for stage in ("tokenisation", "prefill", "decode"):
        assert f'sidera_stage_seconds_count{{stage="{stage}"}} 1.0' in text
    assert first.times is second.times
    assert [interval.stage for interval in first.times.intervals] == ["tokenisation", "prefill", "decode"]
