"""The machinery of the tokenizers' benchmarks; what they measure of real data is never asserted here."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from benchmarks import tokenizer_scale, tokenizer_synthetic, tokenizers
from benchmarks.tokenizer_data import BenchItems, read_bench_items
from benchmarks.tokenizer_figures import (
    cka_figures,
    collision_figures,
    error_comparison,
    fit_figures,
    unique_figures,
    use_figures,
)
from benchmarks.tokenizer_fits import QUICK, Extent, Plan, calibration_plans, chosen_methods, fit_plan, reference_plan
from benchmarks.tokenizer_measure import (
    count_single_differs,
    measure_cka,
    measure_errors,
    measure_unique,
    measure_use,
    of_sizes,
)
from benchmarks.tokenizer_scale_child import shared_sids
from benchmarks.tokenizer_sizes import count_parameters
from benchmarks.tokenizer_speed import measure_speed
from benchmarks.tokenizer_store import kept, timed_fit
from benchmarks.tokenizer_synthetic import SyntheticVectors, write_vectors
from sidera.embedding import EncoderSpec
from sidera.tokenizers.rqkmeans import RqKMeans
from sidera.tokenizers.rqvae import RqVae
from tests import tiny
from training.data import Dataset
from training.errors import ConfigError, DataError, StageError
from training.tokenizers.common import TokenizerConfig
from training.tokenizers.dependence import cka

SMALL = Extent(
    most_epochs=1, seeds=(0, 1), cka_items=16, speed_rows=64, speed_runs=1, single_rows=4, items=None, quality=True
)
QUALITY = ("collisions", "use_", "error_", "cka_", "fit_seconds")


def bench_items(work: Path, items: int = 120, dim: int = 8, digest: str = "data") -> BenchItems:
    random = np.random.default_rng(0)
    seen = {name: random.standard_normal((items, dim)).astype(np.float32) for name in ("films", "songs")}
    unseen = {"games": random.standard_normal((30, dim)).astype(np.float32)}
    return BenchItems(seen, unseen, digest, digest, Dataset((), (), digest), work, None)


def rqkmeans(dim: int = 8, sizes: tuple[int, ...] = (4, 4)) -> RqKMeans:
    tokenizer = RqKMeans(dim, sizes, dim).requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for codebook_VD in tokenizer.quantiser.codebooks:
            codebook_VD.normal_()
    return tokenizer.eval()


def test_a_quick_run_tells_what_it_can_measure_honestly_and_nothing_of_quality(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    out = tmp_path / "figures.json"
    tokenizers.main(
        data=tiny_data,
        domains="books, films",
        out=out,
        unseen="games",
        methods="rqvae,rqkmeans",
        work=None,
        vectors=None,
        encoder=str(tiny_encoder),
        encoder_tokens=32,
        quick=True,
    )
    document = json.loads(out.read_text())
    figures = document["figures"]
    for method in ("rqkmeans", "rqvae"):
        for place, items in (("seen_books", 30), ("seen_films", 40), ("unseen_games", 36)):
            figure = figures[f"shared_sids_{method}_{place}"]
            assert (figure["value"], figure["to_reach"], figure["holds"]) == (0, "<= 0", True)
            assert f"{items} items" in figure["note"]
        assert figures[f"single_differs_{method}"]["value"] == 0
    assert {"encode_per_second_rqkmeans", "encode_per_second_rqvae_cpu", "encode_per_second_rqvae_paper"} <= set(
        figures
    )
    assert not [name for name in figures if name.startswith(QUALITY)]
    assert document["quick"] is True
    assert document["fits"]["rqvae-seed0"]["settings"]["epochs"] == 2
    assert document["domains"]["games"] == {"items": 36, "seen": False}
    assert (tmp_path / "figures.json.work" / "vectors" / "quick" / "books").is_dir()


def test_a_full_run_measures_quality_and_a_second_one_only_reads_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = bench_items(tmp_path)
    bench = tokenizers.TokenizerBench(items, SMALL, tmp_path)
    first = bench.measure(["rqkmeans", "rqvae"])
    for name in (
        "collisions_rqkmeans_worst_seen",
        "collisions_rqkmeans_worst_unseen",
        "use_rqvae_lowest",
        "error_rqvae_seen_films",
        "error_rqvae_unseen_games",
        "error_rqkmeans_beside_rqvae_seen",
        "fit_seconds_rqvae",
    ):
        assert first[name].value is not None
    assert json.loads(json.dumps(bench.context()))["fits"]["rqkmeans-seed0"]["settings"]["seed"] == 0

    def again(*_: object, **__: object) -> dict[str, Any]:
        raise AssertionError("measured again")

    for name in ("measure_unique", "measure_errors", "measure_use", "measure_speed", "count_single_differs"):
        monkeypatch.setattr(tokenizers, name, again)
    monkeypatch.setattr("benchmarks.tokenizer_fits.timed_fit", again)
    assert tokenizers.TokenizerBench(items, SMALL, tmp_path).measure(["rqkmeans", "rqvae"]) == first
    other = bench_items(tmp_path, digest="other data")
    with pytest.raises(AssertionError, match="measured again"):
        tokenizers.TokenizerBench(other, SMALL, tmp_path).measure(["rqkmeans"])


def test_calibration_is_compared_on_every_seed(tmp_path: Path) -> None:
    figures = tokenizers.TokenizerBench(bench_items(tmp_path, items=1_500), SMALL, tmp_path).measure(["unitok"])
    for name in ("variance", "mean"):
        figure = figures[f"cka_unitok_{name}"]
        assert figure.value is not None
        assert "seed 0" in figure.note
        assert "seed 1" in figure.note
    assert {f"cka_unitok_{kind}_seed1_films" for kind in ("calibrated", "uncalibrated")} <= set(figures)
    assert "fit_seconds_unitok-calibrated-seed1" in figures
    assert figures["parameters_unitok_384"].holds is not None


def test_a_tokenizer_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    items = bench_items(tmp_path)
    fit_plan(Plan("rqkmeans"), items, SMALL, tmp_path)
    fit_plan(Plan("rqkmeans", seed=1), items, SMALL, tmp_path)
    folder = tmp_path / "fits"
    weights = "tokenizer/weights.safetensors"
    (folder / "rqkmeans-seed0" / weights).write_bytes((folder / "rqkmeans-seed1" / weights).read_bytes())
    with pytest.raises(StageError, match="is not the tokenizer that"):
        fit_plan(Plan("rqkmeans"), items, SMALL, tmp_path)


def test_what_was_measured_is_kept_for_the_same_key_only(tmp_path: Path) -> None:
    path = tmp_path / "parts" / "one.json"
    assert kept(path, {"data": 1}, lambda: {"value": 1}) == {"value": 1}
    assert kept(path, {"data": 1}, lambda: {"value": 2}) == {"value": 1}
    assert kept(path, {"data": 2}, lambda: {"value": 3}) == {"value": 3}
    path.write_text("{")
    with pytest.raises(StageError, match=r"one\.json holds no measured part .* delete it"):
        kept(path, {"data": 2}, dict)


def test_a_fit_that_was_killed_counts_up_to_its_last_checkpoint(tmp_path: Path) -> None:
    def killed(folder: Path) -> None:
        started = json.loads((folder / "clock.json").read_text())["started"]
        (folder / "fit.pt").write_bytes(b"")
        os.utime(folder / "fit.pt", (started + 100, started + 100))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        timed_fit(tmp_path, {"settings": 1}, killed)

    def resumed(folder: Path) -> str:
        torch.save({"epoch": 7, "best_error": 0.5}, folder / "fit.pt")
        return "made"

    made, took = timed_fit(tmp_path, {"settings": 1}, resumed)
    assert made == "made"
    assert took.runs == 2
    assert 100 <= took.seconds < 160
    assert [(stage.name, stage.epochs, stage.best_epoch_error) for stage in took.stages] == [("fit", 7, 0.5)]
    _, anew = timed_fit(tmp_path, {"settings": 2}, resumed)
    assert anew.runs == 1
    assert anew.seconds < 60


def test_a_stage_of_a_fit_ends_with_its_checkpoint(tmp_path: Path) -> None:
    def fit(folder: Path) -> None:
        started = json.loads((folder / "clock.json").read_text())["started"]
        for name, seconds in (("m-first", 5), ("m-second", 12)):
            torch.save({"epoch": seconds, "best_error": 1.0}, folder / f"{name}.pt")
            os.utime(folder / f"{name}.pt", (started + seconds, started + seconds))

    _, took = timed_fit(tmp_path, {}, fit)
    assert [(stage.name, stage.epochs) for stage in took.stages] == [("m-first", 5), ("m-second", 12)]
    assert took.stages[0].seconds == pytest.approx(5, abs=0.1)
    figures = fit_figures("m", {**dataclasses.asdict(took), "collaborative_seconds": 1300.0}, "preset cpu")
    assert figures["fit_seconds_m_first"].holds is True
    assert "stopped after 5 epochs" in figures["fit_seconds_m_first"].note
    assert figures["fit_seconds_m_collaborative"].holds is False
    assert {"fit_seconds_m_second", "fit_seconds_m_whole"} <= set(figures)


def test_collisions_are_judged_at_the_worst_domain_among_different_vectors() -> None:
    def domain(raw: float, distinct: float) -> dict[str, object]:
        return {"items": 9, "identical_vectors": 1, "collision_rate": raw, "collision_rate_distinct": distinct}

    figures = collision_figures("m", "seen", {"a": domain(0.5, 0.07), "b": domain(0.1, 0.08)})
    worst = figures["collisions_m_worst_seen"]
    assert (worst.value, worst.holds, worst.note) == (0.08, True, "b, among different vectors")
    raw = figures["collisions_raw_m_worst_seen"]
    assert (raw.value, raw.to_reach, raw.note) == (0.5, None, "a, among all items")
    assert collision_figures("m", "seen", {"a": domain(0.5, 0.081)})["collisions_m_worst_seen"].holds is False
    assert collision_figures("m", "unseen", {}) == {}


def test_collisions_and_shared_sids_are_counted(tmp_path: Path) -> None:
    tokenizer = rqkmeans()
    vectors_ND = np.zeros((3, 8), dtype=np.float32)
    vectors_ND[2] = 5.0
    found = measure_unique(tokenizer, {"films": vectors_ND})["films"]
    assert (found["items"], found["identical_vectors"], found["shared_sids"]) == (3, 1, 0)
    assert found["collision_rate"] == pytest.approx(1 / 3)
    assert found["collision_rate_distinct"] == 0
    assert sum(found["moved_per_level"]) == 1
    found["shared_sids"] = 2
    assert unique_figures("m", "seen", {"films": found})["shared_sids_m_seen_films"].holds is False


def test_codebook_use_counts_the_items_that_the_fit_saw(tmp_path: Path) -> None:
    items, config = bench_items(tmp_path), TokenizerConfig(codebook_sizes=(4, 4), validation_share=0.5)
    tokenizer = rqkmeans()
    groups = measure_use(tokenizer, items, config)
    fitted = [items.seen[name][~held_out_N] for name, held_out_N in items.held_out(config).items()]
    codes_NL = tokenizer.encode(torch.from_numpy(np.concatenate(fitted)), "films")
    assert groups["level 2"] == {"items": 120, "size": 4, "use": len(codes_NL[:, 1].unique()) / 4}
    judged = use_figures(
        "m", {"level 1": {"items": 9, "size": 20, "use": 0.95}, "expert a, level 1": groups["level 2"]}
    )
    assert judged["use_m_expert_a_level_1"].value == groups["level 2"]["use"]
    assert use_figures("m", {"level 1": {"items": 9, "size": 20, "use": 0.95}})["use_m_lowest"].holds is True
    assert use_figures("m", {"level 1": {"items": 9, "size": 20, "use": 0.94}})["use_m_lowest"].holds is False


def test_errors_are_of_held_out_items_where_the_domain_was_seen_and_of_all_where_not(tmp_path: Path) -> None:
    items, config = bench_items(tmp_path), TokenizerConfig(codebook_sizes=(4, 4), validation_share=0.25)
    tokenizer = rqkmeans()
    errors = measure_errors(tokenizer, items, config)
    held_out_by_domain = items.held_out(config)
    fitted_ND = np.concatenate([items.seen[name][~held_out_by_domain[name]] for name in items.seen])
    for kind, name, vectors_ND in (
        ("seen", "songs", items.seen["songs"][held_out_by_domain["songs"]]),
        ("unseen", "games", items.unseen["games"]),
    ):
        x_ND = torch.from_numpy(vectors_ND)
        x_hat_ND = tokenizer.reconstruct(tokenizer.encode(x_ND, name))
        found = errors[kind][name]
        assert found["items"] == len(vectors_ND)
        assert found["error"] == pytest.approx(float((x_ND - x_hat_ND).square().sum()), rel=1e-5)
        assert found["variance"] == pytest.approx(np.square(vectors_ND - fitted_ND.mean(axis=0)).sum(), rel=1e-5)


def test_errors_are_to_be_lower_in_seen_domains_and_no_higher_in_each_unseen_one() -> None:
    def errors(seen: float, unseen: float) -> dict[str, Any]:
        one = {"items": 4, "variance": 10.0}
        return {"seen": {"a": {**one, "error": seen}}, "unseen": {"b": {**one, "error": unseen}}}

    def compared(ours: dict[str, Any], seen: bool = True, unseen: bool = True) -> list[bool | None]:
        sizes = (4, 4)
        figures = error_comparison("m", ours, sizes, errors(5.0, 5.0), sizes, judged_seen=seen, judged_unseen=unseen)
        return [figures["error_m_beside_rqvae_seen"].holds, figures["error_m_beside_rqvae_unseen_b"].holds]

    assert compared(errors(4.9, 5.0)) == [True, True]
    assert compared(errors(5.0, 5.1)) == [False, False]
    assert compared(errors(4.9, 5.0), seen=False, unseen=False) == [None, None]
    with pytest.raises(ValueError, match="SIDs of 3 codes beside SIDs of 2"):
        error_comparison("m", errors(1, 1), (4, 4, 4), errors(1, 1), (4, 4), judged_seen=True, judged_unseen=True)


def test_cka_is_of_equally_many_held_out_items_of_each_domain(tmp_path: Path) -> None:
    items, config = bench_items(tmp_path), TokenizerConfig(codebook_sizes=(4, 4), validation_share=0.5)
    fewest = min(int(held_out_N.sum()) for held_out_N in items.held_out(config).values())
    tokenizer = rqkmeans()
    found = measure_cka(tokenizer, items, config, most=fewest)
    assert found["items"] == fewest
    smallest = min(items.seen, key=lambda name: int(items.held_out(config)[name].sum()))
    x_ND = torch.from_numpy(items.seen[smallest][items.held_out(config)[smallest]])
    expected = float(cka(x_ND, tokenizer.quantised(tokenizer.encode(x_ND, smallest))))
    assert found["domains"][smallest] == pytest.approx(expected, rel=1e-5)
    assert measure_cka(tokenizer, items, config, most=10_000)["items"] == fewest
    assert measure_cka(tokenizer, items, config, most=10)["items"] == 10
    assert measure_cka(tokenizer, items, config, most=7)["domains"] == {}


def test_calibration_holds_when_the_variance_falls_and_the_mean_does_not() -> None:
    def pair(with_it: list[float], without: list[float]) -> tuple[dict[str, Any], dict[str, Any]]:
        sides = [{"items": 9, "domains": dict(zip("abc", values, strict=False))} for values in (with_it, without)]
        return sides[0], sides[1]

    figures = cka_figures("m", {0: pair([0.5, 0.5], [0.4, 0.6]), 1: pair([0.4, 0.61], [0.41, 0.6])})
    assert figures["cka_m_variance"].holds is True
    assert figures["cka_m_variance"].value == pytest.approx((0 + 0.105**2) / 2)
    assert "seed 0: lower" in figures["cka_m_variance"].note
    assert "seed 1: higher" in figures["cka_m_variance"].note
    assert figures["cka_m_mean"].holds is True
    assert cka_figures("m", {0: pair([0.5, 0.499], [0.4, 0.6])})["cka_m_mean"].holds is True
    assert cka_figures("m", {0: pair([0.49, 0.5], [0.4, 0.6])})["cka_m_mean"].holds is False
    assert cka_figures("m", {0: pair([0.4, 0.6], [0.4, 0.6])})["cka_m_variance"].holds is False
    empty = {"items": 3, "domains": dict[str, float]()}
    unmeasured = cka_figures("m", {0: (empty, empty)})
    assert (unmeasured["cka_m_mean"].value, unmeasured["cka_m_mean"].holds) == (None, None)


class OfTheBatch(RqKMeans):
    """Latents that depend on how many rows there are."""

    def latents(self, vectors_ND: torch.Tensor, domain: str) -> torch.Tensor:
        return super().latents(vectors_ND, domain) + len(vectors_ND)


def test_items_whose_latents_depend_on_the_batch_are_counted(tmp_path: Path) -> None:
    items = bench_items(tmp_path)
    vectors = {**items.seen, **items.unseen}
    assert count_single_differs(rqkmeans(), vectors, 5) == {"differ": 0, "compared": 15}
    broken = OfTheBatch(8, (4, 4), 8).requires_grad_(False)
    assert count_single_differs(broken, vectors, 5) == {"differ": 15, "compared": 15}


def test_speed_is_measured_in_a_process_of_its_own_with_one_thread(capfd: pytest.CaptureFixture[str]) -> None:
    vectors = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    speed = measure_speed(rqkmeans(), vectors, "films", runs=3)
    assert (speed["rows"], speed["runs"], speed["threads"]) == (500, 3, 1)
    assert 0 < speed["median"] <= speed["best"]
    assert speed["cpu_median"] > 0
    vectors[7] = np.nan
    with pytest.raises(StageError, match="rqkmeans: the process that encodes ended with 1; see above"):
        measure_speed(rqkmeans(), vectors, "films", runs=3)
    assert "rows 7 hold NaN" in capfd.readouterr().err


def test_a_tokenizer_of_other_sizes_keeps_what_fits() -> None:
    small = RqVae(8, (4, 4), 3, (6,)).requires_grad_(False)
    for codebook_Vd in small.quantiser.codebooks:
        codebook_Vd.fill_(2.0)
    large = of_sizes(small, {"hidden_sizes": (10, 7), "latent_dim": 3, "no setting of it": 1})
    assert isinstance(large, RqVae)
    assert large.hidden_sizes == (10, 7)
    assert torch.equal(large.quantiser.codebooks[1], small.quantiser.codebooks[1])
    assert large.encode(torch.ones(2, 8), "films").shape == (2, 2)


def test_parameters_are_those_of_modules_that_are_built() -> None:
    count = count_parameters(dim=5, domains=3, codebook_sizes=(4, 4), latent_dim=2, hidden_sizes=(7,))
    layers = (5 * 7 + 7) + (7 * 2 + 2) + (2 * 7 + 7) + (7 * 5 + 5)
    chain = 2 * 4 * 2
    assert count.apart == 3 * (layers + chain)
    assert count.together == layers + 4 * chain + (2 * 3 + 3)
    assert count.ratio == count.apart / count.together


def test_methods_come_cheap_ones_first_and_unknown_ones_are_refused() -> None:
    assert chosen_methods(["unitok", "rqvae", "rqkmeans"]) == ("rqkmeans", "rqvae", "unitok")
    assert {"letter", "gencdr"} <= set(chosen_methods([]))
    with pytest.raises(ConfigError, match="'kmeans' is no tokenizer method"):
        chosen_methods(["kmeans"])


def test_the_reference_has_as_many_codes_as_what_it_is_compared_with() -> None:
    assert reference_plan(4, 0) == Plan("rqvae")
    assert reference_plan(6, 1).settings(Extent())["codebook_sizes"] == [256] * 6
    assert reference_plan(6, 1).name == "rqvae-6-codes-seed1"
    plans = calibration_plans("unitok", (0, 1))
    assert [plan.settings(QUICK).get("calibration_weight", 0) for pair in plans for plan in pair] == [100, 0, 100, 0]
    assert Plan("gencdr").settings(QUICK)["router_epochs"] == 2


def test_a_domain_that_is_seen_and_unseen_is_refused(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> None:
    encoder = EncoderSpec(str(tiny_encoder), max_tokens=32)
    with pytest.raises(ConfigError, match="'books' is asked for twice"):
        read_bench_items(tiny_data, ["books"], ["books"], encoder, tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="no domains to fit on"):
        read_bench_items(tiny_data, [], ["books"], encoder, tmp_path, tmp_path)


def test_items_without_text_are_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    rows: list[dict[str, Any]] = [{"item_id": "a", "title": "blue boat"}, {"item_id": "b"}]
    tiny.write_domain(tmp_path / "data" / "films", rows, [("u", "a", 1), ("u", "b", 2), ("u", "a", 3)])
    encoder = EncoderSpec(str(tiny_encoder), max_tokens=32)
    with pytest.raises(DataError, match="1 items have no text"):
        read_bench_items(tmp_path / "data", ["films"], [], encoder, tmp_path / "vectors", tmp_path)


def test_only_the_first_items_count_where_the_extent_says_so(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    encoder = EncoderSpec(str(tiny_encoder), max_tokens=32)

    def read(most: int | None) -> BenchItems:
        return read_bench_items(tiny_data, ["films", "books"], ["games"], encoder, tmp_path / f"{most}", tmp_path, most)

    whole, part = read(None), read(5)
    assert list(whole.seen) == ["books", "films"]
    assert {name: len(vectors_ND) for name, vectors_ND in part.seen.items()} == {"books": 5, "films": 5}
    assert np.array_equal(part.unseen["games"], whole.unseen["games"][:5])
    assert len({whole.digest, part.digest, whole.seen_digest, part.seen_digest}) == 4


def test_an_error_is_one_sentence_and_no_figures(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        tokenizers.main(data=tiny_data, domains="books", out=tmp_path / "out.json", methods="kmeans", quick=True)
    assert "error: --methods: 'kmeans' is no tokenizer method" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_made_up_vectors_are_the_same_in_every_run_and_in_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_synthetic, "_ROWS", 400)
    vectors = SyntheticVectors(items=1_000, dim=16)
    path = write_vectors(vectors, tmp_path / "work")
    written_ND = np.load(path, mmap_mode="r")
    assert (written_ND.shape, written_ND.dtype) == ((1_000, 16), np.float32)
    assert np.array_equal(written_ND[400:800], vectors.part(400, 800))
    assert not np.array_equal(written_ND[:400], written_ND[400:800])
    assert np.allclose(np.linalg.norm(written_ND, axis=1), 1, atol=1e-5)
    assert [place.name for place in path.parent.iterdir()] == ["vectors-1000x16-seed0.npy"]
    nearest = np.sort(written_ND @ written_ND.T, axis=1)[:, -2]
    random_ND = np.random.default_rng(0).standard_normal((1_000, 16))
    random_ND /= np.linalg.norm(random_ND, axis=1, keepdims=True)
    assert nearest.mean() > np.sort(random_ND @ random_ND.T, axis=1)[:, -2].mean()


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = SyntheticVectors(items=10_000_000_000_000, dim=384)
    with pytest.raises(StageError, match=r"GiB free, but .* take .* make room"):
        write_vectors(vectors, tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


def test_the_memory_of_a_process_is_what_it_holds_beside_pages_of_files() -> None:
    code = "import time; held = bytearray(b'x') * 200_000_000; time.sleep(0.5)"
    process = subprocess.Popen([sys.executable, "-c", code])
    memory = tokenizer_scale.watch(process, every=0.05)
    assert process.returncode == 0
    assert 200_000_000 < memory.anonymous < 300_000_000
    assert memory.samples > 1


def test_shared_sids_are_counted_as_numbers_in_mixed_radix() -> None:
    sids_NL = np.array([[0, 1, 0], [0, 0, 3], [1, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=np.int32)
    assert shared_sids(sids_NL, (2, 2, 4)) == 2


def test_a_catalogue_is_fitted_and_coded_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_scale, "METHODS", {"rqkmeans": {"codebook_sizes": [16, 16, 16]}})
    out = tmp_path / "scale.json"

    def run() -> dict[str, Any]:
        tokenizer_scale.main(out=out, items=1_000, dim=8, work=None, quick=True)
        figures: dict[str, Any] = json.loads(out.read_text())["figures"]
        return figures

    figures = run()
    assert figures["shared_sids_rqkmeans"]["value"] == 0
    assert 0 < figures["peak_anonymous_rqkmeans"]["value"] < 4
    assert figures["peak_rss_rqkmeans"]["value"] > figures["peak_anonymous_rqkmeans"]["value"] / 2
    assert figures["assign_seconds_rqkmeans"]["to_reach"] is None
    assert not list((tmp_path / "scale.json.work").glob("*.npy"))

    def again(*_: object) -> dict[str, Any]:
        raise AssertionError("measured again")

    for name in ("run_child", "write_vectors"):
        monkeypatch.setattr(tokenizer_scale, name, again)
    assert run() == figures


def test_a_child_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(StageError, match="rqkmeans: the process that was measured ended with 1"):
        tokenizer_scale.run_child(SyntheticVectors(10, 8), {"method": "rqkmeans"}, tmp_path)
