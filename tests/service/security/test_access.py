"""Which key is let in where."""

from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from starlette.testclient import TestClient

from service.app import create_admin_app, create_app
from service.security.access import PROBES
from service.security.keys import file_entry
from service.security.scopes import declared, needs
from tests.service.conftest import Serve
from tests.service.fakes import settings


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    entries = [
        file_entry("reader", "reader-key", ["recommend"], None),
        file_entry("writer", "writer-key", ["tokenize"], None),
        file_entry("operator", "operator-key", ["admin"], None),
    ]
    path.write_text("".join(f"- {entry}\n" for entry in entries))
    return path


def test_every_route_declares_its_access_once() -> None:
    public = create_app(settings())
    routes = declared(public) | declared(create_admin_app(public))
    assert {"POST /recommend", "POST /tokenize", "GET /v1/info", "GET /metrics", "GET /admin/bundles"} <= set(routes)
    assert {route: accesses for route, accesses in routes.items() if len(accesses) != 1} == {}


def test_the_routes_of_the_admin_port_need_the_scope_admin() -> None:
    routes = declared(create_admin_app(create_app(settings())))
    assert {access.scope for route, (access,) in routes.items() if access.key} == {"admin"}


def test_a_route_that_declares_nothing_is_seen_also_in_a_router_within_a_router() -> None:
    inner, outer, app = APIRouter(), APIRouter(), FastAPI()
    inner.get("/bare")(lambda: None)
    outer.include_router(inner)
    app.include_router(outer)
    assert declared(app)["GET /bare"] == ()


def test_a_scope_declared_by_a_router_is_that_of_its_routes() -> None:
    router, app = APIRouter(dependencies=[needs("admin")]), FastAPI()
    router.get("/swap")(lambda: None)
    app.include_router(router)
    assert [access.scope for access in declared(app)["GET /swap"]] == ["admin"]


def test_the_routes_that_need_no_key_are_the_probes() -> None:
    routes = declared(create_app(settings()))
    assert {route.partition(" ")[2] for route, (access,) in routes.items() if not access.key} == PROBES


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        ("reader-key", "/recommend", 200),
        ("reader-key", "/tokenize", 403),
        ("writer-key", "/recommend", 403),
        ("writer-key", "/tokenize", 200),
        ("operator-key", "/recommend", 403),
        ("nobodys-key", "/recommend", 401),
    ],
)
def test_a_key_gets_what_its_scopes_allow(serve: Serve, keys: Path, key: str, path: str, status: int) -> None:
    body = (
        {"domain": "drama"} if path == "/recommend" else {"domain": "drama", "items": [{"item_id": "a", "title": "T"}]}
    )
    response = serve(api_keys_file=keys).post(path, json=body, headers={"x-api-key": key})
    assert response.status_code == status


def test_a_403_names_the_scope(serve: Serve, keys: Path) -> None:
    response = serve(api_keys_file=keys).post("/recommend", json={"domain": "d"}, headers={"x-api-key": "writer-key"})
    assert response.json()["error"]["code"] == "forbidden"
    assert "'recommend'" in response.json()["error"]["message"]


def test_any_key_may_ask_what_is_served(serve: Serve, keys: Path) -> None:
    client = serve(api_keys_file=keys)
    assert client.get("/v1/info", headers={"x-api-key": "operator-key"}).status_code == 200
    assert client.get("/openapi.json", headers={"x-api-key": "operator-key"}).status_code == 200
    assert client.get("/v1/info").status_code == 401


def test_a_route_with_a_scope_fails_closed_on_an_app_without_the_layers() -> None:
    app = FastAPI()
    app.get("/swap", dependencies=[needs("admin")])(lambda: "swapped")
    response = TestClient(app, raise_server_exceptions=False).get("/swap")
    assert response.status_code == 500
    assert "swapped" not in response.text
