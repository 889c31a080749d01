import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
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
WHEEL_PACKAGES = ("service", "sidera", "sidera_client", "training")
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


# The wheel


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What is in a wheel of this working tree."""
    work = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*WHEEL_PACKAGES, "benchmarks"):
        shutil.copytree(ROOT / name, work / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, work / "source" / name)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", work, work / "source"], check=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_its_packages(wheel_names: set[str]) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for name in WHEEL_PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"service/playground/static/index.html", "service/migrations/env.py"} < files
    assert files - wheel_names == set()


def test_the_wheel_holds_nothing_but_its_packages_its_licence_and_what_pip_reads(wheel_names: set[str]) -> None:
    about = f"sidera-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in wheel_names} == {*WHEEL_PACKAGES, about}
    assert f"{about}/licenses/LICENSE" in wheel_names
    assert f"{about}/entry_points.txt" in wheel_names
