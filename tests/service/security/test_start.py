"""The command refuses to start with one sentence, before it opens a bundle or a port."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.errors import StartError


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--host", "0.0.0.0"], {}, "would listen on 0.0.0.0 and let everybody in; set SIDERA_API_KEYS_FILE"),
        ([], {"SIDERA_HOST": "::"}, "would listen on :: and let everybody in"),
        ([], {"SIDERA_MAX_ROW": "5"}, "did you mean SIDERA_MAX_ROWS?"),
        (["--port", "99999"], {}, "--port: Input should be less than or equal to 65535"),
        ([], {"SIDERA_PORT": "99999"}, "SIDERA_PORT: Input should be less than or equal to 65535"),
    ],
)
def test_serve_refuses_with_a_sentence(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], sentence: str
) -> None:
    result = CliRunner(env=environment).invoke(app, ["serve", str(tmp_path), *arguments])
    assert isinstance(result.exception, StartError)
    assert sentence in str(result.exception)


@pytest.mark.parametrize("environment", [{"SIDERA_ENVIRONMENT": "development"}, {"SIDERA_API_KEYS": "k" * 16}])
def test_serve_goes_on_where_it_is_allowed_to_listen(tmp_path: Path, environment: dict[str, str]) -> None:
    result = CliRunner(env=environment).invoke(app, ["serve", str(tmp_path), "--host", "0.0.0.0"])
    assert result.exception is not None
    assert "manifest.json" in str(result.exception), "the next thing is the bundle, of which this folder holds none"
