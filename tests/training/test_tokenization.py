"""From vectors of all domains to SIDs and a report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidera.items.placement import place_new
from sidera.tokenizers import load_tokenizer, tokenizer_digest
from training.errors import ConfigError, DataError
from training.tokenization import fit_tokenizer, tokenize
from training.tokenizers import read_config
from training.tokenizers.rqkmeans import RqKMeansConfig
from training.tokenizers.rqvae import RqVaeConfig

SETTINGS = {
    "method": "rqvae",
    "codebook_sizes": [8, 8, 8],
    "hidden_sizes": [16],
    "latent_dim": 6,
    "epochs": 10,
    "warm_up_epochs": 2,
    "batch_size": 64,
}
RQKMEANS = {"method": "rqkmeans", "codebook_sizes": [8, 8, 8]}
every_method = pytest.mark.parametrize("settings", [SETTINGS, RQKMEANS], ids=["rqvae", "rqkmeans"])


def domains() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    basis = random.normal(size=(2, 10))
    films = (random.normal(size=(120, 2)) @ basis).astype(np.float32)
    films[100:] = films[0]
    return {"films": films, "books": (random.normal(size=(40, 2)) @ basis).astype(np.float32), "one": films[:1].copy()}


@every_method
def test_every_item_gets_a_sid_of_its_own_and_the_report_says_what_it_took(
    settings: Mapping[str, Any], tmp_path: Path
) -> None:
    vectors = domains()
    result = tokenize(vectors, settings, tmp_path)
    for name, sids in result.sids.items():
        assert len(np.unique(sids, axis=0)) == len(vectors[name])
        assert sids.dtype == np.int32
    report = json.loads((tmp_path / "report" / "tokenization.json").read_text())
    assert report == json.loads(json.dumps(result.report))
    films = report["domains"]["films"]
    codes = {n: result.tokenizer.encode(torch.from_numpy(v), n).numpy() for n, v in vectors.items()}
    assert films["identical_vectors"] == 20
    assert films["collision_rate_before"] == pytest.approx(1 - len(np.unique(codes["films"], axis=0)) / 120)
    distinct = 1 - len(np.unique(codes["films"], axis=0)) / 100
    assert films["collision_rate_before_distinct_vectors"] == pytest.approx(distinct)
    assert films["collision_rate_after"] == 0
    assert sum(films["moved_per_level"]) >= 20
    every = np.concatenate([codes[name] for name in ("books", "films", "one")])
    shares = np.bincount(every[:, 0], minlength=8) / len(every)
    assert report["levels"][0]["codebook_use"] == (shares > 0).mean()
    entropy = -sum(share * np.log(share) for share in shares if share)
    assert report["levels"][0]["perplexity"] == pytest.approx(np.exp(entropy))
    assert 0 < report["relative_reconstruction_error"]["all"] < 1
    assert report["method"] == settings["method"]
    assert report["held_out_items"] == round(161 * 0.05)
    assert report["tokenizer"] == tokenizer_digest(load_tokenizer(tmp_path / "tokenizer"))
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"tokenization.json", "tokenization.html"}


@every_method
def test_the_order_of_domains_does_not_matter(settings: Mapping[str, Any], tmp_path: Path) -> None:
    vectors = domains()
    first = fit_tokenizer(vectors, settings, tmp_path / "a")
    second = fit_tokenizer(dict(reversed(vectors.items())), settings, tmp_path / "b")
    assert tokenizer_digest(first) == tokenizer_digest(second)


@every_method
def test_domains_with_nan_other_widths_or_no_items_are_refused_by_name(
    settings: Mapping[str, Any], tmp_path: Path
) -> None:
    vectors = domains()
    vectors["books"][3, 1] = np.nan
    with pytest.raises(DataError, match="vectors of domain 'books' hold NaN or infinity in rows 3"):
        fit_tokenizer(vectors, settings, tmp_path)
    with pytest.raises(DataError, match="'a': 3, 'b': 4"):
        fit_tokenizer({"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}, settings, tmp_path)
    with pytest.raises(DataError, match="domain 'a' have shape"):
        fit_tokenizer({"a": np.zeros((0, 3))}, settings, tmp_path)
    with pytest.raises(DataError, match="no domains"):
        fit_tokenizer({}, settings, tmp_path)


def test_a_domain_larger_than_the_number_of_sids_is_refused_before_the_fit(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"domain 'films' has 120 items, but tokenizer.codebook_sizes \[8, 8\] make 64"
    ):
        fit_tokenizer(domains(), SETTINGS | {"codebook_sizes": [8, 8]}, tmp_path)


def test_settings_override_the_preset_and_the_default_is_the_cpu_preset() -> None:
    assert read_config({})[1] == RqVaeConfig()
    config = read_config({"preset": "paper", "latent_dim": 16})[1]
    assert config == RqVaeConfig(hidden_sizes=(512, 256, 128), latent_dim=16)


@every_method
def test_ten_thousand_identical_vectors_get_ten_thousand_sids(settings: Mapping[str, Any], tmp_path: Path) -> None:
    own = {**settings, "codebook_sizes": [22, 22, 22]}
    if settings is SETTINGS:
        own |= {"epochs": 1, "warm_up_epochs": 0, "batch_size": 1000}
    vectors = {"films": np.ones((10_000, 10), dtype=np.float32)}
    result = tokenize(vectors, own, tmp_path)
    assert len(np.unique(result.sids["films"], axis=0)) == 10_000
    assert result.assignments["films"].identical_vectors == 9_999
    assert result.assignments["films"].collision_rate_before == pytest.approx(0.9999)
    assert result.report["relative_reconstruction_error"] == {"all": None, "held_out": None}


@every_method
def test_a_lone_domain_of_one_item_is_fitted_and_takes_new_items(settings: Mapping[str, Any], tmp_path: Path) -> None:
    vectors = domains()
    result = tokenize({"one": vectors["one"]}, settings, tmp_path)
    sids = result.sids["one"]
    assert (sids == result.tokenizer.encode(torch.from_numpy(vectors["one"]), "one").numpy()).all()
    new, moved = place_new(result.tokenizer, vectors["films"], "one", sids)
    assert len(np.unique(np.concatenate([sids, new]), axis=0)) == 121
    assert moved[0], "the item that exists has the SID that its twin wants"
    never_seen, _ = place_new(load_tokenizer(tmp_path / "tokenizer"), vectors["films"], "unseen", sids[:0])
    assert len(np.unique(never_seen, axis=0)) == 120


def test_residual_k_means_has_no_presets() -> None:
    assert read_config({"method": "rqkmeans"})[1] == RqKMeansConfig()
    with pytest.raises(ConfigError, match=r"tokenizer\.preset is no setting of rqkmeans"):
        read_config({"method": "rqkmeans", "preset": "cpu"})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "magic"}, "tokenizer.method 'magic' is not known; known methods: rqvae, rqkmeans"),
        ({"preset": "huge"}, "tokenizer.preset 'huge' is not known for rqvae; known: cpu, paper"),
        ({"epoch": 3}, "tokenizer.epoch is no setting of rqvae; its settings: codebook_sizes"),
        ({"epochs": "many"}, "tokenizer.epochs: Input should be a valid integer; it is 'many'"),
        ({"ema_decay": "slow"}, "tokenizer.ema_decay: Input should be a valid number; it is 'slow'"),
        ({"method": "rqkmeans", "epochs": 3}, "tokenizer.epochs is no setting of rqkmeans; its settings: .*iterations"),
        ({"codebook_sizes": 256}, "tokenizer.codebook_sizes: Input should be a valid array; it is 256"),
    ],
)
def test_settings_that_are_not_known_are_refused_with_those_that_are(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_config(settings)
