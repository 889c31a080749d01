"""Fits of the tokenizer methods, and the table that finds them by name."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from sidera.tokenizers import ItemTokenizer
from training.collaborative import CfVectors
from training.errors import ConfigError
from training.tokenizers.autoencoder import PRESETS as AUTOENCODER_PRESETS
from training.tokenizers.common import TokenizerConfig
from training.tokenizers.gencdr import fit_gencdr
from training.tokenizers.gencdr_config import GenCdrConfig
from training.tokenizers.letter import LetterConfig, fit_letter
from training.tokenizers.rqkmeans import RqKMeansConfig, fit_rqkmeans
from training.tokenizers.rqvae import RqVaeConfig, fit_rqvae
from training.tokenizers.unitok import fit_unitok
from training.tokenizers.unitok_config import PRESETS as UNITOK_PRESETS
from training.tokenizers.unitok_config import UniTokConfig

DEFAULT_METHOD = "rqvae"


@dataclass(frozen=True)
class Method:
    """One way to fit a tokenizer.

    Attributes:
        config: its settings.
        presets: settings by name, which a config's own settings override; none where there is nothing to choose.
        fit: vectors by domain, settings, a folder for checkpoints and collaborative vectors by domain (none where the
            settings' ``cf_source`` is None) -> the tokenizer.
    """

    config: type[TokenizerConfig]
    presets: Mapping[str, Mapping[str, Any]]
    fit: Callable[[Mapping[str, np.ndarray], Any, Path, CfVectors], ItemTokenizer]


METHODS: dict[str, Method] = {
    "rqvae": Method(
        RqVaeConfig, AUTOENCODER_PRESETS, lambda vectors, config, folder, _: fit_rqvae(vectors, config, folder)
    ),
    "rqkmeans": Method(RqKMeansConfig, {}, lambda vectors, config, folder, _: fit_rqkmeans(vectors, config, folder)),
    "letter": Method(
        LetterConfig, AUTOENCODER_PRESETS, lambda vectors, config, folder, cf: fit_letter(vectors, cf, config, folder)
    ),
    "gencdr": Method(
        GenCdrConfig, AUTOENCODER_PRESETS, lambda vectors, config, folder, _: fit_gencdr(vectors, config, folder)
    ),
    "unitok": Method(
        UniTokConfig, UNITOK_PRESETS, lambda vectors, config, folder, _: fit_unitok(vectors, config, folder)
    ),
}


def read_config(settings: Mapping[str, Any]) -> tuple[Method, TokenizerConfig]:
    """Read the ``tokenizer`` section of a config.

    Args:
        settings: ``method`` (default ``rqvae``), ``preset`` (default ``cpu``; some methods have none), and the method's
            own settings.

    Raises:
        ConfigError: the method, the preset or a setting is not known, or a value is refused.
    """
    own = dict(settings)
    name = own.pop("method", DEFAULT_METHOD)
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f"tokenizer.method {name!r} is not known; known methods: {', '.join(METHODS)}")
    method = METHODS[name]
    preset: Mapping[str, Any] = {}
    if method.presets:
        chosen = own.pop("preset", "cpu")
        if not isinstance(chosen, str) or chosen not in method.presets:
            known = ", ".join(method.presets)
            raise ConfigError(f"tokenizer.preset {chosen!r} is not known for {name}; known: {known}")
        preset = method.presets[chosen]
    fields = {field.name: field for field in dataclasses.fields(method.config)}
    unknown = sorted(map(str, set(own) - set(fields)))
    if unknown:
        raise ConfigError(f"tokenizer.{unknown[0]} is no setting of {name}; its settings: {', '.join(fields)}")
    try:
        return method, TypeAdapter(method.config).validate_json(json.dumps({**preset, **own}))
    except TypeError as error:
        raise ConfigError(f"tokenizer: a setting is no plain value ({error}); write text or a number") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"tokenizer.{place}: {first['msg']}; it is {first['input']!r}") from error
