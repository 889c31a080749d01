"""Settings come from the environment, and a bad one says what to set."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_every_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDERA_BUNDLE", "/bundles/one")
    monkeypatch.setenv("SIDERA_PORT", "8765")
    monkeypatch.setenv("SIDERA_MAX_ROWS", "7")
    monkeypatch.setenv("SIDERA_ALLOW_REGISTER", "false")
    settings = Settings()
    assert (settings.bundle, settings.port, settings.max_rows) == (Path("/bundles/one"), 8765, 7)
    assert not settings.allow_register


@pytest.mark.parametrize("value", ["first-key, second-key", '["first-key", "second-key"]'])
def test_api_keys_are_a_list_with_commas_or_json(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SIDERA_API_KEYS", value)
    settings = Settings(bundle=Path("b"))
    assert [key.get_secret_value() for key in settings.api_keys] == ["first-key", "second-key"]


def test_a_key_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDERA_API_KEYS", "first-key")
    assert "first-key" not in repr(Settings(bundle=Path("b")))


def test_a_port_set_by_a_kubernetes_service_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDERA_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(ValidationError, match="enableServiceLinks: false"):
        Settings(bundle=Path("b"))


def test_a_queue_that_never_takes_a_full_batch_request_is_refused() -> None:
    with pytest.raises(ValidationError, match="raise max_queue or lower max_rows"):
        Settings(bundle=Path("b"), max_queue=10, max_rows=11)


def test_a_queue_that_never_takes_a_request_of_much_work_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"max_queue_tokens .10. is smaller than max_request_tokens .11."):
        Settings(bundle=Path("b"), max_queue_tokens=10, max_request_tokens=11)


def test_no_setting_allows_more_results_than_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError):
        Settings(bundle=Path("b"), max_num_results=101)


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_list_of_keys_that_holds_only_commas_does_not_open_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDERA_API_KEYS", " , ")
    with pytest.raises(ValidationError, match="nothing but commas"):
        Settings(bundle=Path("bundle"))
