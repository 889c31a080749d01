"""A tokenizer on disk: ``config.json`` and ``weights.safetensors``. Nothing in it executes or unpickles."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sidera.errors import TokenizerError
from sidera.files import write_atomically
from sidera.tokenizers.base import ItemTokenizer
from sidera.tokenizers.gencdr import GenCdr
from sidera.tokenizers.letter import Letter
from sidera.tokenizers.rqkmeans import RqKMeans
from sidera.tokenizers.rqvae import RqVae
from sidera.tokenizers.unitok import UniTok

METHODS: dict[str, type[ItemTokenizer]] = {kind.method: kind for kind in (RqVae, RqKMeans, Letter, GenCdr, UniTok)}


def save_tokenizer(tokenizer: ItemTokenizer, folder: Path) -> None:
    """Write ``config.json`` and ``weights.safetensors``, each whole or not at all."""
    config, tensors = tokenizer.state()
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "weights.safetensors", save(tensors))
    write_atomically(folder / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def load_tokenizer(folder: Path) -> ItemTokenizer:
    """Read what :func:`save_tokenizer` wrote.

    Raises:
        TokenizerError: a file is missing or damaged, the method is not known, or the tensors do not fit the config.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "weights.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise TokenizerError(f"the tokenizer in {folder} cannot be read: {error}") from error
    method = config.get("method") if isinstance(config, dict) else None
    if not isinstance(method, str) or method not in METHODS:
        raise TokenizerError(
            f"{folder / 'config.json'}: tokenizer method {method!r} is not known; known: {', '.join(METHODS)}"
        )
    try:
        tokenizer = METHODS[method].from_config(config)
    except (TypeError, ValueError) as error:
        raise TokenizerError(f"{folder / 'config.json'} has a field of a wrong kind: {error}") from error
    try:
        tokenizer.load_state_dict(tensors)
    except RuntimeError as error:
        raise TokenizerError(f"{folder / 'weights.safetensors'} does not fit config.json: {error}") from error
    return tokenizer.eval().requires_grad_(False)


def tokenizer_digest(tokenizer: ItemTokenizer) -> str:
    """sha256 (hex) over config and tensors: equal for equal tokenizers, on any machine."""
    config, tensors = tokenizer.state()
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(_tensor_bytes(name, tensors[name]))
    return digest.hexdigest()


def _tensor_bytes(name: str, tensor: Tensor) -> bytes:
    array = np.asarray(tensor)
    return f"{name}\0{array.dtype}\0{array.shape}\0".encode() + array.tobytes()
