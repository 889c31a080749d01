"""Keys are random, kept as digests, found in constant time, and rotated without a restart."""

import json
import os
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from service.cli import app
from service.errors import StartError
from service.logs import make_logger
from service.metrics import Metrics
from service.security.key_ring import KeyRing, read_key_file
from service.security.keys import ApiKey, digest, file_entry, find, new_key
from service.security.scopes import EVERYBODY, SCOPES, Scope
from tests.service.fakes import settings

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def entry(name: str, key: str, *scopes: Scope, expires: datetime | None = None) -> str:
    return "- " + file_entry(name, key, scopes or ("recommend",), expires) + "\n"


def ring(path: Path | None, log: StringIO | None = None, metrics: Metrics | None = None, **changes: Any) -> KeyRing:
    """A ring that looks at its file at every call."""
    ticks = iter(range(0, 10_000, 10))
    logger = make_logger("info", log or StringIO())
    own = settings(api_keys_file=path, **changes)
    return KeyRing(own, metrics or Metrics(), logger, clock=lambda: float(next(ticks)))


def test_a_key_is_found_by_its_digest_with_the_name_and_scopes_of_its_entry() -> None:
    keys = [ApiKey("a", digest("one"), frozenset({"recommend"})), ApiKey("b", digest("two"), frozenset({"admin"}))]
    found = find("two", keys, NOW)
    assert found is not None
    assert found.name == "b"
    assert found.scopes == {"admin"}
    assert find("three", keys, NOW) is None
    assert find("", keys, NOW) is None


def test_every_digest_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return given == known

    monkeypatch.setattr("service.security.keys.hmac.compare_digest", compare)
    keys = [ApiKey(name, digest(name), frozenset({"recommend"})) for name in ("a", "b", "c")]
    for given in ("a", "c", "unknown"):
        compared.clear()
        find(given, keys, NOW)
        assert compared == [key.digest for key in keys]


def test_a_key_is_let_in_until_the_moment_it_expires() -> None:
    key = ApiKey("a", digest("one"), frozenset({"recommend"}), expires=NOW)
    assert find("one", [key], NOW - timedelta(seconds=1)) is not None
    assert find("one", [key], NOW) is None


def test_a_new_key_is_long_and_never_the_same() -> None:
    made = {new_key() for _ in range(20)}
    assert len(made) == 20
    assert all(key.startswith("sidera_") and len(key) == 50 for key in made)


def test_the_file_is_yaml_or_json_and_holds_no_key(tmp_path: Path) -> None:
    lines = entry("shop", "first-key", "recommend", "tokenize", expires=NOW)
    (tmp_path / "keys.yaml").write_text(lines)
    (tmp_path / "keys.json").write_text(json.dumps(yaml.safe_load(lines)))
    assert "first-key" not in lines
    expected = (ApiKey("shop", digest("first-key"), frozenset({"recommend", "tokenize"}), NOW),)
    assert read_key_file(tmp_path / "keys.yaml") == read_key_file(tmp_path / "keys.json") == expected


def test_a_date_without_a_time_is_its_midnight_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(entry("shop", "k").replace("}", ', "expires": "2030-01-01"}'))
    assert read_key_file(path)[0].expires == NOW


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "valid list"),
        ("[]", "at least 1 item"),
        ("{", "cannot be read as YAML or JSON"),
        ("- {name: shop, sha256: my-secret-key, scopes: [recommend]}", r"0\.sha256: .*should match pattern"),
        ("- {name: shop, key: my-secret-key, scopes: [recommend]}", "0.sha256: Field required"),
        (entry("shop", "k").replace("recommend", "recomend"), r"0\.scopes\.0: Input should be 'recommend', 'tokenize'"),
        (entry("shop", "k").replace('["recommend"]', "[]"), r"0\.scopes: List should have at least 1 item"),
        (entry("shop", "k").replace('"shop"', '"a shop"'), r"0\.name"),
        (entry("shop", "k") + entry("other", "k"), "holds one sha256 twice"),
    ],
)
def test_a_wrong_file_is_refused_by_field_and_quotes_no_secret(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(StartError, match=sentence) as raised:
        read_key_file(path)
    assert "my-secret-key" not in str(raised.value)


def test_a_service_does_not_start_with_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"SIDERA_API_KEYS_FILE.*cannot be read"):
        ring(tmp_path / "none.yaml")


def test_without_keys_everybody_may_do_everything() -> None:
    assert ring(None).caller(None) is EVERYBODY


def test_plain_keys_may_do_everything_but_admin(tmp_path: Path) -> None:
    caller = ring(None, api_keys="first,second").caller("second")
    assert caller is not None
    assert caller.scopes == set(SCOPES) - {"admin"}
    assert caller.name == "plain-2"


def test_a_file_is_read_again_when_it_changes_and_two_keys_of_one_name_are_valid_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(entry("shop", "old"))
    keys = ring(path)
    assert keys.caller("new") is None
    path.write_text(entry("shop", "old") + entry("shop", "new"))
    assert keys.caller("old") == keys.caller("new") != None  # noqa: E711
    path.write_text(entry("shop", "new"))
    assert keys.caller("old") is None
    assert keys.caller("new") is not None


def test_a_file_replaced_by_another_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    path, other = tmp_path / "keys.yaml", tmp_path / "other.yaml"
    path.write_text(entry("shop", "old"))
    keys = ring(path)
    other.write_text(entry("shop", "new"))
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)
    assert keys.caller("old") is None
    assert keys.caller("new") is not None


def test_a_changed_file_that_is_wrong_or_gone_leaves_the_keys_before_it_and_is_told_once(tmp_path: Path) -> None:
    path, log, metrics = tmp_path / "keys.yaml", StringIO(), Metrics()
    path.write_text(entry("shop", "old"))
    keys = ring(path, log, metrics)
    assert "sidera_api_keys_file_usable 1.0" in metrics.render().decode()
    path.write_text("- {}")
    for _ in range(3):
        assert keys.caller("old") is not None
    assert log.getvalue().count("the keys before it stay") == 1
    assert "sidera_api_keys_file_usable 0.0" in metrics.render().decode()
    path.unlink()
    assert keys.caller("old") is not None
    path.write_text(entry("shop", "new"))
    assert keys.caller("old") is None
    assert "sidera_api_keys_file_usable 1.0" in metrics.render().decode()


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(entry("shop", "old"))
    now = 100.0
    keys = KeyRing(settings(api_keys_file=path), Metrics(), make_logger("error"), clock=lambda: now)
    assert keys.caller("new") is None
    path.write_text(entry("shop", "new"))
    assert keys.caller("new") is None
    now += 1
    assert keys.caller("new") is not None


def test_the_command_prints_a_key_once_and_the_line_that_lets_it_in(tmp_path: Path) -> None:
    arguments = ["keys", "new", "shop", "--scopes", "recommend,tokenize", "--expires", "2030-01-01"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    [key] = [line.strip() for line in result.output.splitlines() if line.strip().startswith("sidera_")]
    path = tmp_path / "keys.yaml"
    path.write_text(result.output.splitlines()[-1])
    assert read_key_file(path) == (ApiKey("shop", digest(key), frozenset({"recommend", "tokenize"}), NOW),)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a shop"], "letters, digits"),
        (["shop", "--scopes", "recommend,write"], "not some of recommend,tokenize,events,admin"),
        (["shop", "--scopes", ","], "not some of recommend,tokenize,events,admin"),
    ],
)
def test_the_command_refuses_names_and_scopes_that_the_file_would_refuse(arguments: list[str], sentence: str) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["keys", "new", *arguments])
    assert result.exit_code == 2
    assert sentence in result.output
