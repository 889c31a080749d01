"""Settings of UniTok."""

from typing import Any

import pytest

from training.errors import ConfigError
from training.tokenizers import read_config
from training.tokenizers.unitok_config import UniTokConfig


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"experts": 0}, "experts is 0; set a value of at least 1"),
        ({"top_n": 0}, "top_n is 0; set a value of at least 1"),
        ({"experts": 2, "top_n": 3}, "top_n is 3, but there are 2 experts; set it to at most 2"),
        ({"experts": 1, "expert_id": "first"}, "expert_id is first, but there is 1 expert"),
        ({"shared_levels": 4}, "shared_levels is 4; set a value from 0 to 3, so that a level is left"),
        ({"shared_levels": -1}, "shared_levels is -1; set a value from 0 to 3"),
        ({"shared_expert": False, "shared_levels": 1}, "shared_levels is 1; set a value of 0, as .*shared_expert is"),
        ({"shared_reads": "codes"}, "shared_reads is codes; set a value of residual or latent"),
        ({"expert_id": "none"}, "expert_id is none; set a value of merged, first or last"),
        ({"quantisation_weight": 0.0}, "quantisation_weight is 0.0; set a value above 0"),
        ({"calibration_weight": -0.1}, "calibration_weight is -0.1; set a value of at least 0"),
        ({"calibration_beta": -1.0}, "calibration_beta is -1.0; set a value of at least 0"),
        ({"calibration_items": 63}, "calibration_items is 63; set a value of at least 64"),
        ({"calibration_measure": "mi"}, "calibration_measure is mi; set a value of hsic or cka"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_mean_anything_is_refused_by_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"tokenizer.{says}"):
        UniTokConfig(**settings)


def test_half_of_the_levels_are_the_shared_experts_where_nothing_else_is_said() -> None:
    assert UniTokConfig().emitted_shared_levels == 2
    assert UniTokConfig(codebook_sizes=(4, 4, 4)).emitted_shared_levels == 1
    assert UniTokConfig(shared_levels=3).emitted_shared_levels == 3
    assert UniTokConfig(shared_expert=False).emitted_shared_levels == 0


def test_a_config_file_finds_the_method_and_its_presets() -> None:
    method, config = read_config({"method": "unitok", "preset": "paper", "expert_id": "first"})
    assert isinstance(config, UniTokConfig)
    assert config.hidden_sizes == (2048, 1024, 512, 256, 128, 64)
    assert (config.latent_dim, config.expert_id, method.config) == (32, "first", UniTokConfig)
    _, small = read_config({"method": "unitok"})
    assert isinstance(small, UniTokConfig)
    assert small.hidden_sizes == (256, 128)
    with pytest.raises(ConfigError, match=r"tokenizer\.expert_id"):
        read_config({"method": "unitok", "expert_id": "middle"})
