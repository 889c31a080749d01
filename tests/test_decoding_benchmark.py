"""The machinery of the decoding benchmark: shapes, histories and made-up tries; what it measures is never asserted."""

import json
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from benchmarks import decoding, decoding_subject
from benchmarks.decoding_batches import share_kept, with_threads
from benchmarks.decoding_mixture import write_random_adapter
from benchmarks.decoding_ratios import PassClock, universal_batch
from benchmarks.decoding_returning import measure_returning
from benchmarks.decoding_scope import Scope, Shape
from benchmarks.decoding_subject import Subject, load_subject, pretrained_subject
from benchmarks.decoding_synthetic import branching_trie, measure_filter, measure_growth, uneven_trie
from sidera.beam_search import beam_search
from sidera.bundle import open_bundle
from sidera.decoding import walk
from sidera.errors import BackboneError, BundleError
from sidera.language_model import LanguageModel
from sidera.loading import load_bundle, load_bundle_backbone
from sidera.model.linear_layers import linear_layers, upper_half
from sidera.recommender import Recommendation, RecommendedItem
from sidera.trie import tables_of
from tests.sidera.worlds import random_backbone
from tests.training.backbone_folders import write_backbone
from training.config import TrainConfig

SMALL = Scope(
    rounds=2,
    generate_rounds=2,
    lengths=(4,),
    beams=(10,),
    batches=(1, 2),
    sizes=(64, 256),
    filtered=200,
)


@pytest.fixture(scope="module")
def subject(tiny_bundle: Path, tiny_data: Path) -> Subject:
    return load_subject(tiny_bundle, tiny_data, "films", "cpu")[0]


def test_every_batch_size_is_measured_with_every_history_and_beam_width() -> None:
    shapes = Scope(lengths=(20, 50), beams=(20, 50)).shapes((1, 8))
    assert len(shapes) == len(set(map(str, shapes))) == 8
    assert str(Shape(8, 50, 20)) == "batch_8_history_50_beams_20"
    assert Scope().rounds_of(1, 60) == 60
    assert Scope().rounds_of(16, 60) == 8
    assert Scope().rounds_of(32, 3) == 2
    assert (Scope(large_rounds=5).large().rounds, Scope(generate_rounds=3).large().generate_rounds) == (5, 2)


def test_the_pretrained_backbone_gets_batches_where_there_is_a_gpu() -> None:
    assert Scope.on("cpu").large_batches == (1,)
    assert Scope.on("cuda").large_batches == (1, 8, 32)


def test_histories_have_exactly_the_asked_length_and_are_the_newest_items_of_real_ones(subject: Subject) -> None:
    queries = subject.queries(40, length=4, beams=3, results=2)
    ends = {history[-4:] for history in subject.real if len(history) >= 4}
    assert {query.history for query in queries} <= ends
    assert [(query.domain, query.num_results, query.beam_width) for query in queries] == [("films", 2, 3)] * 40
    batches = subject.batches(2, size=3, length=4, beams=3)
    assert [query for batch in batches for query in batch] == subject.queries(6, length=4, beams=3, results=3)


def test_threads_are_those_asked_for_within_a_call_and_those_before_it_afterwards() -> None:
    before = torch.get_num_threads()
    within = list[int]()

    def call(fails: bool) -> None:
        within.append(torch.get_num_threads())
        if fails:
            raise KeyError

    with_threads(before + 1, call)(False)
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError):
        with_threads(before + 2, call)(True)
    assert torch.get_num_threads() == before
    assert within == [before + 1, before + 2]


def test_where_no_history_is_long_enough_several_are_joined() -> None:
    class Reads:
        max_history = 9

    real = [tuple(("films", f"{user}{place}") for place in range(3)) for user in "abc"]
    joined = Subject(Reads(), "films", real)  # type: ignore[arg-type]
    assert [len(query.history) for query in joined.queries(3, length=4, beams=1, results=1)] == [4, 4, 4]
    assert joined.queries(1, length=4, beams=1, results=1)[0].history == (*real[0], real[1][0])
    with pytest.raises(BundleError, match="fewer than 9 items in all"):
        replace(joined, real=real[:2]).queries(1, length=9, beams=1, results=1)
    with pytest.raises(BundleError, match=r"reads 9 items, 10 are to be measured; .*max_history: 60"):
        joined.queries(1, length=10, beams=1, results=1)


@pytest.mark.parametrize("items", [8, 9, 30, 100, 4 * 5 * 6])
def test_a_branching_trie_has_the_asked_leaves_and_no_node_of_one_child(items: int) -> None:
    trie = branching_trie(items, (4, 5, 6))
    sids_NL = trie.sids()
    assert sids_NL.shape == (items, 3)
    assert len(np.unique(sids_NL, axis=0)) == items
    assert ((sids_NL >= 0) & (sids_NL < (4, 5, 6))).all()
    assert all((np.diff(first_child) >= 2).all() for first_child in trie.first_child)
    for codes, first_child in zip(trie.codes, trie.first_child, strict=True):
        for begin, end in pairwise(first_child):
            assert (np.diff(codes[begin:end].astype(int)) > 0).all()


@pytest.mark.parametrize("items", [7, 121])
def test_a_trie_that_cannot_branch_everywhere_is_refused(items: int) -> None:
    with pytest.raises(ValueError, match=f"{items} items have no trie of"):
        branching_trie(items, (4, 5, 6))


def test_an_uneven_trie_has_the_asked_leaves_and_nodes_of_one_child() -> None:
    trie = uneven_trie(50, (4, 5, 6))
    assert trie.num_leaves == 50
    assert any((np.diff(first_child) == 1).any() for first_child in trie.first_child)


@pytest.fixture
def never_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """No children are fed with their parents."""
    monkeypatch.setattr(walk, "_PASS_TOKENS", {"cpu": 0})


@pytest.mark.usefixtures("never_ahead")
def test_nothing_is_finished_early_in_a_branching_trie(subject: Subject) -> None:
    sizes = subject.recommender.model.vocabulary.codebook_sizes
    tables = tables_of([branching_trie(256, sizes)])
    batch = universal_batch(subject, subject.queries(1, 4, 3, 3))
    batch = replace(batch, roots_B=torch.zeros(1, dtype=torch.int64))
    found = beam_search(subject.recommender.model, tables, batch, 3)
    assert (found.passes, found.tokens_fed) == (2, 6)


@pytest.mark.usefixtures("never_ahead")
def test_only_the_passes_of_the_backbone_are_clocked_and_their_shapes_kept(subject: Subject) -> None:
    ticks = count()
    model = subject.recommender.model
    tables = tables_of([branching_trie(256, model.vocabulary.codebook_sizes)])
    query = subject.queries(1, 4, 3, 3)[0]
    batch = replace(universal_batch(subject, [query]), roots_B=torch.zeros(1, dtype=torch.int64))
    clock = PassClock(model, lambda: float(next(ticks)))
    beam_search(model, tables, batch, 3)
    assert clock.seconds == 3
    assert clock.shapes == [(1, len(subject.recommender.prompt(query))), (1, 3), (1, 3)]
    clock.close()
    beam_search(model, tables, batch, 3)
    assert clock.seconds == 3


def test_random_adapters_change_the_layers_that_they_name(subject: Subject, tiny_bundle: Path, tmp_path: Path) -> None:
    backbone = load_bundle_backbone(open_bundle(tiny_bundle), "cpu")
    names = upper_half(backbone)
    assert set(names) < set(linear_layers(backbone))
    write_random_adapter(backbone, names, tmp_path)
    tokens_BP = torch.tensor([subject.recommender.prompt(subject.queries(1, 4, 3, 3)[0])])
    adapted = LanguageModel(backbone, subject.recommender.model.vocabulary, {"films": tmp_path}, {"films": 0.5})
    hidden_MBPD = adapted.read(tokens_BP, torch.zeros(1, dtype=torch.int64))
    assert not torch.allclose(hidden_MBPD[0], hidden_MBPD[1], atol=1e-4)


def test_a_pretrained_backbone_recommends_from_the_same_catalog(subject: Subject, tmp_path: Path) -> None:
    write_backbone(tmp_path)
    larger = pretrained_subject(subject, tmp_path)
    answer = larger.recommender.recommend(larger.queries(1, 4, 3, 3))[0]
    assert len(answer.items) == 3
    assert larger.recommender.catalog is subject.recommender.catalog
    random_backbone("llama", max_position_embeddings=32).save_pretrained(tmp_path / "short")
    with pytest.raises(BackboneError, match=r"reads 32 tokens, \d+ are needed"):
        pretrained_subject(subject, tmp_path / "short")


def test_a_filter_and_a_larger_catalog_are_measured(subject: Subject) -> None:
    figures = measure_filter(subject, replace(SMALL, filtered=256), "filter")
    assert figures["filter_results"].value == 3
    assert figures["filter_results"].holds is False
    grown = measure_growth(subject, SMALL, "growth")
    assert {name for name, figure in grown.items() if figure.to_reach} == {"growth", "growth_worst"}
    assert "256 items against 64" in grown["growth"].note


def test_a_returning_user_s_items_are_not_read_again(subject: Subject, tiny_bundle: Path) -> None:
    figures = measure_returning(subject, load_bundle(tiny_bundle, "cpu").recommender, SMALL, "returning")
    assert figures["returning_reused_items"].value == 4
    alone = replace(subject, real=subject.real[:1])
    with pytest.raises(BundleError, match="different histories"):
        measure_returning(alone, load_bundle(tiny_bundle, "cpu").recommender, replace(SMALL, lengths=(2,)), "returning")


def test_the_program_measures_a_bundle_and_a_pretrained_backbone(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backbone(tmp_path / "backbone")
    monkeypatch.setattr(decoding, "QUICK", SMALL)
    options = ["--data", tiny_data, "--domain", "films", "--bundle", tiny_bundle, "--pretrained", tmp_path / "backbone"]
    told = _run(*options, "--quick", "--out", tmp_path / "out.json")
    assert told.exit_code == 0, told.output
    document = json.loads((tmp_path / "out.json").read_text())
    judged = {name for name, figure in document["figures"].items() if figure["to_reach"] is not None}
    medians = {name for name in judged if f"{name}_worst" in judged}
    assert medians == {
        "batched_vs_single",
        "filter_vs_none",
        "generate_vs_beam_batch_1",
        "generate_vs_beam_batch_2",
        "growth",
        "large_generate_vs_beam_batch_1",
        "large_returning_vs_new",
        "large_search_share",
        "mixture_vs_universal_all",
        "mixture_vs_universal_upper_half",
        "recommend_vs_bare",
        "recommend_vs_bare_model_alone",
        "returning_vs_new",
    }
    for name in ("generate_vs_beam_same_items", "large_generate_vs_beam_same_items"):
        assert document["figures"][name]["value"] == 1.0
    assert {"weights_int8_items_kept", "weights_bfloat16_items_kept"} <= document["figures"].keys()
    assert document["pretrained"] == "backbone"
    summary = told.output[told.output.index("What there is to reach") :]
    assert all(name in summary for name in medians)
    assert "recommend_vs_bare_worst" not in summary


def test_some_measurements_alone(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "QUICK", SMALL)
    options = ["--data", tiny_data, "--domain", "films", "--bundle", tiny_bundle, "--out", tmp_path / "out.json"]
    for only, said in [("speed", "is no measurement; use recommend_vs_bare"), ("large_search_share", "--pretrained")]:
        told = _run(*options, "--only", only)
        assert told.exit_code == 1
        assert said in " ".join(told.output.split())
    told = _run(*options, "--quick", "--only", "visited", "--only", "search_share")
    assert told.exit_code == 0, told.output
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert {name.split("_")[0] for name in figures} == {"visited", "search"}


def test_the_share_of_items_that_stay_is_of_the_items_before() -> None:
    def answer(*ids: str) -> Recommendation:
        items = tuple(RecommendedItem(item_id, -1.0, (0,), None) for item_id in ids)
        return Recommendation(items, missing=(), exact=True, fallback=None, returned_reason=None, beams=4)

    assert share_kept(answer("a", "b", "c", "d"), answer("d", "x", "a", "y", "z")) == 0.5
    assert share_kept(answer("a", "b"), answer("b", "a")) == 1.0


def test_without_a_bundle_one_is_trained_from_the_options(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[TrainConfig] = []
    monkeypatch.setattr(decoding_subject, "train", lambda config, say: configs.append(config))
    bundle = decoding_subject.train_bundle(tiny_data, "films", tmp_path, 3, "cpu", lambda told: None)
    (config,) = configs
    assert str(bundle) == config.out
    assert tmp_path in bundle.parents
    model = config.language_model
    assert (config.domains, config.codebook_sizes) == (("films",), (256, 256, 256, 256))
    assert (model.backbone, model.universal.epochs) == ("scratch:small", 3)
    assert model.max_history > max(Scope().lengths)


def test_a_domain_that_the_bundle_lacks_is_one_sentence(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    told = _run("--data", tiny_data, "--domain", "songs", "--bundle", tiny_bundle, "--out", tmp_path / "out.json")
    assert told.exit_code == 1
    assert "no domain 'songs'; choose one of" in told.output


def _run(*options: object) -> Result:
    app = typer.Typer()
    app.command()(decoding.main)
    return CliRunner().invoke(app, list(map(str, options)))
