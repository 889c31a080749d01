"""Backbones that learned elsewhere: found by folder or hub name, checked before hours are spent, and given new rows.

Only configs, safetensors and tokenizer files are read, and none of a model's own code is run. The base model's
generation settings are dropped: decoding here has none.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)

from sidera.language_model import LanguageModel, load_backbone
from sidera.model.self_test import check_backbone
from sidera.model.vocabulary import Vocabulary
from sidera.progress_bars import no_progress_bars
from training.errors import ConfigError

_MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "*.model")
_NOISE = 0.1
"""Spread of new rows around the mean row, in standard deviations of the backbone's own rows."""


@dataclass(frozen=True)
class FoundBackbone:
    """A pretrained backbone on this machine.

    Attributes:
        name: what the config calls it.
        rows: tokens of its own; new ones come behind them.
        digest: sha256 (hex) over the names and contents of config and weights.
        tokenizer: the same of the tokenizer's files; None where none lie beside the weights.
        max_tokens: the longest sequence that it reads; None where its config does not say.
    """

    name: str
    folder: Path
    rows: int
    digest: str
    tokenizer: str | None
    max_tokens: int | None


def find_pretrained(name: str) -> FoundBackbone:
    """Find a backbone and check all that shows without its weights.

    Raises:
        ConfigError: it is neither a folder nor on the hub, no causal model that ``transformers`` knows, has no
            safetensors, or its tokenizer has tokens that its embedding or another token already uses.
    """
    folder = _folder_of(name)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _refused(name, f"its config cannot be read ({_first_line(error)}); give a causal model") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _refused(name, f"a {config.model_type!r} model is no causal language model; give a decoder")
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)})
    if not any(path.suffix == ".safetensors" for path in files):
        raise _refused(name, "it has no *.safetensors; save it with save_pretrained, other weights are not read")
    text_config = config.get_text_config()
    rows = int(text_config.vocab_size)
    tokenizer_files = sorted({path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)})
    if tokenizer_files:
        _check_tokenizer(name, _read_tokenizer(name, folder), rows)
    return FoundBackbone(
        name=name,
        folder=folder,
        rows=rows,
        digest=_digest(files),
        tokenizer=_digest(tokenizer_files) if tokenizer_files else None,
        max_tokens=getattr(text_config, "max_position_embeddings", None),
    )


def load_text_tokenizer(found: FoundBackbone) -> Any:
    """The ``transformers`` tokenizer of a backbone's own words.

    Raises:
        ConfigError: none lies beside the weights, or it cannot be read.
    """
    if found.tokenizer is None:
        raise ConfigError(
            f"language_model.text_alignment: backbone {found.name!r} has no tokenizer files, so titles cannot be read; "
            "put its tokenizer.json beside the weights, or leave text_alignment out"
        )
    return _read_tokenizer(found.name, found.folder)


def load_pretrained(found: FoundBackbone, vocabulary: Vocabulary, device: str, seed: int) -> PreTrainedModel:
    """Load a backbone in float32, with rows for the vocabulary behind its own.

    A new row is the mean of the backbone's own rows and some noise, the same for the same seed.

    Raises:
        BackboneError: the weights cannot be read.
        ConfigError: the vocabulary does not begin behind the backbone's own rows.
    """
    backbone = load_backbone(found.folder, dtype=torch.float32)
    own = backbone.get_input_embeddings().get_parameter("weight").shape[0]
    if own != found.rows or vocabulary.base != found.rows:
        raise _refused(
            found.name,
            f"it has {own} rows and its config says {found.rows}, while the new tokens begin at {vocabulary.base}; "
            "tokens would clash, so save model and config together again",
        )
    with no_progress_bars():
        backbone.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    embedding = backbone.get_input_embeddings()
    embedding.padding_idx = None  # type: ignore[assignment]  # else a new row of that number would get no gradient
    head = backbone.get_output_embeddings()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _start_rows(embedding.get_parameter("weight"), own, generator)
        if head.weight is not embedding.weight:
            _start_rows(head.weight, own, generator)
    backbone.generation_config = GenerationConfig()
    torch.nn.Module.to(backbone, device)
    return backbone


def check_pretrained(found: FoundBackbone, codebook_sizes: tuple[int, ...], max_history: int, device: str) -> None:
    """Load a backbone once and let it decode a tree, before anything is computed for it.

    Args:
        codebook_sizes: of the SIDs to come; any sizes will do for the test of the layers.

    Raises:
        BackboneError: it decodes wrongly, or its context is too short for the history.
    """
    vocabulary = Vocabulary(codebook_sizes, {}, base=found.rows)
    backbone = load_pretrained(found, vocabulary, device, seed=0)
    check_backbone(LanguageModel(backbone, vocabulary), max_history)


def _start_rows(weight_VD: Tensor, own: int, generator: torch.Generator) -> None:
    rows_VD = weight_VD[:own].float()
    noise_ND = torch.randn(len(weight_VD) - own, weight_VD.shape[1], generator=generator).to(weight_VD.device)
    weight_VD[own:] = rows_VD.mean(dim=0) + _NOISE * rows_VD.std(dim=0) * noise_ND


def _folder_of(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise _refused(name, "the folder has no config.json; give a folder that save_pretrained wrote")
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = [*_MODEL_FILES, *_TOKENIZER_FILES]
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise _refused(
            name,
            "it is neither scratch:<preset>, nor a folder, nor to be had from the Hugging Face hub "
            f"({_first_line(error)}); correct the name, or download it first",
        ) from error


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _read_tokenizer(name: str, folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _refused(name, f"its tokenizer cannot be read ({_first_line(error)}); repair or remove it") from error


def _check_tokenizer(name: str, tokenizer: Any, rows: int) -> None:
    """Every token of a tokenizer that lies beside the weights has its own number, below the embedding's rows."""
    owner_of: dict[int, str] = {}
    for token, number in sorted(tokenizer.get_vocab().items()):
        if number >= rows:
            raise _refused(
                name,
                f"token {token!r} of its tokenizer has number {number}, but the model has {rows} rows, so it would "
                "clash with a new token; resize the model to its tokenizer first",
            )
        if owner_of.setdefault(number, token) != token:
            raise _refused(
                name, f"its tokenizer gives {owner_of[number]!r} and {token!r} one number, {number}; repair it"
            )


def _refused(name: str, why: str) -> ConfigError:
    return ConfigError(f"language_model.backbone: {name!r} cannot be used: {why}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
