"""Whatever a client sends, it gets an answer that the description allows, and never a 500."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.schemas import ErrorAnswer, RecommendAnswer, RecommendBatchAnswer, TokenizeAnswer
from tests.service.fakes import serving

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=20)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
DOMAIN = st.sampled_from(["drama", "comedy", "cinema"]) | JSON
ENTRY = st.fixed_dictionaries({"item_id": st.sampled_from(["drama-1", "x"]) | JSON}, optional={"domain": DOMAIN})
RECOMMEND = st.fixed_dictionaries(
    {"domain": DOMAIN},
    optional={
        "history": st.lists(ENTRY, max_size=4) | JSON,
        "num_results": st.integers(0, 101) | JSON,
        "exclude": st.lists(st.sampled_from(["drama-2"]) | JSON, max_size=3),
        "exclude_history": st.booleans() | JSON,
        "beam_width": st.integers(0, 300) | JSON,
        "other": JSON,
    },
)
ITEM = st.dictionaries(
    st.sampled_from(["item_id", "title", "categories", "year", "x"]) | st.text(max_size=5), JSON, max_size=5
)
TOKENIZE = st.fixed_dictionaries(
    {"domain": st.sampled_from(["drama", "new-1", "../x"]) | JSON, "items": st.lists(ITEM | JSON, max_size=4) | JSON},
    optional={"register": st.booleans() | JSON},
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(tmp_path_factory.mktemp("items") / "items.db", log_level="error") as client:
        yield client


def described(path: str) -> set[int]:
    document = yaml.safe_load((Path(__file__).parents[2] / "openapi.yaml").read_text(encoding="utf-8"))
    return {int(status) for status in document["paths"][path]["post"]["responses"]}


def post(client: TestClient, path: str, body: Any) -> Any:
    response = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code in described(path) - {500}, response.text
    if response.status_code >= 400:
        ErrorAnswer.model_validate_json(response.content)
    return response


@effort(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=RECOMMEND | st.fixed_dictionaries({"requests": st.lists(RECOMMEND | JSON, max_size=4)}) | JSON)
def test_any_body_of_recommend_is_answered_as_described(client: TestClient, body: Any) -> None:
    response = post(client, "/recommend", body)
    if response.status_code == 200:
        answer = RecommendBatchAnswer if "requests" in body else RecommendAnswer
        answer.model_validate_json(response.content)
        assert "internal" not in response.text


@effort(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=TOKENIZE | JSON)
def test_any_body_of_tokenize_is_answered_as_described(client: TestClient, body: Any) -> None:
    response = post(client, "/tokenize", body)
    if response.status_code == 200:
        answer = TokenizeAnswer.model_validate_json(response.content)
        assert len(answer.items) == len(body["items"])
