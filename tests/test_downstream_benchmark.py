"""The downstream benchmark of tokenizers: what it compares, and that every step is kept; no quality is asserted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks.downstream_data import Domains, World, floor_ranks, read_world, some_without_text
from benchmarks.downstream_figures import cost_figures, domain_results, quality_figures, validation_figures
from benchmarks.downstream_runs import score_variant, tokenize_variant
from benchmarks.tokenizer_downstream import Plan, compare, main, read_variants
from sidera.catalog import CatalogItem, create_catalog
from sidera.embedding import EncoderSpec
from sidera.language_model import LanguageModel, load_backbone
from sidera.model.vocabulary import Vocabulary
from sidera.recommender import Recommender
from training.data import read_dataset
from training.errors import ConfigError, DataError
from training.evaluation import evaluate
from training.metrics import ABSENT, ndcg_values
from training.model_config import LanguageModelConfig, OptimizerConfig
from training.split import Part
from training.tokenizers import METHODS, read_config

ABLATIONS = Path(__file__).parents[1] / "benchmarks" / "ablations.json"
TRAINED = ("films", "books")
VARIANTS: dict[str, dict[str, Any]] = {
    "rqvae": {
        "method": "rqvae",
        "codebook_sizes": [8, 8, 8],
        "hidden_sizes": [16],
        "latent_dim": 8,
        "epochs": 4,
        "warm_up_epochs": 1,
    },
    "two-levels": {"method": "rqkmeans", "codebook_sizes": [40, 4], "iterations": 3},
}
MODEL = LanguageModelConfig(
    universal=OptimizerConfig(epochs=1, learning_rate=0.003, batch_tokens=2048, patience=1),
    max_history=12,
    beam_width=10,
    validation_targets=4,
)


def plan_of(encoder: Path, **changes: Any) -> Plan:
    plan = Plan(
        roles=Domains(TRAINED, (), TRAINED),
        variants=VARIANTS,
        reference="rqvae",
        language_model=MODEL,
        seeds=(0,),
        targets=20,
        encoder=EncoderSpec(str(encoder), max_tokens=32),
        device="cpu",
    )
    return replace(plan, **changes)


def run(plan: Plan, data: Path, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The written figures, and what was said."""
    said: list[str] = []
    compare(plan, data, folder / "work", folder / "out.json", said.append)
    return json.loads((folder / "out.json").read_text()), said


def world_of(data: Path, encoder: Path, folder: Path, roles: Domains, most_targets: int = 0) -> World:
    return read_world(data, roles, EncoderSpec(str(encoder), max_tokens=32), folder / "vectors", most_targets)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_encoder: Path) -> tuple[dict[str, Any], Path]:
    """What the program writes with ``--quick``, two seeds and an unseen domain; and where."""
    folder = tmp_path_factory.mktemp("downstream")
    (folder / "variants.json").write_text(json.dumps(VARIANTS))
    main(
        data=tiny_data,
        domains="films,books",
        out=folder / "out.json",
        unseen="games",
        variants=folder / "variants.json",
        seeds="0,1",
        encoder=str(tiny_encoder),
        encoder_tokens=32,
        quick=True,
    )
    return json.loads((folder / "out.json").read_text()), folder


def test_every_variant_and_floor_gets_its_figures_in_every_domain_beside_the_reference(
    quick: tuple[dict[str, Any], Path],
) -> None:
    written, _ = quick
    for domain in (*TRAINED, "games"):
        for name in (*VARIANTS, "popularity", "bigram", "content-kNN"):
            assert 0 <= written["figures"][f"ndcg_{name}_{domain}"]["value"] <= 1
            low, high = written["results"][domain][name]["ndcg@10_interval"]
            assert low <= written["results"][domain][name]["ndcg@10"] <= high
        values = {name: written["results"][domain][name]["ndcg@10"] for name in VARIANTS}
        difference = written["figures"][f"ndcg_two-levels_minus_rqvae_{domain}"]
        assert difference["value"] == pytest.approx(values["two-levels"] - values["rqvae"])
        assert "p " in difference["note"]
        assert "20 targets" in written["figures"][f"ndcg_rqvae_{domain}"]["note"]
    assert "zero-shot" in written["figures"]["ndcg_rqvae_games"]["note"]
    assert "zero-shot" not in written["figures"]["ndcg_rqvae_films"]["note"]
    assert "zero-shot" not in written["figures"]["ndcg_bigram_games"]["note"]


def test_the_training_budget_is_told_the_same_events_for_all_and_tokens_by_the_levels(
    quick: tuple[dict[str, Any], Path],
) -> None:
    variants = quick[0]["variants"]
    three, two = (variants[name]["models"]["0"] for name in VARIANTS)
    assert three["targets"] == two["targets"] > 0
    assert three["tokens"] * 3 == two["tokens"] * 4
    assert variants["two-levels"]["tokenizer"]["codebook_sizes"] == [40, 4]
    assert three["weights"] - two["weights"] == (3 * 8 - (40 + 4)) * 128
    assert three["seconds"] > 0
    assert set(variants["rqvae"]["models"]) == {"0", "1"}


def test_a_second_run_keeps_every_step_and_writes_the_same(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> None:
    plan = plan_of(tiny_encoder, variants={"two-levels": VARIANTS["two-levels"]}, reference="two-levels")
    first, said_first = run(plan, tiny_data, tmp_path)
    models = [path.stat().st_mtime_ns for path in sorted((tmp_path / "work").rglob("*.safetensors"))]
    second, said = run(plan, tiny_data, tmp_path)
    assert any("fitted" in told for told in said_first)
    assert not any("fitted" in told or "trained" in told for told in said)
    assert second["figures"] == first["figures"]
    assert second["variants"] == first["variants"]
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "work").rglob("*.safetensors"))] == models


@pytest.mark.parametrize(
    ("sentence", "times", "epochs_left"), [("universal: validation", 2, 1), ("films: NDCG@10", 1, 0)]
)
def test_a_run_that_was_cut_off_in_its_training_or_behind_it_ends_as_one_that_was_not(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, sentence: str, times: int, epochs_left: int
) -> None:
    class CutOffError(Exception):
        pass

    heard: list[str] = []

    def cutting(told: str) -> None:
        heard.append(told)
        if sum(sentence in one for one in heard) == times:
            raise CutOffError

    two_epochs = replace(MODEL, universal=replace(MODEL.universal, epochs=2, patience=2))
    variants = {"two-levels": VARIANTS["two-levels"]}
    plan = plan_of(tiny_encoder, variants=variants, reference="two-levels", language_model=two_epochs)
    with pytest.raises(CutOffError):
        compare(plan, tiny_data, tmp_path / "work", tmp_path / "out.json", cutting)
    written, said = run(plan, tiny_data, tmp_path)
    assert sum("universal: validation" in told for told in said) == epochs_left
    whole, _ = run(plan, tiny_data, tmp_path / "uncut")
    assert written["results"] == whole["results"]
    models = [document["variants"]["two-levels"]["models"]["0"] for document in (written, whole)]
    assert models[0]["losses"] == models[1]["losses"]


def test_an_unseen_domain_and_other_variants_leave_the_trained_model_as_it_is(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    alone = plan_of(tiny_encoder, variants={"two-levels": VARIANTS["two-levels"]}, reference="two-levels")
    before, _ = run(alone, tiny_data, tmp_path)
    roles = Domains(TRAINED, ("games",), TRAINED)
    after, said = run(replace(alone, roles=roles), tiny_data, tmp_path)
    assert any("universal: kept" in told for told in said)
    assert len(list((tmp_path / "work" / "models").iterdir())) == 1
    for domain in TRAINED:
        assert after["results"][domain] == before["results"][domain]


def test_the_language_model_reads_an_unseen_domain_as_any_domain(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[tuple[set[str], str, list[int]]] = []
    prompt_of = LanguageModel.prompt

    def spied(self: LanguageModel, history: Any, target_domain: str) -> list[int]:
        tokens = prompt_of(self, history, target_domain)
        prompts.append(({domain for domain, _ in history}, target_domain, tokens))
        return tokens

    monkeypatch.setattr(LanguageModel, "prompt", spied)
    variants = {"rqvae": VARIANTS["two-levels"]}
    run(plan_of(tiny_encoder, roles=Domains(TRAINED, ("games",), TRAINED), variants=variants), tiny_data, tmp_path)
    vocabulary = Vocabulary((40, 4), {"films": 0, "books": 1})
    seen = [tokens for _, target, tokens in prompts if target in TRAINED]
    unseen = [(beside, tokens) for beside, target, tokens in prompts if target == "games"]
    assert len(unseen) == 20
    assert all(tokens[-1] == vocabulary.any_domain for _, tokens in unseen)
    assert any(beside == {"films", "books", "games"} for beside, _ in unseen)
    assert seen
    assert not any(vocabulary.any_domain in tokens for tokens in seen)


def test_ranks_are_those_of_the_bundles_own_evaluation(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> None:
    world = world_of(tiny_data, tiny_encoder, tmp_path, Domains(TRAINED, (), TRAINED))
    settings = VARIANTS["two-levels"]
    tokenized = tokenize_variant(world, settings, tmp_path, lambda told: None)
    scored = score_variant(world, tokenized, settings, MODEL, 0, tmp_path, "cpu", lambda told: None)

    (backbone,) = tmp_path.glob("models/*/universal/backbone")
    vocabulary = Vocabulary(tokenized.codebook_sizes, {name: row for row, name in enumerate(TRAINED)})
    domains = world.dataset(TRAINED).domains
    catalog = create_catalog(
        [
            CatalogItem(domain.name, item_id, tuple(sid))
            for domain in domains
            for item_id, sid in zip(domain.item_ids, tokenized.sids[domain.name].tolist(), strict=True)
        ],
        tokenized.codebook_sizes,
    )
    model = LanguageModel(load_backbone(backbone, "cpu"), vocabulary)
    recommender = Recommender(model, catalog, MODEL.max_history, MODEL.beam_width)
    expected = evaluate(recommender, domains, world.events, [world.vectors[name] for name in TRAINED], Part.TEST)
    for name in TRAINED:
        own = expected["domains"][name]
        floors = floor_ranks(world.parts[name], world.vectors[name], tmp_path)
        assert own["targets"] == len(scored.ranks[name]) == scored.facts["test"][name]["targets"]
        assert ndcg_values(scored.ranks[name], 10).mean() == pytest.approx(own["rankers"]["sidera"]["ndcg@10"])
        for floor, rank_T in floors.items():
            assert ndcg_values(rank_T, 10).mean() == pytest.approx(own["rankers"][floor]["ndcg@10"])


def test_the_same_targets_are_sampled_every_time_and_histories_of_trained_domains_hold_no_unseen_one(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    roles = Domains(TRAINED, ("games",), TRAINED)
    some, again = (world_of(tiny_data, tiny_encoder, tmp_path, roles, most_targets=15) for _ in range(2))
    every = world_of(tiny_data, tiny_encoder, tmp_path, roles)
    for name, part in some.parts.items():
        assert len(part.targets) == 15
        assert part.targets == again.parts[name].targets
        assert set(part.targets) < set(every.parts[name].targets)
        assert part.digest == again.parts[name].digest != every.parts[name].digest
        histories = {domain for target in part.targets for domain, _ in target.history}
        assert histories == ({0, 1, 2} if name == "games" else {0, 1})


def test_a_tokenizer_is_fitted_on_the_domains_asked_for_and_codes_the_others(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    world = world_of(tiny_data, tiny_encoder, tmp_path, Domains(("films",), ("games",), ("books", "games")))
    settings = VARIANTS["two-levels"] | {"method": "letter", "codebook_sizes": [16, 8], "hidden_sizes": [8]}
    settings |= {"epochs": 1, "warm_up_epochs": 0, "cf_dim": 4, "cf_iterations": 2}
    del settings["iterations"]
    said: list[str] = []
    tokenized = tokenize_variant(world, settings, tmp_path, said.append)
    assert set(tokenized.sids) == {"films", "games"}
    assert len(np.unique(tokenized.sids["films"], axis=0)) == len(world.vectors["films"])
    elsewhere = replace(world, roles=replace(world.roles, fitted=("books",)))
    tokenize_variant(elsewhere, settings, tmp_path, said.append)
    tokenize_variant(elsewhere, settings | {"seed": 1}, tmp_path, said.append)
    tokenize_variant(world, settings, tmp_path, said.append)
    assert ["fitted" in told for told in said] == [True, True, True, False]


def test_a_score_is_the_mean_over_seeds_and_its_difference_is_paired_by_target() -> None:
    hit, second, miss = 0, 1, ABSENT
    ranks = {
        "rqvae": [np.array([hit, miss, miss]), np.array([miss, miss, miss])],
        "other": [np.array([hit, second, miss]), np.array([hit, second, miss])],
    }
    gain = 1 / np.log2(3)
    results = domain_results(ranks, {"popularity": np.array([miss, miss, hit])}, "rqvae")
    assert results["rqvae"]["ndcg@10"] == pytest.approx(0.5 / 3)
    assert results["rqvae"]["ndcg@10_of_seeds"] == pytest.approx([1 / 3, 0])
    assert results["rqvae"]["recall@10"] == pytest.approx(1 / 6)
    assert "minus_reference" not in results["rqvae"]
    assert results["other"]["minus_reference"]["mean"] == pytest.approx((0.5 + gain) / 3)
    assert results["other"]["minus_reference"]["high"] <= gain
    assert results["other"]["minus_floors"]["popularity"]["mean"] == pytest.approx((1 + gain - 1) / 3)
    assert set(results["popularity"]) == {"ndcg@10", "ndcg@10_interval", "recall@10"}
    figures = quality_figures("films", results, "rqvae", 3, "zero-shot")
    assert figures["ndcg_other_films"].value == pytest.approx((1 + gain) / 3)
    assert "seeds 0.3333, 0.0000" in figures["ndcg_rqvae_films"].note
    assert figures["recall_rqvae_films"].note == "3 targets, zero-shot"
    assert figures["recall_popularity_films"].note == "3 targets"
    assert set(figures) == {
        *(f"{metric}_{name}_films" for metric in ("ndcg", "recall") for name in ("rqvae", "other", "popularity")),
        "ndcg_other_minus_rqvae_films",
    }


def test_the_score_to_choose_a_variant_by_is_the_kept_epochs_on_validation_targets_mean_over_the_seeds(
    quick: tuple[dict[str, Any], Path],
) -> None:
    scores = {"0": [0.1, 0.3, 0.5], "1": [0.1, 0.4]}
    models = {
        seed: {"scores": [{"recall@10": 0.9, "ndcg@10": ndcg} for ndcg in of_seed], "best_epoch": 1}
        for seed, of_seed in scores.items()
    }
    both = validation_figures({"rqvae": {"models": models}})["validation_ndcg_rqvae"]
    assert both.value == pytest.approx(0.35)
    assert both.note == "kept epoch 2 of 3, 2 of 2; seeds 0.3000, 0.4000"
    alone = validation_figures({"rqvae": {"models": {"0": models["0"]}}})["validation_ndcg_rqvae"]
    assert (alone.value, alone.note) == (0.3, "kept epoch 2 of 3")
    for name in VARIANTS:
        of_seeds = quick[0]["variants"][name]["models"].values()
        expected = np.mean([model["scores"][model["best_epoch"]]["ndcg@10"] for model in of_seeds])
        assert quick[0]["figures"][f"validation_ndcg_{name}"]["value"] == pytest.approx(expected)


def test_costs_are_means_over_the_seeds() -> None:
    models = {"0": {"tokens": 10, "seconds": 1.0, "weights": 5, "steps": 2}}
    models["1"] = models["0"] | {"seconds": 3.0}
    figures = cost_figures({"rqvae": {"tokenizer": {"codebook_sizes": [8, 4]}, "models": models}})
    assert figures["lm_seconds_rqvae"].value == 2.0
    assert figures["lm_tokens_rqvae"].value == 10
    assert (figures["lm_weights_rqvae"].value, figures["lm_weights_rqvae"].note) == (5, "8x4")


def test_variants_come_from_a_file_some_of_them_by_name_or_are_methods(tmp_path: Path) -> None:
    path = tmp_path / "variants.json"
    path.write_text(json.dumps(VARIANTS))
    assert read_variants(path) == VARIANTS
    assert list(read_variants(path, ("two-levels",))) == ["two-levels"]
    assert read_variants(None, ("rqkmeans",)) == {"rqkmeans": {"method": "rqkmeans"}}


@pytest.mark.parametrize(
    ("content", "names", "message"),
    [
        (None, (), "give --variants"),
        (None, ("nosuch",), "variant 'nosuch'.*known methods"),
        ("[1]", (), "no JSON object"),
        ("{}", (), "no JSON object"),
        ("{", (), "cannot be read"),
        ('{"a": {}}', ("b",), "no variant 'b'; choose among a"),
        ('{"A b": {}}', (), "rename it"),
        ('{"bigram": {}}', (), "a floor has this name"),
        ('{"a": {"epoch": 3}}', (), "variant 'a'.*no setting of rqvae"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused(
    tmp_path: Path, content: str | None, names: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "variants.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_variants(None if content is None else path, names)


def test_a_plan_that_cannot_be_carried_out_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for changes, message in (
        ({"reference": "letter"}, "--reference 'letter' is no variant; choose one of rqvae, two-levels"),
        ({"targets": -1}, "--targets is -1"),
        ({"roles": Domains((), (), ())}, "--domains is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(plan_of(nowhere, **changes), nowhere, tmp_path)


def test_a_domain_is_not_both_trained_on_and_unseen(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> None:
    with pytest.raises(DataError, match="'films' is among --domains and --unseen"):
        world_of(tiny_data, tiny_encoder, tmp_path, Domains(TRAINED, ("films",), TRAINED))


@pytest.mark.parametrize("seeds", ["", "x", "0,-1"])
def test_seeds_that_are_no_numbers_end_the_program_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: str
) -> None:
    with pytest.raises(typer.Exit):
        main(data=tmp_path, domains="films", out=tmp_path / "out.json", methods="rqvae", seeds=seeds)
    assert "set whole numbers from 0 on" in capsys.readouterr().err


def test_every_ablation_is_a_variant_of_its_method_that_takes_one_thing_away() -> None:
    ablations = json.loads(ABLATIONS.read_text())
    for name, settings in read_variants(ABLATIONS).items():
        whole, _, taken = name.partition("-without-")
        assert settings["method"] == whole.partition("-with-")[0]
        assert (read_config(ablations[whole])[1] == read_config(settings)[1]) == (not taken)
    assert {settings["method"] for settings in ablations.values()} == set(METHODS)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_vectors_of_hidden_items_do_not_depend_on_their_texts_and_others_stay(tiny_data: Path, share: float) -> None:
    dataset = read_dataset(tiny_data, ["films"])
    vectors_ND = np.random.default_rng(0).normal(size=(len(dataset.domains[0].item_ids), 24)).astype(np.float32)
    made_ND = some_without_text(dataset, vectors_ND, share)
    changed_N = (made_ND != vectors_ND).any(axis=1)
    assert changed_N.sum() == round(share * len(vectors_ND))
    assert np.isfinite(made_ND).all()
    others_ND = vectors_ND.copy()
    others_ND[changed_N] = others_ND[changed_N][::-1]  # other texts of the same lengths
    np.testing.assert_array_equal(some_without_text(dataset, others_ND, share)[changed_N], made_ND[changed_N])
