"""The stage that weighs the distributions: what it chooses, what it keeps, and what it resumes from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import BundleError
from sidera.language_model import LanguageModel
from sidera.loading import load_bundle
from sidera.model.user_router import load_router
from sidera.model.vocabulary import Vocabulary
from sidera.recommender import Query, Recommender
from tests import tiny
from tests.sidera.worlds import random_sids, write_adapter
from training import mixture_stage as module
from training.backbones import load_universal, new_backbone, save_universal
from training.config import load_config
from training.data import read_dataset
from training.evaluation import evaluate
from training.mixture_stage import Weighed, mixture_stage
from training.pipeline import train
from training.run import Run
from training.split import Part, hold_out, split_events, targets
from training.stages import Stage
from training.user_router import Transitions

SIZES = (8, 8, 8)
ADAPTED = ("books", "films")
Scorer = Callable[..., Transitions]


class World:
    """A run whose models have random weights; ``games`` has no adapter."""

    def __init__(self, folder: Path, data: Path, encoder: Path, **router: Any) -> None:
        document = tiny.config_of(data, folder / "bundle", encoder)
        document["language_model"]["router"] = {"share": 0.5, "hidden": 8, "epochs": 30, "learning_rate": 0.01} | router
        config = load_config(tiny.write_config(folder / "config.yaml", document))
        dataset = read_dataset(data)
        events = split_events(dataset)
        if share := config.language_model.router_share:
            events = hold_out(events, share, config.language_model.router.most, config.seed)
        self.said: list[str] = []
        self.run = Run(config, dataset, events, folder / "work", "cpu", self.said.append)
        self.vocabulary = Vocabulary(SIZES, {name: row for row, name in enumerate(self.run.names)})
        self.catalog = self._catalog()
        self.universal = Stage(folder / "universal", "universal", True)
        self.adapters = {name: Stage(folder / f"adapter-{name}", name, True) for name in ADAPTED}
        if not self.universal.folder.exists():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                backbone = new_backbone("scratch:tiny", self.vocabulary, 60)
                for weight in backbone.parameters():
                    torch.nn.init.normal_(weight, std=0.1)
            for seed, made in enumerate(self.adapters.values()):
                write_adapter(made.folder / "adapter", backbone, seed, targets=("q_proj", "down_proj"))
            save_universal(backbone, self.universal.folder)

    def weigh(self) -> Weighed:
        return mixture_stage(self.run, self.vocabulary, self.catalog, self.universal, self.adapters)

    def report(self) -> dict[str, Any]:
        """``gammas.json``."""
        document: dict[str, Any] = json.loads((self.run.work / "mixture" / "gammas.json").read_text())
        return document

    def _catalog(self) -> Catalog:
        rng = np.random.default_rng(0)
        items = []
        for domain in self.run.dataset.domains:
            sids = random_sids(rng, len(domain.item_ids), SIZES)
            items += [
                CatalogItem(domain.name, item_id, sid, None, {})
                for item_id, sid in zip(domain.item_ids, sids, strict=True)
            ]
        return create_catalog(items, SIZES)


Build = Callable[..., World]


@pytest.fixture
def build(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> Build:
    return lambda **router: World(tmp_path, tiny_data, tiny_encoder, **router)


def made_up(asked: list[tuple[str, str, int]]) -> Scorer:
    """In ``films`` the user vector tells which distribution is right; in ``books`` nothing tells."""

    def score(model: Any, tables: Any, prompts: list[Any], leaves: list[int], domain: str, label: str) -> Transitions:
        asked.append((domain, label.split()[-2], len(prompts)))
        assert len(leaves) == len(prompts)
        generator = torch.Generator().manual_seed(len(asked))
        user_XD = torch.zeros(120, 128)
        user_XD[:, 0] = torch.randn(120, generator=generator)
        right_X = user_XD[:, 0] > 0
        if domain == "books":
            right_X = torch.rand(120, generator=generator) > 0.5
        user_XD[:, 1] = 5.0 if domain == "books" else -5.0
        return Transitions(
            torch.stack([torch.where(right_X, 0.05, 0.6), torch.where(right_X, 0.6, 0.05)]).log(), user_XD
        )

    return score


def test_the_router_decides_only_where_validation_is_likelier_with_it(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build()
    asked: list[tuple[str, str, int]] = []
    monkeypatch.setattr(module, "score_transitions", made_up(asked))
    weighed = world.weigh()
    held_out = targets(world.run.events, Part.ROUTER)
    expected = [(name, "validation", 8) for name in ADAPTED]
    for domain, name in enumerate(ADAPTED):
        expected.append((name, "router", sum(target.domain == domain for target in held_out)))
    assert asked == expected
    assert weighed.routed == {"films"}
    assert weighed.router is not None
    assert load_router(weighed.router).domains == ("films",)
    report = world.report()
    assert (report["books"]["by"], report["films"]["by"]) == ("constant", "router")
    assert report["films"]["router_log_likelihood"] > report["films"]["log_likelihood"] + 0.1
    assert report["books"]["router_log_likelihood"] <= report["books"]["log_likelihood"] + 1e-6
    assert set(weighed.adapters(world.adapters)) == {"books", "films"}
    assert "films by the router, gamma 0." in world.said[-1]
    assert "as the router is not better" in world.said[-1]


def test_a_routed_domain_keeps_its_adapter_even_where_the_best_constant_is_0(build: Build) -> None:
    world = build()
    made = Stage(world.run.work, "digest", True)
    weighed = Weighed(made, {"books": 0.0, "films": 0.0}, None, frozenset({"films"}))
    assert set(weighed.adapters(world.adapters)) == {"films"}


def test_real_models_are_scored_and_their_mixture_loads(build: Build) -> None:
    world = build()
    weighed = world.weigh()
    report = world.report()
    assert set(report) == set(ADAPTED)
    for about in report.values():
        assert about["log_likelihood"] == pytest.approx(max(about["constants"]), abs=1e-5)
        assert about["transitions"] > 10
    backbone = load_universal(world.universal.folder)
    used = weighed.adapters(world.adapters)
    LanguageModel(backbone, world.vocabulary, used, weighed.gammas, weighed.loaded_router())


def test_without_a_learned_router_nothing_is_held_out_and_constants_are_chosen(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(kind="constant")
    assert not (world.run.events.part_E == Part.ROUTER).any()
    asked: list[tuple[str, str, int]] = []
    monkeypatch.setattr(module, "score_transitions", made_up(asked))
    weighed = world.weigh()
    assert {kind for _, kind, _ in asked} == {"validation"}
    assert weighed.router is None
    assert {about["by"] for about in world.report().values()} == {"constant"}


def test_a_fixed_gamma_is_taken_as_it_is_and_nothing_is_scored(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    world = build(kind="fixed", gamma=0.5)
    assert not (world.run.events.part_E == Part.ROUTER).any()
    monkeypatch.setattr(module, "score_transitions", None)
    weighed = world.weigh()
    assert weighed.gammas == {"books": 0.5, "films": 0.5}
    assert weighed.router is None
    assert world.said[-1] == "mixture: books gamma 0.50, as set; films gamma 0.50, as set"


def test_without_adapters_the_universal_distribution_speaks_alone(build: Build) -> None:
    world = build()
    world.adapters = {}
    weighed = world.weigh()
    assert (weighed.gammas, weighed.router, weighed.routed) == ({}, None, frozenset())
    assert world.said[-1] == "mixture: universal alone"


def test_a_killed_stage_goes_on_with_what_was_scored_and_ends_as_an_undisturbed_one(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build()
    asked: list[tuple[str, str, int]] = []
    whole = made_up(asked)

    def killed(*arguments: Any) -> Transitions:
        if len(asked) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(module, "score_transitions", killed)
    with pytest.raises(KeyboardInterrupt):
        world.weigh()
    monkeypatch.setattr(module, "score_transitions", whole)
    weighed = world.weigh()
    assert [(name, kind) for name, kind, _ in asked] == [
        ("books", "validation"),
        ("films", "validation"),
        ("books", "router"),
        ("films", "router"),
    ]
    assert weighed.router is not None
    first = weighed.router.read_bytes(), world.report()
    (world.run.work / "mixture" / "stage.json").unlink()
    asked.clear()
    again = world.weigh()
    assert again.router is not None
    assert (again.router.read_bytes(), world.report()) == first


def test_another_share_or_kind_makes_the_stage_again(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int]] = []
    monkeypatch.setattr(module, "score_transitions", made_up(asked))
    changes: list[dict[str, Any]] = [{}, {}, {"kl_weight": 0.5}, {"kind": "constant"}]
    for count, router in enumerate(changes):
        build(**router).weigh()
        assert len(asked) == [4, 4, 8, 10][count]


def test_a_bundle_carries_the_router_and_answers_as_the_models_in_memory(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle.parent / "bundle.work", tmp_path / "bundle.work")
    for name in ("mixture", "evaluation"):
        shutil.rmtree(tmp_path / "bundle.work" / name)
    in_memory: list[Recommender] = []

    def watched(recommender: Recommender, *rest: Any) -> dict[str, Any]:
        in_memory.append(recommender)
        return evaluate(recommender, *rest)

    monkeypatch.setattr("training.pipeline.evaluate", watched)
    monkeypatch.setattr(module, "is_likelier", lambda log_likelihood, than: True)
    config = load_config(tiny_bundle.parent / "config.yaml", {"out": str(tmp_path / "bundle")})
    manifest = train(config, lambda sentence: None)
    assert manifest.parts["language_model"]["router"] == "adapters/router.safetensors"
    assert "adapters/router.safetensors" in manifest.files
    loaded = load_bundle(tmp_path / "bundle", "cpu")
    router, trained = loaded.recommender.model.router, in_memory[0].model.router
    assert router is not None
    assert trained is not None
    assert router.domains == trained.domains == tuple(tiny.DOMAINS)
    queries = [
        Query(sample["domain"], tuple((entry["domain"], entry["item_id"]) for entry in sample["history"]))
        for sample in loaded.samples
    ]
    answers, before = loaded.recommender.recommend(queries), in_memory[0].recommend(queries)
    for answer, expected in zip(answers, before, strict=True):
        assert [item.item_id for item in answer.items] == [item.item_id for item in expected.items]
        # The last bit of a sum depends on what a history cache held before.
        assert [item.score for item in answer.items] == pytest.approx([item.score for item in expected.items], abs=1e-5)

    content = bytearray((tmp_path / "bundle" / "adapters" / "router.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "bundle" / "adapters" / "router.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match=r"adapters/router\.safetensors was changed"):
        load_bundle(tmp_path / "bundle", "cpu")
