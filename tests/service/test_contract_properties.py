"""Whatever a client sends, it gets an answer that the description allows, and never a 500."""

import functools
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

from service.recommend_schemas import RecommendAnswer, RecommendBatchAnswer, ValidAnswer
from service.schemas import ErrorAnswer, TokenizeAnswer
from tests.service.fakes import serving

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
DOMAIN = st.sampled_from(["drama", "comedy", "cinema"]) | JSON
ENTRY = st.fixed_dictionaries({"item_id": st.sampled_from(["drama-1", "x"]) | JSON}, optional={"domain": DOMAIN})
RANGE = st.dictionaries(st.sampled_from(["min", "max"]), st.integers() | st.floats() | JSON, max_size=2)
FILTER = RANGE | st.lists(SCALARS, max_size=3) | JSON
RECOMMEND = st.fixed_dictionaries(
    {"domain": DOMAIN},
    optional={
        "history": st.lists(ENTRY, max_size=4) | JSON,
        "num_results": st.integers(0, 101) | JSON,
        "exclude": st.lists(st.sampled_from(["drama-2"]) | JSON, max_size=3),
        "exclude_history": st.booleans() | JSON,
        "beam_width": st.integers(0, 300) | JSON,
        "allow": st.lists(st.sampled_from(["drama-2", "drama-3"]) | JSON, max_size=3) | st.none() | JSON,
        "filters": st.dictionaries(st.sampled_from(["categories", "price", "year"]) | TEXT, FILTER, max_size=3) | JSON,
        "diversity": st.fixed_dictionaries(
            {"max_per_prefix": st.integers(0, 5) | JSON}, optional={"prefix_length": st.integers(0, 3) | JSON}
        )
        | JSON,
        "sampling": st.fixed_dictionaries(
            {"seed": st.integers(-1, 2**63) | JSON}, optional={"temperature": st.floats(0, 200) | JSON}
        )
        | JSON,
        "explain": st.booleans() | JSON,
        "validate_only": st.booleans() | JSON,
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


@functools.cache
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
        if "requests" in body:
            RecommendBatchAnswer.model_validate_json(response.content)
        else:
            kind = ValidAnswer if body.get("validate_only") else RecommendAnswer
            kind.model_validate_json(response.content)
        assert "internal" not in response.text


@effort(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=TOKENIZE | JSON)
def test_any_body_of_tokenize_is_answered_as_described(client: TestClient, body: Any) -> None:
    response = post(client, "/tokenize", body)
    if response.status_code == 200:
        answer = TokenizeAnswer.model_validate_json(response.content)
        assert len(answer.items) == len(body["items"])
