"""How the apps are put together."""

import warnings

import pytest

from service.app import create_admin_app, create_app
from tests.service.fakes import settings


def test_routes_are_made_with_the_app_and_not_in_the_thread_of_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FastAPI makes those of included routers when a route is first looked for, with warnings caught meanwhile."""
    public = create_app(settings())
    admin = create_admin_app(public)

    class Caught(warnings.catch_warnings):
        def __init__(self, *arguments: object, **options: object) -> None:
            raise AssertionError("warnings are caught while a route is looked for")

    monkeypatch.setattr(warnings, "catch_warnings", Caught)
    assert public.url_path_for("recommend") == "/recommend"
    assert admin.url_path_for("rollback")
