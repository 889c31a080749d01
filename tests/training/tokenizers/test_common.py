"""What the fits of all methods share: which items they work on, and what is refused before they begin."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from training.errors import ConfigError, DataError
from training.tokenization import check_capacity
from training.tokenizers import read_config
from training.tokenizers.common import TokenizerConfig, draw_items, held_out

CONFIG = TokenizerConfig(validation_share=0.2)


def vectors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=(items, 3)).astype(np.float32) for name, items in (("toys", 60), ("films", 40))}


@pytest.mark.parametrize(("items", "share"), [(2, 0.75), (3, 0.9), (1, 0.5), (100, 0.05)])
def test_items_are_left_to_fit_on_however_many_are_held_out(items: int, share: float) -> None:
    held_out_N = held_out(items, share, 0)
    assert not held_out_N.all()
    assert held_out_N.any() == (items > 1)


def test_items_are_drawn_by_number_through_all_domains_and_never_both_fitted_on_and_held_out() -> None:
    given = vectors()
    drawn = draw_items(given, CONFIG)
    assert drawn.names == ("films", "toys")
    everything = np.concatenate([given["films"], given["toys"]])
    held_out_N = held_out(100, 0.2, 0)
    assert np.array_equal(drawn.train_number_N.numpy(), np.flatnonzero(~held_out_N))
    assert np.array_equal(drawn.train_ND.numpy(), everything[~held_out_N])
    assert np.array_equal(drawn.validation_ND.numpy(), everything[held_out_N])
    assert np.array_equal(drawn.train_domain_N.numpy(), np.flatnonzero(~held_out_N) >= 40)
    assert np.array_equal(drawn.validation_domain_N.numpy(), np.flatnonzero(held_out_N) >= 40)


def test_of_many_items_a_sample_is_drawn_and_a_tenth_as_many_held_out() -> None:
    drawn = draw_items(vectors(), dataclasses.replace(CONFIG, fit_items=30))
    assert drawn.train_ND.shape == (30, 3)
    assert drawn.validation_ND.shape == (3, 3)
    assert len(drawn.train_number_N.unique()) == 30
    everything = torch.from_numpy(np.concatenate([vectors()["films"], vectors()["toys"]]))
    assert torch.equal(drawn.train_ND, everything[drawn.train_number_N])
    other = draw_items(vectors(), dataclasses.replace(CONFIG, fit_items=30, seed=1))
    assert not torch.equal(drawn.train_number_N, other.train_number_N)
    assert drawn.digest != other.digest


def test_vectors_on_disk_are_drawn_as_those_in_memory_whatever_the_order_of_domains(tmp_path: Path) -> None:
    given = vectors()
    on_disk = {}
    for name in ("films", "toys"):
        np.save(tmp_path / f"{name}.npy", given[name])
        on_disk[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    first, second = draw_items(given, CONFIG), draw_items(on_disk, CONFIG)
    assert first.digest == second.digest
    assert torch.equal(first.train_ND, second.train_ND)
    on_disk["films"] = given["films"] + 1
    assert draw_items(on_disk, CONFIG).digest != first.digest


def test_vectors_of_two_widths_and_vectors_that_are_not_finite_are_refused_by_domain_and_row() -> None:
    given = vectors()
    with pytest.raises(DataError, match=r"differ in width: {'films': 3, 'toys': 2}; make all of them with one encoder"):
        draw_items(given | {"toys": given["toys"][:, :2]}, CONFIG)
    given["toys"][[3, 5]] = np.nan
    with pytest.raises(DataError, match="vectors of domain 'toys' hold NaN or infinity in rows 3, 5"):
        draw_items(given, CONFIG)


def test_the_sids_of_all_experts_count_as_room_for_a_domain() -> None:
    settings = {"method": "unitok", "codebook_sizes": [8, 8]}
    check_capacity({"films": 128, "toys": 1}, settings)
    with pytest.raises(ConfigError, match=r"domain 'films' has 129 items, .* make 128 SIDs"):
        check_capacity({"films": 129, "toys": 1}, settings)
    with pytest.raises(ConfigError, match=r"domain 'films' has 65 items, .* make 64 SIDs"):
        check_capacity({"films": 65}, settings)
    with pytest.raises(ConfigError, match="top_n is 3, but there are 2 experts"):
        check_capacity({"films": 1, "toys": 1}, settings | {"top_n": 3})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seed": -1}, "seed is -1; set a value from 0"),
        ({"seed": 2**31}, "seed is 2147483648; set a value from 0 to 2147483647"),
        ({"codebook_sizes": [65536] * 4}, "codebook_sizes is .* that makes less than 2"),
        ({"fit_items": 0}, "fit_items is 0; set a value of at least 1"),
        ({"seed": object()}, "a setting is no plain value"),
        ({1: 2, "epoch": 3}, "tokenizer.1 is no setting of rqvae"),
    ],
)
def test_settings_that_could_not_work_are_refused_at_once(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_config(settings)
