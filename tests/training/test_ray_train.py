"""The pipeline in two workers of Ray Train."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sidera.bundle import open_bundle, verify_bundle
from sidera.cli import main
from tests import tiny
from training.config import load_config
from training.errors import DataError, StageError
from training.pipeline import train
from training.ray_train import cause_of, train_with_ray

WEIGHTS = ("universal/backbone/model.safetensors", "adapter-books/adapter/adapter_model.safetensors")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
@pytest.mark.filterwarnings("ignore")
def test_two_workers_of_ray_write_the_bundle_that_one_process_writes(tmp_path: Path, tiny_encoder: Path) -> None:
    data = tiny.write_data(tmp_path / "data", {"books": 24}, users=20)

    def config_for(name: str) -> Path:
        document = tiny.config_of(data, tmp_path / name, tiny_encoder)
        document["language_model"]["dropout"] = 0.0  # each worker would draw another mask
        document["language_model"]["domain"]["dropout"] = 0.0
        document["tokenizer"] = {"method": "rqkmeans", "codebook_sizes": [8, 8, 8]}
        document["language_model"]["router"] = {"kind": "constant"}
        return tiny.write_config(tmp_path / f"{name}.yaml", document)

    alone = train(load_config(config_for("alone")), lambda sentence: None)
    said: list[str] = []
    shared = train_with_ray(load_config(config_for("shared")), 2, said.append)
    assert verify_bundle(tmp_path / "shared") == []
    assert shared == open_bundle(tmp_path / "shared").manifest
    assert sum(sentence.startswith("data: 1 domains") for sentence in said) == 1, "the first worker alone speaks"
    assert said[-1].startswith("bundle: ")
    one, two = tmp_path / "alone.work", tmp_path / "shared.work"
    for stage in ("universal", "adapter-books"):
        losses = [json.loads((work / stage / "training.json").read_text())["losses"] for work in (one, two)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    for name in WEIGHTS:
        expected, found = load_file(one / name), load_file(two / name)
        assert expected.keys() == found.keys()
        for key, weight in expected.items():
            np.testing.assert_allclose(found[key], weight, atol=2e-3, err_msg=key)
    scores = [manifest.metrics["pooled"]["rankers"]["sidera"]["recall@10"] for manifest in (alone, shared)]
    assert scores[1] == pytest.approx(scores[0], abs=0.05)
    assert not (two / "ray").exists()


def test_the_sentence_of_a_worker_is_what_a_failed_run_raises() -> None:
    class DiedError(Exception):
        __module__ = "ray.exceptions"

    ours, theirs, bug = DataError("data: no"), DiedError("killed"), KeyError("x")
    whole = RuntimeError("all of it")
    assert cause_of(whole, {0: theirs, 1: ours}) is ours
    died = cause_of(whole, {0: bug, 1: theirs})
    assert isinstance(died, StageError)
    assert str(died) == "worker 1 of Ray died; start again to go on from the last checkpoint"
    assert cause_of(whole, {0: bug}) is whole, "a mistake in the program keeps its traceback"


def test_ray_that_is_not_installed_is_one_sentence_that_names_the_extra(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = tiny.write_config(tmp_path / "config.yaml", tiny.config_of(tiny_data, tmp_path / "bundle", tiny_encoder))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(config), "--ray-workers", "2"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "Error: sidera train --ray-workers needs the package 'ray'; install the extra: pip install 'sidera[ray]'\n"
    )
    assert not (tmp_path / "bundle.work").exists()
