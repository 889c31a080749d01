"""Who may import whom, read from the source without running it."""

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sidera", "training", "service", "sidera_client")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of every import, those in functions and through importlib included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def top(name: str) -> str:
    return name.partition(".")[0]


def normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


EXTRAS_OF_PACKAGES = {"training": ["train"], "service": ["service"], "sidera_client": ["client"]}
EXTRAS_OF_MODULES = {
    name: ["ray"] for name in ("sidera/jobs/ray_batch.py", "sidera/jobs/ray_session.py", "training/ray_train.py")
} | {"service/open_telemetry.py": ["tracing"]}
"""Modules that are imported only where somebody asks for what the extra brings."""


def allowed_distributions(package: str, path: Path) -> set[str]:
    extras = EXTRAS_OF_PACKAGES.get(package, []) + EXTRAS_OF_MODULES.get(path.relative_to(ROOT).as_posix(), [])
    pins = PROJECT["dependencies"] + [pin for extra in extras for pin in PROJECT["optional-dependencies"][extra]]
    return {normal(pin.partition("==")[0].partition("[")[0]) for pin in pins}


def test_imports_are_seen_wherever_they_stand() -> None:
    source = """
import a.b, c
from d.e import f
def g():
    import h
    importlib.import_module('i.j')
from . import k
"""
    assert [name for _, name in sorted(imports(source))] == ["a.b", "c", "d.e", "h", "i.j", "."]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_modules_to_look_at(package: str) -> None:
    assert len(modules(package)) > 1


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("service", {"training", "sidera_client"}),
        ("training", {"service", "sidera_client"}),
        ("sidera", {"training", "service", "sidera_client"}),
        ("sidera_client", {"sidera", "training", "service", "torch"}),
    ],
)
def test_a_layer_imports_no_layer_that_it_must_not_know(package: str, others: set[str]) -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in modules(package)
        if path != ROOT / "sidera" / "cli.py"
        for line, name in imports(path.read_text())
        if top(name) in others
    ]
    assert offences == []


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute(package: str) -> None:
    relative = [
        f"{path}:{line}" for path in modules(package) for line, name in imports(path.read_text()) if name[0] == "."
    ]
    assert relative == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_is_installed_with(package: str) -> None:
    installed = importlib.metadata.packages_distributions()
    offences = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in modules(package)
        for line, name in imports(path.read_text())
        if top(name) not in sys.stdlib_module_names
        and top(name) not in PACKAGES
        and not allowed_distributions(package, path)
        & {normal(distribution) for distribution in installed.get(top(name), [])}
    ]
    assert offences == []
