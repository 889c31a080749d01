import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from sidera import __version__
from sidera.bundle_writing import write_bundle
from sidera.cli import main
from sidera.errors import CatalogError
from sidera.manifest import BundleDetails, DomainEntry

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")

    def run_main(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        output = capsys.readouterr()
        code = stop.value.code
        assert code is None or isinstance(code, int)
        return code or 0, output.out, output.err

    return run_main


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    def fill(folder: Path) -> None:
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer/weights.safetensors").write_bytes(bytes(2048))

    details = BundleDetails(
        created="2026-03-01T12:00:00+00:00",
        config={"seed": 7},
        lineage={"data": "abc"},
        metrics={"comedy": {"ndcg@10": 0.04391}},
        codebook_sizes=(256, 256, 256),
        domains={"comedy": DomainEntry(token=3)},
        parts={},
    )
    write_bundle(tmp_path / "bundle", fill=fill, details=details)
    return tmp_path / "bundle"


def commands_of(package: str, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """Put an app of our own in the place of a package's ``cli`` module."""
    owned = typer.Typer(pretty_exceptions_enable=False)
    owned.command("other")(lambda: None)
    module = types.ModuleType(f"{package}.cli")
    module.app = owned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"{package}.cli", module)
    return owned


def test_help_lists_every_command_with_the_extras_missing_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'training.cli', 'service.cli', 'fastapi', 'peft'}\n"
        "sys.modules.update(dict.fromkeys(heavy))\n"
        "from sidera.cli import main\n"
        "main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in (
        "data",
        "train",
        "add-domain",
        "evaluate",
        "batch",
        "embed",
        "bundle",
        "tokenizer",
        "serve",
        "openapi",
    ):
        assert f" {name} " in done.stdout


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


def test_show_prints_what_a_bundle_holds(run: Run, bundle: Path) -> None:
    code, out, _ = run("bundle", "show", str(bundle))
    assert code == 0
    for text in (
        "256 x 256 x 256",
        "comedy.ndcg@10",
        "0.0439",
        "tokenizer/weights.safetensors",
        "2.0 KiB",
        "lineage data",
    ):
        assert text in out


def test_verify_says_that_a_whole_bundle_is_whole(run: Run, bundle: Path) -> None:
    code, out, _ = run("bundle", "verify", str(bundle))
    assert code == 0
    assert "is whole: 1 files, 2.0 KiB" in out


def test_verify_lists_the_problems_and_fails(run: Run, bundle: Path) -> None:
    (bundle / "tokenizer/weights.safetensors").write_bytes(bytes(2047) + b"\1")
    (bundle / "[red]extra").touch()
    code, out, err = run("bundle", "verify", str(bundle))
    assert (code, out) == (1, "")
    assert "tokenizer/weights.safetensors was changed" in err
    assert "[red]extra is not named" in err


def test_a_folder_that_is_no_bundle_is_one_sentence_without_traceback(run: Run, tmp_path: Path) -> None:
    code, out, err = run("bundle", "show", str(tmp_path))
    assert (code, out) == (1, "")
    assert err == f"Error: {tmp_path} is not a bundle: it has no manifest.json\n"


@pytest.mark.parametrize(("package", "name"), [("training", "train"), ("training", "data"), ("service", "serve")])
def test_arguments_are_passed_on_untouched(run: Run, monkeypatch: pytest.MonkeyPatch, package: str, name: str) -> None:
    seen: list[object] = []

    def command(words: list[str], number: int = typer.Option(1, "--number", "-n"), flag: bool = False) -> None:
        seen.extend([words, number, flag])

    commands_of(package, monkeypatch).command(name)(command)
    assert run(name, "one", "--flag", "-n", "5", "two", "--", "--three")[0] == 0
    assert seen == [["one", "two", "--three"], 5, True]


def test_help_and_wrong_options_are_answered_by_the_command_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: str) -> None:
        """Our own words."""

    commands_of("training", monkeypatch).command("train")(train)
    code, out, _ = run("train", "--help")
    assert code == 0
    assert "sidera train" in out
    assert "Our own words." in out
    code, _, err = run("train", "x", "--no-such-option")
    assert code == 2
    assert "--no-such-option" in err


def test_the_exit_code_of_a_command_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate() -> None:
        raise typer.Exit(3)

    commands_of("training", monkeypatch).command("evaluate")(evaluate)
    assert run("evaluate")[0] == 3


@pytest.mark.parametrize(
    ("package", "name", "root"), [("training", "train", "TrainingError"), ("service", "serve", "ServiceError")]
)
def test_errors_of_every_tree_are_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, package: str, name: str, root: str
) -> None:
    errors = __import__(f"{package}.errors", fromlist=[root])
    raised: list[Exception] = [getattr(errors, root)("config.yaml: set [seed]"), CatalogError("no such domain")]

    def command() -> None:
        raise raised[0]

    commands_of(package, monkeypatch).command(name)(command)
    assert run(name) == (1, "", "Error: config.yaml: set [seed]\n")
    raised.pop(0)
    assert run(name) == (1, "", "Error: no such domain\n")


def test_any_other_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> None:
        raise KeyError("a bug")

    commands_of("training", monkeypatch).command("train")(train)
    with pytest.raises(KeyError, match="a bug"):
        main(["train"])


@pytest.mark.parametrize(
    ("package", "name", "missing", "extra"),
    [
        ("training", "train", "peft", "train"),
        ("training", "evaluate", "sklearn.cluster", "train"),
        ("service", "serve", "fastapi", "service"),
    ],
)
def test_a_missing_package_of_an_extra_names_the_extra(
    run: Run, monkeypatch: pytest.MonkeyPatch, package: str, name: str, missing: str, extra: str
) -> None:
    def command() -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    commands_of(package, monkeypatch).command(name)(command)
    code, _, err = run(name)
    assert code == 1
    assert f"sidera {name} needs the package {missing!r}" in err
    assert f"pip install 'sidera[{extra}]'" in err


@pytest.mark.parametrize("missing", ["training.gone", "sidera.gone", "something_else"])
def test_a_missing_module_of_our_own_is_a_bug_and_not_an_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def train() -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    commands_of("training", monkeypatch).command("train")(train)
    with pytest.raises(ModuleNotFoundError, match=missing):
        main(["train"])
