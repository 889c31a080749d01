"""The benchmark of recipes: what it compares, and that every step is kept; no quality is asserted."""

import json
from pathlib import Path

import pytest

from benchmarks.recipes import main, read_recipes
from training.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "benchmarks" / "recipes.json"


def test_every_recipe_of_the_file_is_a_config_and_no_recipe_stops_early() -> None:
    recipes = read_recipes(RECIPES, (), epochs=20, targets=2000)
    assert len(recipes) == len(json.loads(RECIPES.read_text()))
    for recipe in recipes.values():
        assert recipe.universal.patience == recipe.universal.epochs
        assert recipe.validation_targets == 2000
    assert recipes["codebook"].universal.epochs == 20
    assert recipes["children-smoothing-decay-0.3"].universal.weight_decay == 0.3


def test_a_recipe_that_is_not_there_and_one_that_is_no_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no recipe 'fast'"):
        read_recipes(RECIPES, ("fast",), 1, 1)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"wrong": {"dropout": 7}}))
    with pytest.raises(ConfigError, match=r"recipe 'wrong': .*dropout"):
        read_recipes(wrong, (), 1, 1)
    wrong.write_text(json.dumps({"wrong": {"dropuot": 0.1}}))
    with pytest.raises(ConfigError, match="recipe 'wrong': dropuot: "):
        read_recipes(wrong, (), 1, 1)


def test_each_recipe_is_scored_on_validation_targets_alone_and_kept(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    recipes = {name: {"loss": name, "max_history": 12, "beam_width": 10} for name in ("children", "codebook")}
    (tmp_path / "recipes.json").write_text(json.dumps(recipes))

    def run() -> dict[str, dict[str, dict[str, float]]]:
        main(
            data=tiny_data,
            domains="films",
            variants=tmp_path / "recipes.json",
            out=tmp_path / "out.json",
            method="rqkmeans",
            epochs=1,
            validation_targets=4,
            encoder=str(tiny_encoder),
            encoder_tokens=32,
        )
        written: dict[str, dict[str, dict[str, float]]] = json.loads((tmp_path / "out.json").read_text())
        return written

    first = run()
    assert {f"validation_ndcg_{name}" for name in recipes} <= set(first["figures"])
    assert not [name for name in first["figures"] if name.startswith("ndcg_")]
    assert run()["figures"] == first["figures"]
