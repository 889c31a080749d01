"""``docs/operations.md`` tells every setting and every error as they are, and names files and commands that exist."""

import re
from collections.abc import Iterator

import pytest

from service.errors import RequestError
from sidera.cli import app
from sidera_client import ClientError
from tests.service.operations_tables import DOCUMENT, section, settings_table, with_settings

TEXT = DOCUMENT.read_text()


def errors(root: type[RequestError] = RequestError) -> Iterator[type[RequestError]]:
    for kind in root.__subclasses__():
        if kind.__module__ == "service.errors":
            yield kind
            yield from errors(kind)


def test_every_setting_is_told_with_its_default() -> None:
    assert with_settings(TEXT) == TEXT, "write it anew with: python -m tests.service.operations_tables"
    assert settings_table() in section(TEXT, "Settings")


def test_the_table_of_a_document_without_one_is_missed() -> None:
    with pytest.raises(ValueError, match="0 tables"):
        with_settings("# Nothing\n")


def test_every_error_is_told_with_its_status_and_whether_it_is_retryable() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (yes|) ?\|", section(TEXT, "Errors"), re.M)
    told = {code: (int(status), retryable == "yes") for code, status, retryable in rows}
    assert len(told) == len(rows)
    assert told == {kind.code: (kind.status, kind.retryable) for kind in errors()}


def test_every_error_says_what_to_do() -> None:
    rows = [row for row in section(TEXT, "Errors").splitlines() if row.startswith("| `")]
    for row in rows:
        meaning, remedy = re.split(r"\s*\|\s*", row.strip("| "))[3:5]
        assert len(meaning.strip()) > 10, row
        assert len(remedy.strip()) > 10, row


def test_the_exceptions_of_the_client_are_all_told() -> None:
    kinds = {kind.__name__ for kind in descendants(ClientError) if kind.__module__ == "sidera_client.errors"}
    assert kinds <= set(re.findall(r"`(\w+Error)`", TEXT))


def descendants(root: type[ClientError]) -> Iterator[type[ClientError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from descendants(kind)


@pytest.mark.parametrize("folder", ["k8s", "observability", "docs"])
def test_files_that_are_named_exist(folder: str) -> None:
    root = DOCUMENT.parents[1]
    for name in re.findall(rf"`({folder}/[\w./-]+)`", TEXT):
        assert (root / name).exists(), name


def test_commands_that_are_named_exist() -> None:
    known = {command.name or "" for command in app.registered_commands} | {
        group.name or "" for group in app.registered_groups
    }
    named = set(re.findall(r"^sidera ([a-z-]+)", TEXT, re.M)) | set(re.findall(r"`sidera ([a-z-]+)", TEXT))
    assert named
    assert named <= known
