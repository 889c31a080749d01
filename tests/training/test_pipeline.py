"""The whole way from a data folder to a bundle: kept, resumed, on odd data, and that it learns."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sidera.bundle import open_bundle, verify_bundle
from sidera.loading import load_bundle
from sidera.recommender import Query
from tests import processes, tiny
from tests.training.killed import killed_train
from training.bundle_evaluation import evaluate_bundle
from training.config import TrainConfig, load_config
from training.errors import ConfigError, DataError
from training.pipeline import train

REAL = 1_600_000_000


def config_in(folder: Path, data: Path, encoder: Path, **changes: Any) -> TrainConfig:
    document = tiny.config_of(data, folder / "bundle", encoder) | changes
    return load_config(tiny.write_config(folder / "config.yaml", document))


def files_of(bundle: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bundle)): path.read_bytes() for path in sorted(bundle.rglob("*")) if path.is_file()}


@pytest.fixture
def run_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the stages of the tiny bundle, whose own bundle is still to be written."""
    shutil.copytree(tiny_bundle.parent / "bundle.work", tmp_path / "bundle.work")
    return tmp_path


def test_a_second_run_keeps_everything_and_the_bundle_as_it_is(
    run_copy: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    config = config_in(run_copy, tiny_data, tiny_encoder)
    said: list[str] = []
    train(config, said.append)
    assert sum("kept" in sentence for sentence in said) == 5
    before = files_of(run_copy / "bundle")
    inode = (run_copy / "bundle").stat().st_ino
    said.clear()
    manifest = train(config, said.append)
    assert said == [f"everything kept: neither config nor data have changed since {run_copy / 'bundle'} was written"]
    assert files_of(run_copy / "bundle") == before
    assert (run_copy / "bundle").stat().st_ino == inode
    assert manifest == open_bundle(run_copy / "bundle").manifest


def test_a_bundle_that_was_removed_or_damaged_is_written_again_from_the_stages(
    run_copy: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    config = config_in(run_copy, tiny_data, tiny_encoder)
    train(config, lambda sentence: None)
    weights = run_copy / "bundle" / "backbone" / "model.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    for damaged, content in ((run_copy / "bundle" / "manifest.json", b"{}"), (weights, bytes(flipped))):
        damaged.write_bytes(content)
        said: list[str] = []
        train(config, said.append)
        assert verify_bundle(run_copy / "bundle") == []
        assert sum("kept" in sentence for sentence in said) == 5


def test_another_setting_of_phase_2_trains_the_adapters_again_and_nothing_before_them(
    run_copy: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    document = tiny.config_of(tiny_data, run_copy / "bundle", tiny_encoder)
    document["language_model"]["domain"]["rank"] = 2
    said: list[str] = []
    train(load_config(tiny.write_config(run_copy / "config.yaml", document)), said.append)
    done = [sentence.split(",")[0] for sentence in said if "kept" in sentence or "trained" in sentence]
    assert done == ["tokenizer: kept", "universal: kept", *(f"adapter {name}: trained" for name in tiny.DOMAINS)]


def test_a_run_killed_at_many_moments_writes_the_weights_of_an_undisturbed_one(
    tiny_bundle: Path, tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    path = tiny.write_config(tmp_path / "config.yaml", tiny.config_of(tiny_data, tmp_path / "bundle", tiny_encoder))
    moments = [
        "vectors/films",
        "tokenizer/tokenizer",
        "universal/training/checkpoint.pt",
        "universal/backbone",
        "adapter-films/training",
        "adapter-games/adapter",
        "evaluation",
    ]
    ran = processes.run(killed_train, path, [tmp_path / "bundle.work" / moment for moment in moments])
    assert ran.code == 0, ran.said
    assert "Traceback" not in ran.said
    assert "Warning" not in ran.said
    killed, undisturbed = files_of(tmp_path / "bundle"), files_of(tiny_bundle)
    del killed["manifest.json"], undisturbed["manifest.json"]
    assert killed.keys() == undisturbed.keys()
    assert [name for name in killed if killed[name] != undisturbed[name]] == []
    assert open_bundle(tmp_path / "bundle").manifest.metrics == open_bundle(tiny_bundle).manifest.metrics


def test_training_learns_the_checkerboard(tmp_path: Path, tiny_encoder: Path) -> None:
    data = tiny.write_data(tmp_path / "data", {"books": 24}, users=60, steps=9)
    document = tiny.config_of(data, tmp_path / "bundle", tiny_encoder)
    document["language_model"]["universal"] = {"epochs": 10, "learning_rate": 0.003, "batch_tokens": 512}
    manifest = train(load_config(tiny.write_config(tmp_path / "config.yaml", document)), lambda sentence: None)
    rankers = manifest.metrics["domains"]["books"]["rankers"]
    assert rankers["sidera"]["ndcg@10"] > 0.8
    assert rankers["popularity"]["ndcg@10"] < 0.4
    assert manifest.metrics["pooled"]["differences"]["popularity"]["low"] > 0.3


def test_another_tokenizer_method_is_a_change_of_the_config_alone(tmp_path: Path, tiny_encoder: Path) -> None:
    data = tiny.write_data(tmp_path / "data", {"books": 24}, users=20, steps=6)
    document = tiny.config_of(data, tmp_path / "bundle", tiny_encoder)
    document["tokenizer"] = {"method": "rqkmeans", "codebook_sizes": [8, 8, 8]}
    document["language_model"]["universal"]["epochs"] = 1
    manifest = train(load_config(tiny.write_config(tmp_path / "config.yaml", document)), lambda sentence: None)
    assert manifest.codebook_sizes == (8, 8, 8)
    bundle = load_bundle(tmp_path / "bundle", "cpu")
    assert bundle.tokenizer.method == "rqkmeans"
    (answer,) = bundle.recommender.recommend([Query("books", (("books", "books-3"),))])
    assert len(answer.items) == 10
    sids = bundle.recommender.catalog.sids("books")
    vectors = bundle.item_encoder.vectors([{"item_id": "new", "title": "green stone films"}] * 3)
    placed, _ = bundle.item_encoder.place(vectors, "books", sids)
    assert len({tuple(sid) for sid in [*sids.tolist(), *placed.tolist()]}) == 27


def items(domain: str, count: int) -> list[dict[str, Any]]:
    return [{"item_id": f"{domain}-{item}", "title": tiny.title("books", item)} for item in range(count)]


def walk(domain: str, user: str, steps: list[int]) -> list[tuple[str, str, int]]:
    return [(user, f"{domain}-{item}", REAL + 60 * place) for place, item in enumerate(steps)]


def test_odd_domains_train_and_serve_one_user_one_item_positions_and_nobody_with_3_events(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny.write_data(tmp_path / "whole", {"books": 30}, users=12, steps=5) / "books", data / "books")
    tiny.write_domain(data / "lonely", items("lonely", 5), walk("lonely", "user-1", [0, 1, 2, 3]))
    tiny.write_domain(data / "single", items("single", 1), walk("single", "user-2", [0, 0, 0]))
    sparse = [event for user in range(5) for event in walk("sparse", f"user-{user}", [user, user + 1])]
    tiny.write_domain(data / "sparse", items("sparse", 8), sparse)
    positions = [(f"user-{user}", f"placed-{(user + step) % 6}", step) for user in range(4) for step in range(4)]
    tiny.write_domain(data / "placed", items("placed", 6), positions)
    document = tiny.config_of(data, tmp_path / "bundle", tiny_encoder)
    document["language_model"]["universal"]["epochs"] = 1
    document["domains"] = ["sparse", "single", "placed", "lonely", "books"]
    manifest = train(load_config(tiny.write_config(tmp_path / "config.yaml", document)), lambda sentence: None)
    assert set(manifest.domains) == {"books", "lonely", "single", "sparse", "placed"}
    assert set(manifest.metrics["domains"]) == {"books", "lonely", "single", "placed"}
    assert manifest.domains["sparse"].adapter is None
    assert manifest.metrics["domains"]["single"]["repeated"] == 1
    recommender = load_bundle(tmp_path / "bundle", "cpu").recommender
    history = (("books", "books-3"), ("sparse", "sparse-2"))
    for domain, count in {"books": 10, "lonely": 5, "single": 1, "sparse": 7, "placed": 6}.items():
        (answer,) = recommender.recommend([Query(domain, history)])
        assert len(answer.items) == count
    report = evaluate_bundle(tmp_path / "bundle", data, "cpu").report
    assert report == manifest.metrics
    assert list(report["domains"]) == ["single", "placed", "lonely", "books"], "the order of training"


def test_data_in_which_nobody_has_3_events_are_refused_before_anything_is_computed(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    tiny.write_domain(tmp_path / "data" / "sparse", items("sparse", 8), walk("sparse", "user-1", [0, 1]))
    with pytest.raises(DataError, match="no user has 3 events in a domain, so nothing can be learned; add events"):
        train(config_in(tmp_path, tmp_path / "data", tiny_encoder), lambda sentence: None)
    assert not (tmp_path / "bundle.work" / "vectors").exists()


def test_more_domains_than_a_model_has_rows_for_are_refused_before_anything_is_computed(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    for number in range(33):
        tiny.write_domain(tmp_path / "data" / f"d{number}", items("d", 3), walk("d", "user-1", [0, 1, 2]))
    with pytest.raises(DataError, match=r"33 domains are more than the 32 .* choose fewer with --domains"):
        train(config_in(tmp_path, tmp_path / "data", tiny_encoder), lambda sentence: None)
    assert not (tmp_path / "bundle.work" / "vectors").exists()


def test_a_gpu_that_is_not_there_is_refused_before_training(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: PyTorch finds no GPU here; set auto or cpu"):
        train(config_in(tmp_path, tiny_data, tiny_encoder, device="cuda"), lambda sentence: None)
    assert not (tmp_path / "bundle.work").exists()


def test_a_missing_domain_folder_is_refused_and_the_present_ones_named(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    config = config_in(tmp_path, tiny_data, tiny_encoder, domains=["books", "music"])
    with pytest.raises(DataError, match="there is no domain 'music'; choose among books, films, games"):
        train(config, lambda sentence: None)


@pytest.mark.parametrize("place", ["notes", "notes/readme.txt"])
def test_a_place_that_cannot_hold_the_bundle_is_refused_before_training(
    place: str, tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("mine")
    document = tiny.config_of(tiny_data, tmp_path / place, tiny_encoder)
    config = load_config(tiny.write_config(tmp_path / "config.yaml", document))
    with pytest.raises(ConfigError, match=r"out: .*; choose another"):
        train(config, lambda sentence: None)
    assert (tmp_path / "notes" / "readme.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes"]
