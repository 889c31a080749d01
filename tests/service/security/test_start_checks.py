"""What a service refuses to start with, and the sentence that it says."""

from pathlib import Path
from typing import Any

import pytest

from service.errors import StartError
from service.security.start_checks import is_loopback, read_settings, refuse_insecure, refuse_unknown_variables
from tests.service.fakes import settings

LONG_KEY = "0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("SIDERA_MAX_ROW", "SIDERA_MAX_ROW is no setting of the service; did you mean SIDERA_MAX_ROWS?"),
        ("SIDERA_API_KEY", "did you mean SIDERA_API_KEYS?"),
        ("sidera_devise", "sidera_devise is no setting of the service; did you mean SIDERA_DEVICE?"),
        ("SIDERA_XYZZY", "SIDERA_XYZZY is no setting of the service; take it out of the environment"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_setting(given: str, sentence: str) -> None:
    with pytest.raises(StartError) as raised:
        refuse_unknown_variables(["PATH", "SIDERA_BUNDLE", given])
    assert sentence in str(raised.value)


def test_settings_and_variables_of_others_are_let_through() -> None:
    refuse_unknown_variables(["PATH", "SIDERA_BUNDLE", "sidera_port", "MY_SIDERA_X"])


@pytest.mark.parametrize(
    ("flags", "variables", "sentence"),
    [
        ({"port": 99999}, {}, "--port: Input should be less than or equal to 65535"),
        ({"port": 99999}, {"SIDERA_PORT": "8000"}, "--port: Input should be less than or equal to 65535"),
        ({}, {"SIDERA_PORT": "99999"}, "SIDERA_PORT: Input should be less than or equal to 65535"),
        ({}, {"SIDERA_PORT": "99999", "SIDERA_BUNDEL": "b"}, "did you mean SIDERA_BUNDLE?"),
    ],
)
def test_a_wrong_value_is_blamed_on_the_flag_or_the_variable_that_gave_it(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], variables: dict[str, str], sentence: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as raised:
        read_settings({"bundle": Path("b")} | flags, variables)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"host": "localhost"},
        {"host": "::1"},
        {"host": "0.0.0.0", "environment": "development"},
        {"host": "0.0.0.0", "api_keys": LONG_KEY},
        {"host": "0.0.0.0", "api_keys_file": Path("keys.yaml")},
        {"cors_origins": "*", "environment": "development"},
        {"api_keys": "short"},
        {"admin_host": "0.0.0.0"},
        {"admin_port": 9000},
    ],
)
def test_a_service_that_only_this_machine_reaches_or_that_asks_for_keys_starts(changes: dict[str, Any]) -> None:
    refuse_insecure(settings(**changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"host": "0.0.0.0"}, "would listen on 0.0.0.0 and let everybody in; set SIDERA_API_KEYS_FILE"),
        ({"host": "::"}, "would listen on :: and let everybody in"),
        ({"host": "sidera.internal"}, "would listen on sidera.internal and let everybody in"),
        ({"admin_port": 9000, "admin_host": "0.0.0.0"}, "would listen on 0.0.0.0 and let everybody in"),
        ({"host": "0.0.0.0", "api_keys": f"{LONG_KEY},short"}, "fewer than 16 characters"),
        ({"cors_origins": "*"}, "SIDERA_CORS_ORIGINS is '*'"),
    ],
)
def test_a_service_that_is_open_to_strangers_does_not_start(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StartError) as raised:
        refuse_insecure(settings(**changes))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.5", True), ("10.0.0.1", False), ("fe80::1", False)])
def test_loopback_addresses_are_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
