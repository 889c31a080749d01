"""What a bundle store holds, as far as a look at it tells."""

import errno
import os
from pathlib import Path

import pytest

from service.bundles.folder import BundleFolder, read_version
from service.errors import StartError
from tests.service.bundles.stores import write_version


def test_versions_are_listed_newest_first_and_what_is_no_bundle_at_the_end(tmp_path: Path) -> None:
    for name, day in (("b", 1), ("a", 3), ("c", 2)):
        write_version(tmp_path, name, day)
    (tmp_path / "empty").mkdir()
    assert [stored.name for stored in BundleFolder(tmp_path).versions()] == ["a", "c", "b", "empty"]


def test_a_version_is_found_by_its_folder_first_and_by_its_bundle_version_else(tmp_path: Path) -> None:
    version = write_version(tmp_path, "one", day=1)
    write_version(tmp_path, version, day=2)
    folder = BundleFolder(tmp_path)
    assert [getattr(folder.find(name), "name", None) for name in ("one", version, "none")] == ["one", version, None]
    (tmp_path / version).rename(tmp_path / "two")
    assert getattr(folder.find(version), "name", None) == "one"


@pytest.mark.parametrize("name", ["with space", "-begins", "new\nline", "ü", "x" * 129])
def test_a_name_that_could_mean_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    problem = BundleFolder(tmp_path).versions()[0].problem
    assert problem is not None
    assert "rename it" in problem


def test_the_fingerprint_changes_with_every_file_that_is_written_added_or_removed(tmp_path: Path) -> None:
    write_version(tmp_path, "one", day=1)
    file = tmp_path / "one" / "report" / "metrics.json"
    seen = {read_version(tmp_path / "one").fingerprint}
    assert read_version(tmp_path / "one").fingerprint in seen
    file.write_text("[]")
    os.utime(file, ns=(1, 1))
    seen.add(read_version(tmp_path / "one").fingerprint)
    (tmp_path / "one" / "more").write_text("")
    seen.add(read_version(tmp_path / "one").fingerprint)
    file.unlink()
    seen.add(read_version(tmp_path / "one").fingerprint)
    assert len(seen) == 4


def test_a_store_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"nothing cannot be read .* set SIDERA_BUNDLE_STORE"):
        BundleFolder(tmp_path / "nothing").versions()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_folder_that_fails_while_it_is_looked_at_has_a_problem_and_the_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_version(tmp_path, "one", day=1)
    write_version(tmp_path, "two", day=2)
    lstat = Path.lstat

    def fail(path: Path) -> os.stat_result:
        if path.name == "metrics.json" and path.parts[-3] == "two":
            raise OSError(number, os.strerror(number))
        return lstat(path)

    with monkeypatch.context() as failing:
        failing.setattr(Path, "lstat", fail)
        good, bad = BundleFolder(tmp_path).versions()
    assert (good.name, good.problem) == ("one", None)
    assert (bad.name, bad.problem) == (
        "two",
        f"it cannot be read now ({os.strerror(number)}); it is looked at again",
    )
    assert [stored.name for stored in BundleFolder(tmp_path).versions()] == ["two", "one"]
