import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sidera import __version__
from sidera.cli import CLIENT, SERVICE, TRAINING, Owner

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PIN = re.compile(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[0-9][0-9A-Za-z.]*")


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (pin.partition("==") for pin in pins)}


def direct() -> list[Requirement]:
    return [Requirement(pin) for pin in [*PROJECT["dependencies"], *(pin for pins in EXTRAS.values() for pin in pins)]]


def installed_closure() -> Iterator[tuple[str, str]]:
    """Yield name and version of every distribution that the direct dependencies bring here."""
    waiting = [(requirement.name, frozenset(requirement.extras)) for requirement in direct()]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        distribution = importlib.metadata.distribution(name)
        yield canonicalize_name(name), distribution.version.partition("+")[0]
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in {"", *extras}):
                waiting.append((requirement.name, frozenset(requirement.extras)))


def test_every_direct_dependency_is_pinned_to_one_version() -> None:
    extras = [pin for pins in EXTRAS.values() for pin in pins]
    pins = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"], *extras]
    assert [pin for pin in pins if not PIN.fullmatch(pin)] == []


def test_every_line_of_the_constraints_is_a_plain_pin() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#") and not PIN.fullmatch(line)] == []


def test_whatever_is_installed_with_sidera_is_pinned_at_its_version() -> None:
    pins = constraints() | {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in direct()}
    # PyTorch's CUDA build brings NVIDIA's packages, which it pins itself.
    unpinned = {
        name: version
        for name, version in installed_closure()
        if pins.get(name) != version and not name.startswith(("nvidia-", "cuda-", "triton"))
    }
    assert unpinned == {}


def test_no_package_is_pinned_in_two_places() -> None:
    assert {canonicalize_name(requirement.name) for requirement in direct()} & set(constraints()) == set()


def test_the_version_of_the_package_is_the_version_of_the_distribution() -> None:
    assert PROJECT["version"] == __version__


@pytest.mark.parametrize("owner", [TRAINING, SERVICE, CLIENT])
def test_the_modules_that_name_a_missing_extra_are_the_modules_of_that_extra(owner: Owner) -> None:
    distributions = {canonicalize_name(Requirement(pin).name) for pin in EXTRAS[owner.extra]}
    modules = {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if distributions & {canonicalize_name(name) for name in names}
        and not module.startswith("_")
        and module not in {"mpl_toolkits", "pylab"}
    }
    assert owner.modules == modules


def test_the_licence_is_apache_2() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
