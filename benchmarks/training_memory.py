"""Peak memory of training: full fine-tuning, phase 1 (experts and new rows) and phase 2 (one domain's adapter).

Each runs in a process of its own, which loads the backbone, forgets the peak of loading, takes a few steps and says
what it held at most. Called with one JSON object this module is that process. The C library is told to give freed
tensors back at once; else it keeps what it will reuse, and the peak says little about what training needs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import Figure, at_most, shown
from benchmarks.made_up_walks import DOMAIN, made_up_walks, vocabulary_behind

MOST = 0.6
Kind = Literal["full", "experts", "adapter"]
_ROOT = Path(__file__).resolve().parents[1]
_GIB = 2**30
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "200000"}
"""For glibc: blocks above so many bytes go back to the system when they are freed."""


class ChildError(Exception):
    """A measured process failed; what it said is in the message."""


def measure_memory(backbone: Path, users: int, batch_tokens: int, expert_rank: int) -> dict[str, Figure]:
    """The peaks, and what LoRA training needs of what full fine-tuning does.

    Raises:
        ChildError: a process failed.
    """
    kinds: tuple[Kind, ...] = ("full", "experts", "adapter")
    what = {
        "full": "all weights train",
        "experts": f"phase 1: 4 experts of rank {expert_rank}, their gates and the new rows",
        "adapter": "phase 2: an adapter of rank 16",
    }
    figures: dict[str, Figure] = {}
    for checkpointing, suffix in ((True, ""), (False, "_all_activations_kept")):
        task = {
            "backbone": str(backbone),
            "users": users,
            "batch_tokens": batch_tokens,
            "expert_rank": expert_rank,
            "gradient_checkpointing": checkpointing,
        }
        peaks = {kind: _measured({**task, "kind": kind}) for kind in kinds}
        state = "on" if checkpointing else "off"
        note = f"float32, AdamW, batches of {batch_tokens} tokens, gradient checkpointing {state}"
        for kind, peak in peaks.items():
            told = f"{what[kind]}; {note}; {peak['weights']:,} weights"
            figures[f"peak_gib_{kind}{suffix}"] = shown(peak["training"] / _GIB, "GiB", told)
        share = {kind: peaks[kind]["training"] / peaks["full"]["training"] for kind in kinds}
        adapter, experts = (f"{kind}_memory_share{suffix}" for kind in ("adapter", "experts"))
        figures[experts] = shown(share["experts"], "share of full", note)
        if checkpointing:
            figures[adapter] = at_most(share["adapter"], MOST, "share of full", note)
        else:
            figures[adapter] = shown(share["adapter"], "share of full", note + ": what is kept for gradients prevails")
    return figures


def _measured(task: dict[str, Any]) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.training_memory", json.dumps(task)]
    done = subprocess.run(  # noqa: S603 (our own words)
        command, cwd=_ROOT, env=os.environ | _GIVE_BACK, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ChildError(f"the process that trains {task['kind']!r} failed:\n{done.stderr[-2000:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _child(task: dict[str, Any]) -> dict[str, int]:
    import torch

    from training.code_loss import CodeLoss
    from training.language_model import Phase, train_adapter, train_universal
    from training.loop import train_loop
    from training.model_config import AdapterConfig, ExpertsConfig, LanguageModelConfig, OptimizerConfig
    from training.pretrained import find_pretrained, load_pretrained

    found = find_pretrained(task["backbone"])
    vocabulary = vocabulary_behind(found.rows)
    walks = made_up_walks(task["users"], 20, seed=0)
    optimizer = OptimizerConfig(
        epochs=1,
        learning_rate=1e-4,
        batch_tokens=task["batch_tokens"],
        gradient_checkpointing=task["gradient_checkpointing"],
    )
    config = LanguageModelConfig(
        universal=optimizer,
        backbone=task["backbone"],
        max_history=20,
        experts=ExpertsConfig(rank=task["expert_rank"], alpha=2 * task["expert_rank"]),
        loss="codebook",
        label_smoothing=0.0,
        domain=AdapterConfig(optimizer=optimizer),
    )
    phase = Phase(walks, vocabulary, (DOMAIN,), config, seed=0)
    backbone = load_pretrained(found, vocabulary, "cpu", seed=0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    weights = 0

    def counted(model: torch.nn.Module) -> dict[str, float]:
        nonlocal weights
        weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        return {"recall@10": 0.0}

    with tempfile.TemporaryDirectory() as folder:
        if task["kind"] == "experts":
            train_universal(phase, backbone, counted, Path(folder))
        elif task["kind"] == "adapter":
            train_adapter(phase, backbone, 0, counted, Path(folder))
        else:
            loss = CodeLoss(backbone, vocabulary, dropout=0.1, label_smoothing=0.0)
            batches = phase.batches(walks, optimizer.batch_tokens)
            train_loop("full", loss, batches, lambda: counted(backbone), optimizer, 0, Path(folder))
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return {"training": peak, "weights": weights}


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[1]))))
