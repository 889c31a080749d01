"""The README's commands exist, its requests are accepted, and its answers have the shape that the service gives."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel, TypeAdapter

import service.cli
import sidera_client.cli
import training.cli
from service.event_schemas import EventsBody
from service.item_schemas import PatchRequest
from service.recommend_schemas import RecommendAnswer, RecommendBody
from service.schemas import Info, TokenizeAnswer, TokenizeRequest
from service.view_schemas import CodesRequest, FieldsRequest, NearRequest, SearchRequest
from sidera.cli import app as sidera_app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """The arguments of every call of a program; a call ends with its line unless a quotation is open."""
    found, begun = [], ""
    for line in "\n".join(blocks("bash")).replace("\\\n", " ").splitlines():
        begun += line + "\n"
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:
            continue
        begun = ""
        if words and words[0] == program:
            found.append(words[1:])
    return found


def resolve(command: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The innermost command that the words name, and its arguments."""
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("words", commands("sidera"), ids=" ".join)
def test_every_sidera_command_of_the_readme_is_accepted(words: list[str]) -> None:
    owners = dict.fromkeys(("serve", "openapi", "keys"), service.cli.app) | dict.fromkeys(
        ("bundle", "tokenizer", "batch", "embed"), sidera_app
    )
    owners["bench"] = sidera_client.cli.app
    command, arguments = resolve(typer.main.get_command(owners.get(words[0], training.cli.app)), words)
    context = command.make_context("sidera", arguments)
    assert not context.args, "words that no argument or option takes"


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_every_make_target_of_the_readme_exists(words: list[str]) -> None:
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def requests() -> list[tuple[str, Any]]:
    found = []
    for words in commands("curl"):
        path = next(word for word in words if word.startswith("localhost:8000")).removeprefix("localhost:8000")
        path = re.sub(r"^/items/[^/]+/.+$", "/items/{domain}/{item_id}", path)
        path = re.sub(r"^/users/[^/]+", "/users/{user_id}", path)
        found.append((path, json.loads(words[words.index("-d") + 1]) if "-d" in words else None))
    return found


BODIES: dict[str, Any] = {
    "/events": EventsBody,
    "/search": SearchRequest,
    "/codes": CodesRequest,
    "/fields": FieldsRequest,
    "/near": NearRequest,
    "/recommend": RecommendBody,
    "/tokenize": TokenizeRequest,
    "/items/{domain}/{item_id}": PatchRequest,
}
ANSWERS: dict[str, type[BaseModel]] = {
    "/recommend": RecommendAnswer,
    "/tokenize": TokenizeAnswer,
    "/v1/info": Info,
}


def test_the_readme_asks_every_endpoint() -> None:
    described = yaml.safe_load((ROOT / "openapi.yaml").read_text())["paths"]
    assert {path for path, _ in requests()} == set(described)


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, body in requests() if body is not None])
def test_every_request_of_the_readme_is_accepted(path: str, body: Any) -> None:
    accepted = TypeAdapter(BODIES[path]).validate_python(body)
    assert accepted is not None


def test_every_answer_of_the_readme_has_the_shape_that_the_service_gives() -> None:
    answered = [path for path, _ in requests() if path in ANSWERS]
    answers = [json.loads(block) for block in blocks("json")]
    assert len(answered) == len(answers)
    for path, answer in zip(answered, answers, strict=True):
        assert ANSWERS[path].model_validate(answer)


def test_every_file_that_the_readme_names_exists() -> None:
    named = re.findall(r"`((?:docs|configs|benchmarks|service|k8s|tests)/[\w./-]*)`", README)
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
