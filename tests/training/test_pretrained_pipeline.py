"""The whole way with a pretrained backbone: train, bundle, load, export; and what stock libraries make of it."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sidera.bundle import open_bundle, verify_bundle
from sidera.cli import main
from sidera.errors import BackboneError, BundleError
from sidera.export import export_bundle
from sidera.loading import load_bundle
from sidera.model.experts import ExpertShape, shape_of_experts
from sidera.recommender import Query
from tests import tiny
from tests.training.backbone_folders import ROWS, write_backbone
from training.config import load_config
from training.errors import ConfigError
from training.pipeline import train


def trained(folder: Path, data: Path, encoder: Path, **language_model: Any) -> Path:
    """A bundle on a tiny pretrained backbone."""
    write_backbone(folder / "base", initializer_range=0.1)
    document = tiny.config_of(data, folder / "bundle", encoder)
    document["language_model"] |= {"backbone": str(folder / "base"), "router": {"kind": "fixed", "gamma": 0.4}}
    document["language_model"] |= language_model
    config = load_config(tiny.write_config(folder / "config.yaml", document))
    train(config, lambda sentence: None)
    return folder / "bundle"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_encoder: Path) -> dict[str, Path]:
    """A bundle for each kind of experts."""
    experts = {
        "learned": {"count": 2, "rank": 3, "alpha": 6},
        "average": {"count": 2, "rank": 3, "alpha": 6, "gate": "average"},
        "none": {"count": 0},
    }
    return {
        name: trained(tmp_path_factory.mktemp(name), tiny_data, tiny_encoder, experts=settings)
        for name, settings in experts.items()
    }


@pytest.mark.parametrize("kind", ["learned", "average", "none"])
def test_a_bundle_holds_the_experts_that_its_manifest_names_and_loads_them(bundles: dict[str, Path], kind: str) -> None:
    path = bundles[kind]
    assert verify_bundle(path) == []
    bundle = open_bundle(path)
    settings = bundle.manifest.parts["language_model"]
    expected = [] if kind == "none" else ["adapters/universal-0", "adapters/universal-1"]
    assert settings["experts"] == expected
    assert settings["gates"] == ("adapters/gates.safetensors" if kind == "learned" else None)
    assert settings["base_vocabulary"] == ROWS
    assert {Path(name).parts[1] for name in bundle.manifest.files if name.startswith("adapters/universal")} == {
        Path(name).name for name in expected
    }
    assert not any("generation" in name for name in bundle.manifest.files)
    assert settings["backbone"] == "base", "the name of the folder, not its place on this machine"
    for file in [*path.glob("backbone/*.json"), *path.glob("adapters/*/*.json")]:
        assert str(path.parent) not in file.read_text()
    loaded = load_bundle(path, "cpu")
    found = shape_of_experts(loaded.recommender.model.backbone)
    assert found == (None if kind == "none" else ExpertShape(2, 3, 6, kind == "learned"))
    assert loaded.recommender.model.vocabulary.base == ROWS
    (answer,) = loaded.recommender.recommend([Query("films", (("films", "films-2"),), 5)])
    assert len(answer.items) == 5


def test_a_changed_byte_of_an_expert_or_a_gate_is_refused_by_name(bundles: dict[str, Path], tmp_path: Path) -> None:
    for name in ("adapters/universal-1/adapter_model.safetensors", "adapters/gates.safetensors"):
        broken = tmp_path / Path(name).name
        shutil.copytree(bundles["learned"], broken)
        content = bytearray((broken / name).read_bytes())
        content[-1] ^= 1
        (broken / name).write_bytes(content)
        with pytest.raises(BundleError, match=f"{name} was changed"):
            load_bundle(broken, "cpu")


def stock_logits(folder: Path, adapter: Path | None, tokens_BT: Tensor) -> Tensor:
    """What ``transformers`` and ``peft`` compute by themselves."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            model = peft.PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        logits: Tensor = model.eval()(input_ids=tokens_BT, use_cache=False).logits
    return logits


@pytest.mark.parametrize("kind", ["average", "none"])
def test_the_export_gives_our_scores_in_stock_transformers_and_with_the_adapters_in_stock_peft(
    bundles: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    out = tmp_path / "export"
    names = export_bundle(bundles[kind], out)
    domains = sorted(tiny.DOMAINS)
    assert names == [*(f"domain-{name}" for name in domains), "tokens.json", "universal"]
    assert sorted(path.name for path in (out / "universal").iterdir()) == ["config.json", "model.safetensors"]
    model = load_bundle(bundles[kind], "cpu").recommender.model
    vocabulary = model.vocabulary
    torch.manual_seed(0)
    tokens_BT = torch.randint(vocabulary.first_code(0), vocabulary.size, (2, 12))
    tokens = json.loads((out / "tokens.json").read_text())
    assert tokens["domains"] == {name: vocabulary.domain_token(name) for name in domains}
    tokens_BT[:, ::4] = tokens["domains"]["films"]
    for name in domains:
        hidden_MBTD = model.read(tokens_BT, torch.full((2,), model.adapter_index[name]))
        universal = stock_logits(out / "universal", None, tokens_BT)
        adapted = stock_logits(out / "universal", out / f"domain-{name}", tokens_BT)
        assert not torch.allclose(universal, adapted, atol=1e-3)
        for level, told in enumerate(tokens["levels"]):
            rows = slice(told["first"], told["first"] + told["codes"])
            ours_MBTV = model.code_logits(hidden_MBTD, level)
            torch.testing.assert_close(ours_MBTV[0], universal[..., rows], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ours_MBTV[1], adapted[..., rows], atol=1e-4, rtol=1e-4)


def test_learned_gates_are_not_exported_and_nothing_is_left_behind(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"by a learned gate.*train with experts\.gate: average"):
        export_bundle(bundles["learned"], tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
    assert "sidera alone" in open_bundle(bundles["learned"]).manifest.parts["language_model"]["stock_use"]


def test_an_export_never_replaces_what_is_there(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(BundleError, match="exists; choose another place"):
        export_bundle(bundles["none"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "export", str(bundles["none"]), "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    assert "universal" in capsys.readouterr().out


def test_a_scratch_models_export_gives_our_scores_too(tiny_bundle: Path, tmp_path: Path) -> None:
    export_bundle(tiny_bundle, tmp_path / "export")
    model = load_bundle(tiny_bundle, "cpu").recommender.model
    tokens_BT = torch.arange(20)[None]
    hidden_MBTD = model.read(tokens_BT, None)
    logits = stock_logits(tmp_path / "export" / "universal", None, tokens_BT)
    first = model.vocabulary.first_code(1)
    torch.testing.assert_close(model.code_logits(hidden_MBTD[0], 1), logits[..., first : first + 8])


def test_a_backbone_that_is_not_there_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    document = tiny.config_of(tmp_path / "no-data", tmp_path / "bundle", tiny_encoder)
    document["language_model"]["backbone"] = str(tmp_path / "no-model")
    config = load_config(tiny.write_config(tmp_path / "config.yaml", document))
    with pytest.raises(ConfigError, match=r"language_model\.backbone"):
        train(config, lambda sentence: None)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_context_too_short_for_the_history_is_refused_before_vectors_are_made(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    with pytest.raises(BackboneError, match="reads 128 tokens, a history of 40 items needs 164; set a smaller"):
        trained(tmp_path, tiny_data, tiny_encoder, max_history=40)
    assert not (tmp_path / "bundle.work" / "vectors").exists()
