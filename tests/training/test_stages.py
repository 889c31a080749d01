"""When a stage is skipped, when it starts anew, and when it goes on."""

from pathlib import Path
from typing import Any

import pytest

from training.stages import stage


def finish(root: Path, inputs: dict[str, Any], content: str = "made") -> bool:
    """Run a stage that writes one file; whether it was done already."""
    with stage(root, "vectors", inputs) as made:
        if not made.done:
            (made.folder / "result").write_text(content)
    return made.done


def test_a_stage_is_done_once_and_kept_after_that(tmp_path: Path) -> None:
    assert not finish(tmp_path, {"data": 1}, "first")
    assert finish(tmp_path, {"data": 1}, "second")
    assert (tmp_path / "vectors" / "result").read_text() == "first"


def test_the_order_of_the_inputs_does_not_matter(tmp_path: Path) -> None:
    finish(tmp_path, {"data": 1, "seed": 2})
    assert finish(tmp_path, {"seed": 2, "data": 1})


def test_other_inputs_empty_the_folder(tmp_path: Path) -> None:
    finish(tmp_path, {"data": 1})
    (tmp_path / "vectors" / "below").mkdir()
    with stage(tmp_path, "vectors", {"data": 2}) as made:
        assert not made.done
        assert [path.name for path in made.folder.iterdir()] == ["stage.json"]


def test_stages_of_the_same_inputs_have_one_digest_and_of_others_another(tmp_path: Path) -> None:
    with stage(tmp_path, "a", {"data": 1}) as a, stage(tmp_path, "b", {"data": 1}) as b:
        assert a.digest == b.digest
        assert a.folder != b.folder
    with stage(tmp_path, "a", {"data": 2}) as other:
        assert other.digest != a.digest


def test_a_stage_that_was_interrupted_finds_what_it_left(tmp_path: Path) -> None:
    def interrupted() -> None:
        with stage(tmp_path, "vectors", {"data": 1}) as made:
            (made.folder / "checkpoint").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with stage(tmp_path, "vectors", {"data": 1}) as made:
        assert not made.done
        assert (made.folder / "checkpoint").read_text() == "half"
    with stage(tmp_path, "vectors", {"data": 1}) as made:
        assert made.done


def test_a_folder_that_was_half_emptied_for_other_inputs_never_counts_as_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path, {"data": 1})

    def killed(folder: Path) -> None:
        (folder / "result").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("training.stages.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(tmp_path, {"data": 2})
    assert not finish(tmp_path, {"data": 1}, "again")
    assert (tmp_path / "vectors" / "result").read_text() == "again"
