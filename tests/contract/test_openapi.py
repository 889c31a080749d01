"""The committed descriptions of both ports are those that the code makes, and are complete."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.cli import openapi_yaml

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "openapi.yaml"
ADMIN = ROOT / "openapi-admin.yaml"
BOTH = pytest.mark.parametrize("described", [COMMITTED, ADMIN], ids=["public", "admin"])


def loaded(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return loaded(COMMITTED)


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_openapi_yaml_is_what_sidera_openapi_writes() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == openapi_yaml(), "run: sidera openapi --out openapi.yaml"


def test_openapi_admin_yaml_is_what_sidera_openapi_writes_of_the_admin_port() -> None:
    told = "run: sidera openapi --admin --out openapi-admin.yaml"
    assert ADMIN.read_text(encoding="utf-8") == openapi_yaml(admin=True), told


@pytest.mark.parametrize("admin", [False, True])
def test_no_setting_changes_the_description(monkeypatch: pytest.MonkeyPatch, admin: bool) -> None:
    before = openapi_yaml(admin=admin)
    monkeypatch.setenv("SIDERA_MAX_NUM_RESULTS", "5")
    monkeypatch.setenv("SIDERA_API_KEYS", "some-key")
    assert openapi_yaml(admin=admin) == before


@BOTH
def test_every_error_is_described_in_the_one_shape(described: Path) -> None:
    for name, operation in operations(loaded(described)):
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}, (name, status)


@pytest.mark.parametrize(
    ("operation", "statuses"),
    [
        ("post /recommend", {200, 400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 503, 504}),
        ("post /tokenize", {200, 400, 401, 403, 405, 408, 409, 413, 422, 429, 500, 503, 504}),
        ("post /events", {200, 400, 401, 403, 405, 408, 413, 422, 429, 500, 503, 504}),
        ("delete /users/{user_id}", {200, 400, 401, 403, 405, 408, 413, 422, 429, 500, 503, 504}),
        ("get /health/ready", {200, 405, 408, 413, 500, 503}),
        ("get /v1/info", {200, 401, 405, 408, 413, 429, 500, 503}),
    ],
)
def test_every_status_of_an_operation_is_described(
    document: dict[str, Any], operation: str, statuses: set[int]
) -> None:
    assert {int(status) for status in dict(operations(document))[operation]["responses"]} == statuses


def test_requests_refuse_unknown_fields_apart_from_items(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in (
        "RecommendRequest",
        "RecommendBatch",
        "HistoryItem",
        "DiversityRule",
        "SamplingRule",
        "TokenizeRequest",
        "EventRow",
        "EventBatch",
    ):
        assert schemas[name]["additionalProperties"] is False, name
    assert schemas["TokenizeItem"]["additionalProperties"] is not False


@BOTH
def test_nothing_of_the_frameworks_own_errors_is_left(described: Path) -> None:
    assert "HTTPValidationError" not in loaded(described)["components"]["schemas"]


@BOTH
def test_every_reference_leads_somewhere(described: Path) -> None:
    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [str(value["$ref"])] if "$ref" in value else []
            return own + [reference for inner in value.values() for reference in references(inner)]
        return [reference for inner in value for reference in references(inner)] if isinstance(value, list) else []

    document = loaded(described)
    schemas = document["components"]["schemas"]
    assert {reference.rpartition("/")[2] for reference in references(document)} <= set(schemas)
