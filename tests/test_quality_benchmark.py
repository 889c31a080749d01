"""The quality benchmark on nearly nothing: what it compares, keeps and counts; no quality is asserted."""

import itertools
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from benchmarks.quality import main
from benchmarks.quality_ablations import ABLATIONS, SERVED, WHOLE, Ablated, variant_of, with_experts
from benchmarks.quality_clock import StageClock
from benchmarks.quality_config import joint_config
from benchmarks.quality_figures import ablation_figures, quality_figures, training_figures
from benchmarks.quality_runs import QualityRun, language_model_report, train_run
from benchmarks.quality_sample import write_sample
from benchmarks.quality_unseen import with_events
from sidera.loading import load_bundle
from tests import tiny
from tests.training.backbone_folders import write_backbone
from training.config import TrainConfig, load_config
from training.data import read_dataset
from training.errors import ConfigError, DataError
from training.evaluation import MODEL, mean_scores
from training.metrics import ABSENT
from training.split import Part, split_events, targets

TRAINED = ("films", "books")
NOTHING: dict[str, Any] = {"tokenizer": {"method": None}, "language_model": {"universal": {}}}


def config_file(folder: Path, data: Path, encoder: Path, backbone: Path | None) -> Path:
    """A config whose encoder and backbone are tiny."""
    document = tiny.config_of(data, folder / "unused", encoder)
    if backbone is not None:
        document["language_model"] |= {"backbone": str(backbone), "experts": {"count": 2, "rank": 2, "alpha": 4}}
    return tiny.write_config(folder / "config.yaml", document)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_encoder: Path) -> tuple[dict[str, Any], Path]:
    """What the program writes with ``--quick`` on a tiny pretrained backbone and an unseen domain; and where."""
    folder = tmp_path_factory.mktemp("quality")
    write_backbone(folder / "llama")
    run_quick(folder, tiny_data, config_file(folder, tiny_data, tiny_encoder, folder / "llama"))
    return json.loads((folder / "out.json").read_text()), folder


def run_quick(folder: Path, data: Path, config: Path) -> None:
    main(
        data=data,
        domains=",".join(TRAINED),
        out=folder / "out.json",
        unseen="games",
        config=config,
        minutes=1e6,
        threads=1,
        device="cpu",
        quick=True,
    )


@pytest.fixture(scope="module")
def joint(quick: tuple[dict[str, Any], Path]) -> QualityRun:
    """The joint run of ``quick``, read back."""
    home = quick[1] / "out.json.work"
    return train_run(home / "joint", load_config(home / "config.yaml"), silent)


def silent(sentence: str) -> None:
    assert "\n" not in sentence


def test_every_domain_has_the_product_the_language_model_and_the_floors_with_intervals_and_differences(
    quick: tuple[dict[str, Any], Path],
) -> None:
    figures = quick[0]["figures"]
    for domain in TRAINED:
        for name in ("sidera", "language_model", "popularity", "bigram", "content-kNN", "sasrec"):
            for kind in ("ndcg", "recall"):
                figure = figures[f"{kind}_{name}_{domain}"]
                low, high = (float(part.strip("%, ")) for part in figure["note"].split("95 % ")[1].split()[0:3:2])
                assert low - 5e-5 <= figure["value"] <= high + 5e-5
        ndcg = {name: figures[f"ndcg_{name}_{domain}"]["value"] for name in ("sidera", "language_model", "bigram")}
        for name in ("sidera", "language_model"):
            difference = figures[f"{name}_minus_bigram_{domain}"]
            assert difference["value"] == pytest.approx(ndcg[name] - ndcg["bigram"])
            assert ", p " in difference["note"]
        assert figures[f"sidera_vs_bigram_{domain}"]["to_reach"] == ">= 0.9"
        assert figures[f"sidera_vs_bigram_{domain}"]["value"] == pytest.approx(ndcg["sidera"] / ndcg["bigram"])
        assert figures[f"sidera_vs_content-kNN_{domain}"]["to_reach"] == "> 1"
    assert figures["training_minutes_joint"]["to_reach"] == "<= 1e+06"


def test_the_language_model_alone_is_the_product_without_its_neighbours(joint: QualityRun) -> None:
    told = language_model_report(joint)
    served, alone = variant_of(joint, SERVED), variant_of(joint, WHOLE)
    assert served.neighbours is not None
    assert alone.neighbours is None
    for domain in TRAINED:
        floors = [found["domains"][domain]["rankers"]["bigram"] for found in (told, joint.manifest.metrics)]
        assert floors[0] == floors[1]
    dataset = joint.dataset()
    own = [target for target in targets(split_events(dataset), Part.TEST) if target.domain == 0]
    scores = mean_scores(alone, dataset.domains, own, "films")
    assert told["domains"]["films"]["rankers"][MODEL]["ndcg@10"] == pytest.approx(scores["ndcg@10"])


def test_an_unseen_domain_is_scored_beside_content_knn_and_popularity(quick: tuple[dict[str, Any], Path]) -> None:
    figures = quick[0]["figures"]
    for name in (MODEL, "content-kNN", "popularity"):
        assert 0 <= figures[f"ndcg_{name}_games"]["value"] <= 1
    assert figures["sidera_vs_content-kNN_games"]["to_reach"] == ">= 1"
    assert "a domain that training never saw" in quick[0]["unseen"]["games"]["notes"][0]
    assert "games" not in quick[0]["runs"]["joint"]["test"]["domains"]


def test_a_memory_of_an_unseen_domains_events_stands_beside_the_floors_of_the_same_targets(
    quick: tuple[dict[str, Any], Path], tiny_data: Path
) -> None:
    written, _ = quick
    with_events, without = (written["unseen"]["games"][kind]["domains"]["games"] for kind in ("with_events", "report"))
    assert with_events["rankers"]["bigram"] == without["rankers"]["bigram"]
    served, zero_shot = (own["rankers"][MODEL]["ndcg@10"] for own in (with_events, without))
    assert served > zero_shot, "every item of this world says which one comes next"
    figures = written["figures"]
    assert figures["ndcg_with_events_games"]["value"] == served
    assert figures["with_events_vs_bigram_games"]["to_reach"] == "> 1"


def test_only_the_train_events_of_an_unseen_domain_are_counted(tiny_bundle: Path, tiny_data: Path) -> None:
    loaded = load_bundle(tiny_bundle, "cpu")
    assert loaded.alike is not None
    dataset = read_dataset(tiny_data, ["games"])
    events = split_events(dataset)
    number_I = np.arange(1000, 1000 + len(dataset.domains[0].item_ids))
    rule = replace(loaded.alike.neighbours.rule, window=1, backward=0.0)
    counting = with_events(replace(loaded.alike.neighbours, rule=rule), number_I, events)
    expected: Counter[tuple[int, int]] = Counter()
    for target in targets(events, Part.VALIDATION):
        items = [item for _, item in target.history]
        expected.update((1000 + before, 1000 + after) for before, after in itertools.pairwise(items))
    assert {(before, after): count for before, after, count in counting.delta} == dict(expected)
    assert counting.shares_of("games").transitions > 0


def test_a_model_of_each_domain_alone_stands_beside_the_joint_one(quick: tuple[dict[str, Any], Path]) -> None:
    written, _ = quick
    for domain in TRAINED:
        own = written["runs"][f"alone-{domain}"]
        assert own["config"]["domains"] == [domain]
        assert own["config"]["language_model"] == written["runs"]["joint"]["config"]["language_model"]
        ndcg = [run["test"]["domains"][domain]["rankers"][MODEL]["ndcg@10"] for run in (written["runs"]["joint"], own)]
        figure = written["figures"][f"sidera_joint_vs_alone_{domain}"]
        assert figure["to_reach"] == ">= 0.95"
        assert figure["value"] == (pytest.approx(ndcg[0] / ndcg[1]) if ndcg[1] else None)
        assert f"language_model_joint_vs_alone_{domain}" in written["figures"]


def test_tokens_and_seconds_of_every_step_are_told(quick: tuple[dict[str, Any], Path]) -> None:
    written, _ = quick
    joint = written["runs"]["joint"]
    assert set(joint["training"]) == {"universal", "adapter films", "adapter books"}
    universal, films, books = (joint["training"][name] for name in ("universal", "adapter films", "adapter books"))
    assert universal["targets"] == films["targets"] + books["targets"]
    assert {"vectors", "tokenizer", "universal", "adapter films", "mixture", "neighbours", "bundle"} <= set(
        joint["seconds"]
    )
    figure = written["figures"]["tokens_joint_universal"]
    assert figure["value"] == universal["tokens"] > 0
    assert "1 epochs, the 1. kept" in figure["note"]


def test_every_switch_answers_the_same_targets_beside_the_papers_direction(quick: tuple[dict[str, Any], Path]) -> None:
    figures = quick[0]["figures"]
    for ablation in ABLATIONS:
        for domain in TRAINED:
            figure = figures[f"ablation_{ablation.name}_{domain}"]
            assert 0 <= figure["value"] <= 1
            assert ", 8 targets" in figure["note"]
            assert f"paper: {ablation.paper}" in figure["note"]
    experts = {name: quick[0]["runs"][name]["config"]["language_model"]["experts"] for name in quick[0]["runs"]}
    assert experts["joint"]["gate"] == "learned"
    assert experts["ablation-average_gate"] == {**experts["joint"], "gate": "average"}
    assert experts["ablation-no_universal_experts"] == {**experts["joint"], "count": 0}


def test_switches_of_the_mixture_change_weights_alone(joint: QualityRun) -> None:
    weighed = json.loads((joint.work / "mixture" / "gammas.json").read_text())
    fixed, constant = (variant_of(joint, f"gamma_{kind}").model for kind in ("fixed", "constant"))
    assert fixed.gammas == dict.fromkeys(TRAINED, 0.5)
    assert constant.gammas == {name: weighed[name]["gamma"] for name in TRAINED}
    assert fixed.router is constant.router is None
    assert variant_of(joint, "no_domain_adapter").model.mixture(TRAINED).num_distributions == 1


def test_a_variant_that_is_trained_anew_takes_over_the_stages_before_the_language_model(
    quick: tuple[dict[str, Any], Path], joint: QualityRun
) -> None:
    other = quick[1] / "out.json.work" / "ablation-average_gate" / "bundle.work"
    for name in ("tokenizer", "backbone"):
        assert (other / name / "stage.json").read_text() == (joint.work / name / "stage.json").read_text()
    taken = (other / "tokenizer" / "tokenizer" / "weights.safetensors").read_bytes()
    assert taken == (joint.work / "tokenizer" / "tokenizer" / "weights.safetensors").read_bytes()
    shards = [work.glob("vectors/*/shard-*.safetensors") for work in (joint.work, other)]
    assert len({path.stat().st_mtime_ns for of_run in shards for path in of_run}) == len(TRAINED)  # copied, not made
    assert not list(other.glob("*.copying"))


def test_a_second_call_keeps_everything_and_writes_the_same_figures(
    quick: tuple[dict[str, Any], Path], tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, folder = quick

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was done already")

    for place in ("quality_ablations.recommend_for", "quality_ablations.recommend_without_trie"):
        monkeypatch.setattr(f"benchmarks.{place}", never)
    for place in ("quality_runs.evaluate", "quality_unseen.evaluate"):
        monkeypatch.setattr(f"benchmarks.{place}", never)
    monkeypatch.setattr("training.pipeline._run_stages", never)
    run_quick(folder, tiny_data, folder / "config.yaml")
    again = json.loads((folder / "out.json").read_text())
    assert again["figures"] == written["figures"]


def test_one_domain_is_to_be_above_the_bigram_and_several_are_to_reach_nine_tenths_of_it() -> None:
    def part(ndcg: float) -> dict[str, Any]:
        own = {"targets": 10, "recall@10": 0.5, "ndcg@10": ndcg, "ndcg@10_interval": [0.0, 1.0]}
        floor = own | {"ndcg@10": 0.2}
        nothing = {"mean": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
        rankers = {MODEL: own} | dict.fromkeys(("popularity", "bigram", "content-kNN"), floor)
        return {"rankers": rankers, "differences": {"bigram": nothing}}

    def holds(figure: str, **ndcg: float) -> bool | None:
        told = {"domains": {name: part(value) for name, value in ndcg.items()}}
        return quality_figures(told, told)[figure].holds

    assert holds("sidera_vs_bigram_a", a=0.19) is False
    assert holds("sidera_vs_bigram_a", a=0.2) is False
    assert holds("sidera_vs_bigram_a", a=0.21) is True
    assert holds("sidera_vs_content-kNN_a", a=0.19) is None
    assert holds("sidera_vs_bigram_a", a=0.19, b=0.3) is True
    assert holds("sidera_vs_bigram_a", a=0.17, b=0.3) is False
    assert holds("sidera_vs_content-kNN_a", a=0.19, b=0.3) is False
    assert holds("sidera_vs_content-kNN_b", a=0.19, b=0.3) is True
    assert holds("language_model_vs_bigram_a", a=0.1, b=0.3) is None


def test_the_effect_of_a_switch_is_paired_and_says_whether_it_is_clear() -> None:
    best, missed = np.zeros(200, dtype=np.int64), np.full(200, ABSENT)
    half = np.where(np.arange(200) % 2 == 0, 0, ABSENT)
    ranks = {ablation.name: best for ablation in ABLATIONS}
    ranks |= {WHOLE: half, SERVED: best, "no_trie": missed, "no_neighbours": half, "gamma_fixed": half}
    figures = ablation_figures(Ablated({"films": ranks}, {"average_gate": "it is trained so already"}, ()))
    assert figures["ablation_no_trie_films"].value == 0
    assert "(-100.0%)" in figures["ablation_no_trie_films"].note
    assert figures["ablation_no_trie_films"].note.endswith("here: falls")
    assert figures["ablation_gamma_constant_films"].note.endswith("here: rises")
    assert figures["ablation_gamma_fixed_films"].note.endswith("here: no clear change")
    assert figures["ablation_no_neighbours_films"].note.startswith("served 1.0000 (-50.0%)")
    assert figures["ablation_average_gate_films"].value is None
    assert figures["ablation_average_gate_films"].note == "it is trained so already"


def test_a_scratch_backbone_has_no_experts_to_leave_out(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> None:
    config = load_config(config_file(tmp_path, tiny_data, tiny_encoder, None))
    with pytest.raises(ValueError, match="the backbone has no universal experts; take a pretrained one"):
        with_experts(config, {"count": 0})


def test_seconds_go_to_the_step_that_ends_and_those_without_one_to_the_next_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with StageClock(tmp_path / "seconds.json", "a") as clock:
        now += 3
        clock.told("vectors: 5 items")
        now += 10
        clock.told("universal: validation Recall@10 0.1")
        now += 4
    with StageClock(tmp_path / "seconds.json", "a") as again:
        now += 1
        again.told("vectors: 5 items")
        now += 5
        again.told("universal: trained, scratch:tiny, validation Recall@10 0.2")
        now += 2
        again.told("everything kept: nothing has changed")
    assert again.seconds == {"vectors": 4, "universal": 19}
    with StageClock(tmp_path / "seconds.json", "b") as other:
        assert other.seconds == {}


def test_what_has_passed_is_written_while_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    with StageClock(path, "a", beat_seconds=0.001):
        while not path.exists():
            time.sleep(0.001)
        assert json.loads(path.read_text())["seconds"] == {}


def test_learning_is_what_the_limit_of_minutes_is_for(joint: QualityRun) -> None:
    run = replace(joint, seconds={"vectors": 600.0, "tokenizer": 60.0, "adapter films": 120.0, "bundle": 300.0})
    figures = training_figures("joint", run, 3.0)
    assert figures["training_minutes_joint"].value == 3.0
    assert figures["training_minutes_joint"].holds is True
    assert figures["other_minutes_joint"].value == 15.0
    assert "test part and bundle 5.0" in figures["other_minutes_joint"].note


def test_a_sample_has_a_few_users_with_all_of_their_events_and_the_items_of_these(
    tmp_path: Path, tiny_data: Path
) -> None:
    whole, sample = (
        read_dataset(folder, TRAINED) for folder in (tiny_data, write_sample(tiny_data, TRAINED, 5, tmp_path / "data"))
    )
    assert len(sample.users) == 5
    for domain, original in zip(sample.domains, whole.domains, strict=True):
        events = [
            [(data.users[user], part.item_ids[item], when) for user, item, when in zip(*rows, strict=True)]
            for data, part in ((sample, domain), (whole, original))
            for rows in [(part.user_E.tolist(), part.item_E.tolist(), part.time_E.tolist())]
        ]
        assert events[0] == [row for row in events[1] if row[0] in sample.users]
        assert set(domain.item_ids) == {item for _, item, _ in events[0]}
        known = dict(zip(original.item_ids, original.fields, strict=True))
        assert list(domain.fields) == [known[item_id] for item_id in domain.item_ids]
    assert len([target for target in targets(split_events(sample), Part.TEST) if target.domain == 0]) == 5


def test_a_domain_without_a_user_of_three_events_is_refused_at_once(tmp_path: Path, tiny_data: Path) -> None:
    tiny.write_domain(tmp_path / "data" / "songs", [{"item_id": "a", "title": "blue"}], [("one", "a", 1_600_000_000)])
    with pytest.raises(DataError, match="domain 'songs': no user has 3 events"):
        write_sample(tmp_path / "data", ["songs"], 5, tmp_path / "sample")


def test_options_stand_on_top_of_the_config_and_defaults_are_the_products(tmp_path: Path, tiny_data: Path) -> None:
    given: dict[str, Any] = {
        "data": str(tiny_data),
        "domains": ["films"],
        "seed": None,
        "tokenizer": {"method": None},
        "language_model": {
            "dropout": None,
            "universal": {"epochs": 7, "batch_tokens": None},
            "domain": {"optimizer": {"batch_tokens": None}},
        },
    }
    plain = joint_config(None, given, tmp_path / "plain")
    assert plain.language_model.universal.epochs == 7
    defaults = TrainConfig(plain.data, plain.out, {}, replace(plain.language_model))
    assert plain.language_model.domain == type(plain.language_model).__dataclass_fields__["domain"].default
    assert (plain.seed, plain.encoder, plain.neighbours) == (defaults.seed, defaults.encoder, defaults.neighbours)

    given["language_model"]["domain"]["optimizer"]["batch_tokens"] = 512
    changed = joint_config(None, given, tmp_path / "changed").language_model
    assert changed.domain is not None
    assert plain.language_model.domain is not None
    own = plain.language_model.domain.optimizer
    assert changed.domain.optimizer == replace(own, batch_tokens=512)

    base = tmp_path / "base.yaml"
    settings = {"universal": {"epochs": 2, "learning_rate": 0.1}, "domain": None}
    document = {"tokenizer": {"method": "rqkmeans", "iterations": 3}, "language_model": settings, "seed": 4}
    base.write_text(yaml.safe_dump(document))
    kept = joint_config(base, given, tmp_path / "based")
    assert (kept.language_model.universal.epochs, kept.language_model.universal.learning_rate) == (7, 0.1)
    assert kept.language_model.domain is None
    assert (kept.seed, kept.tokenizer) == (4, {"method": "rqkmeans", "iterations": 3})
    other = joint_config(base, {**given, "tokenizer": {"method": "rqvae"}}, tmp_path / "other")
    assert other.tokenizer == {"method": "rqvae"}


def test_what_cannot_be_measured_is_refused_in_one_sentence(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    for domains, unseen, sentence in (
        ("films", "films", "domain 'films' is among --domains and --unseen; name it once"),
        (",", "", "--domains names no domain; name at least one, as A,B"),
        ("music", "", "there is no domain 'music'"),
    ):
        with pytest.raises(typer.Exit):
            main(data=tiny_data, domains=domains, out=out, unseen=unseen, quick=True)
        assert sentence in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        main(data=tiny_data, domains="films", out=out, alone=True)
    assert "--alone: the model learns from 'films' alone; name several --domains" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="the config cannot be read"):
        joint_config(tmp_path / "nowhere.yaml", NOTHING, tmp_path)
    assert not out.exists()
