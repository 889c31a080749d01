"""The admin port: who gets in, what may be named, and how it is described."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from starlette.testclient import TestClient

from service.app import create_admin_app, create_app
from service.cli import openapi_yaml
from tests.service.bundles.stores import Loader, Service, store_service, write_version
from tests.service.fakes import settings


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_version(tmp_path / "store", "one", day=1)
    write_version(tmp_path / "secret", "hidden", day=9)
    return tmp_path / "store"


@pytest.fixture
def service(store: Path) -> Iterator[Service]:
    with store_service(store, Loader()) as started:
        yield started


@pytest.mark.parametrize(
    "version",
    ["../secret/hidden", "one/../one", "/etc", "./one", "one/", "..", ".", "one\x00", "ONE", "o*", "%2e%2e", "nothing"],
)
def test_a_version_is_a_name_of_the_list_and_never_a_path(service: Service, store: Path, version: str) -> None:
    absolute = str(store.parent / "secret" / "hidden")
    for given in (version, absolute):
        response = service.admin.post("/admin/bundles/activate", json={"version": given})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_version")
        assert response.json()["error"]["field"] == "version"
    assert service.serving() == "one"


def test_a_link_in_the_store_is_listed_and_refused(service: Service, store: Path) -> None:
    (store / "link").symlink_to(store.parent / "secret" / "hidden")
    response = service.admin.post("/admin/bundles/activate", json={"version": "link"})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "bundle_refused")
    assert service.states() == {"one": "serving", "link": "refused"}


def test_foreign_and_unfinished_folders_are_listed_with_their_problem(service: Service, store: Path) -> None:
    (store / "notes").mkdir()
    (store / "notes" / "readme.txt").write_text("x")
    (store / "file.zip").write_text("x")
    (store / ".one.writing-1").mkdir()
    listed = {version["name"]: version["problem"] for version in service.overview()["versions"]}
    assert set(listed) == {"one", "notes", "file.zip"}
    assert "has no manifest.json" in listed["notes"]
    assert "not a folder" in listed["file.zip"]
    assert listed["one"] is None


@pytest.mark.parametrize("body", [{}, {"version": ""}, {"version": 3}, {"version": "one", "path": "/x"}, []])
def test_a_wish_that_fits_no_schema_is_refused(service: Service, body: object) -> None:
    response = service.admin.post("/admin/bundles/activate", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")


def test_a_service_of_a_single_folder_says_what_to_set(tmp_path: Path) -> None:
    app = create_app(settings(database=str(tmp_path / "items.db")))
    admin = TestClient(create_admin_app(app), raise_server_exceptions=False)
    response = admin.post("/admin/bundles/activate", json={"version": "one"})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "bundle_refused")
    assert "SIDERA_BUNDLE_STORE" in response.json()["error"]["message"]
    listed = admin.get("/admin/bundles").json()
    assert (listed["versions"], listed["serving"], listed["rollback_to"]) == ([], None, None)


def test_admin_routes_need_the_scope_admin(store: Path) -> None:
    """Plain keys have every scope but that one."""
    with store_service(store, Loader(), api_keys="a-plain-key-of-a-shop") as service:
        headers = {"x-api-key": "a-plain-key-of-a-shop"}
        assert service.public.get("/v1/info", headers=headers).status_code == 200
        for method, path in (
            ("GET", "/admin/bundles"),
            ("POST", "/admin/bundles/activate"),
            ("POST", "/admin/bundles/rollback"),
            ("GET", "/admin/catalog"),
            ("POST", "/admin/catalog/fold"),
        ):
            body = {"version": "one"}
            assert service.admin.request(method, path, json=body).status_code == 401, path
            refused = service.admin.request(method, path, json=body, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden"), path


def test_the_public_app_has_no_admin_route(service: Service) -> None:
    for method, path in (("GET", "/admin/bundles"), ("POST", "/admin/bundles/rollback")):
        assert service.public.request(method, path).status_code == 404


def test_the_admin_port_is_described_apart_and_every_error_in_the_one_shape() -> None:
    document = yaml.safe_load(openapi_yaml(admin=True))
    assert set(document["paths"]) == {
        "/admin/bundles",
        "/admin/bundles/activate",
        "/admin/bundles/rollback",
        "/admin/catalog",
        "/admin/catalog/fold",
        "/admin/users/deleted",
    }
    assert not any("admin" in path for path in yaml.safe_load(openapi_yaml())["paths"])
    for operations in document["paths"].values():
        for operation in operations.values():
            assert {"401", "403", "429", "500"} <= set(operation["responses"])
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}


def test_the_store_going_away_is_an_error_and_what_serves_goes_on(service: Service, store: Path) -> None:
    store.rename(store.with_name("gone"))
    assert service.admin.get("/admin/bundles").status_code == 500
    assert service.admin.post("/admin/bundles/activate", json={"version": "one"}).status_code == 500
    assert service.public.post("/recommend", json={"domain": "drama"}).status_code == 200
