"""The config of the quality benchmark: a YAML file or the product's defaults, and the options on top."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sidera.files import write_atomically
from training.config import TrainConfig, load_config
from training.errors import ConfigError
from training.model_config import AdapterConfig
from training.tokenizers import read_config

_DEFAULTS: dict[str, Any] = {
    "tokenizer": {},
    "language_model": {"universal": {"epochs": 10, "learning_rate": 0.003}},
    "trackers": [],
}
"""What has no default in the product."""

_QUICK_TOKENIZER = {
    "codebook_sizes": [16, 16, 16],
    "warm_up_epochs": 1,
    "epochs": 2,
    "domain_epochs": 1,
    "router_epochs": 1,
}


def joint_config(
    base: Path | None,
    given: Mapping[str, Any],
    home: Path,
    change: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
) -> TrainConfig:
    """The config, also written to ``home / "config.yaml"``.

    Args:
        base: a YAML config to begin with; its ``data``, ``out`` and ``domains`` are not used.
        given: sections and values that replace those of the base; None where an option was not given. They do not
            bring back a section that the base sets to null.
        change: of the document as a whole.

    Raises:
        ConfigError: as ``training.config.load_config``.
    """
    document: Any = _DEFAULTS
    if base is not None:
        try:
            document = yaml.safe_load(base.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{base}: the config cannot be read ({error}); give a YAML file") from error
        if not isinstance(document, dict):
            raise ConfigError(f"{base}: the config is no mapping of keys; see configs/demo.yaml for one")
    method = given["tokenizer"]["method"]
    if method is not None and (document.get("tokenizer") or {}).get("method") not in (None, method):
        document = {**document, "tokenizer": {}}  # the settings of another method
    document = _with_optimizer({**_over(document, given), "out": str(home / "joint" / "bundle")})
    if change is not None:
        document = change(document)
    home.mkdir(parents=True, exist_ok=True)
    path = home / "config.yaml"
    write_atomically(path, yaml.safe_dump(document).encode())
    return load_config(path)


def quick_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same with hardly any epochs, few targets and short codebooks."""
    once = {"epochs": 1}
    model = {"universal": once, "domain": {"optimizer": once}, "validation_targets": 4}
    changed = _with_optimizer(_over(document, {"language_model": model}))
    known = {field.name for field in dataclasses.fields(read_config(changed["tokenizer"])[1])}
    for name, value in _QUICK_TOKENIZER.items():
        if name in known:
            changed["tokenizer"][name] = value
    return changed


def _with_optimizer(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the product's defaults of phase 2 where it says some things of its optimizer only."""
    model = document["language_model"]
    if not (model.get("domain") or {}).get("optimizer"):
        return document
    optimizer = {**dataclasses.asdict(AdapterConfig().optimizer), **model["domain"]["optimizer"]}
    return {**document, "language_model": {**model, "domain": {**model["domain"], "optimizer": optimizer}}}


def _over(document: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` on top of ``document``, section by section, without what is None; neither is changed."""
    merged = dict(document)
    for name, value in given.items():
        if isinstance(value, Mapping):
            if name in merged and merged[name] is None:
                continue
            section = _over(merged.get(name) or {}, value)
            if section or name in merged:
                merged[name] = section
        elif value is not None:
            merged[name] = value
    return merged
