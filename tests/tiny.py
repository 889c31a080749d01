"""A small made-up world, its data folder, and the real pipeline on it.

Every domain is a checkerboard: group A walks its even items in a cycle, group B its odd ones, two items ahead at every
step. So the newest item of a domain says what comes next, popularity says next to nothing, and nobody meets an item
twice. All users live in all domains, one event an hour, with real times.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sidera.progress_bars import no_progress_bars

DOMAINS = {"books": 30, "films": 40, "games": 36}
"""Items of each domain."""
COLOURS = ("amber", "blue", "crimson", "green", "ivory", "olive", "pink", "white")
THINGS = ("boat", "clock", "door", "garden", "horse", "lamp", "river", "stone")
FIRST_HOUR = 1_600_000_000 // 3600


def title(domain: str, item: int) -> str:
    """Three words, different for every item of all domains."""
    return f"{COLOURS[item % 8]} {THINGS[item // 8]} {domain}"


def write_data(
    folder: Path, domains: Mapping[str, int] = DOMAINS, users: int = 60, steps: int = 8, seed: int = 0
) -> Path:
    """Write a data folder: ``users`` users who take 5..``steps`` steps in each domain."""
    random = np.random.default_rng(seed)
    walks: dict[str, list[tuple[str, str, int]]] = {domain: [] for domain in domains}
    for user in range(users):
        steps_left = {domain: int(random.integers(5, steps + 1)) for domain in domains}
        place = {domain: 2 * int(random.integers(items // 2)) + user % 2 for domain, items in domains.items()}
        hour = FIRST_HOUR + int(random.integers(1000))
        while steps_left:
            domain = list(steps_left)[random.integers(len(steps_left))]
            walks[domain].append((f"user-{user}", f"{domain}-{place[domain]}", hour * 3600))
            place[domain] = (place[domain] + 2) % domains[domain]
            hour += 1
            steps_left[domain] -= 1
            if not steps_left[domain]:
                del steps_left[domain]
    for domain, items in domains.items():
        rows = [{"item_id": f"{domain}-{item}", "title": title(domain, item), "year": 1990} for item in range(items)]
        write_domain(folder / domain, rows, walks[domain])
    return folder


def write_domain(folder: Path, items: Sequence[Mapping[str, Any]], events: Sequence[tuple[str, str, int]]) -> Path:
    """Write one domain from the fields of its items and its (user, item id, time) events."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(dict(item)) + "\n" for item in items))
    lines = [f"{user},{item_id},{time}" for user, item_id, time in events]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    return folder


def write_encoder(folder: Path) -> Path:
    """A BERT of 16 dimensions with random weights, one token a word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    known = ["[PAD]", "[UNK]", *COLOURS, *THINGS, *DOMAINS]
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(known),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
            initializer_range=0.5,
        )
        with no_progress_bars():
            BertModel(config).save_pretrained(folder)
    return folder


def config_of(data: Path, out: Path, encoder: Path) -> dict[str, Any]:
    """The config of a run that takes seconds, as its YAML says it; change what a test needs."""
    return {
        "data": str(data),
        "out": str(out),
        "threads": 1,
        "device": "cpu",
        "encoder": {"name": str(encoder), "max_tokens": 32},
        "tokenizer": {
            "method": "rqvae",
            "codebook_sizes": [8, 8, 8],
            "hidden_sizes": [16],
            "latent_dim": 8,
            "epochs": 4,
            "warm_up_epochs": 1,
        },
        "language_model": {
            "backbone": "scratch:tiny",
            "max_history": 12,
            "beam_width": 10,
            "validation_targets": 8,
            "universal": {"epochs": 2, "learning_rate": 0.003, "batch_tokens": 1024, "checkpoint_steps": 2},
            "domain": {
                "rank": 4,
                "alpha": 8,
                "optimizer": {"epochs": 1, "learning_rate": 0.01, "batch_tokens": 1024, "checkpoint_steps": 2},
            },
        },
    }


def write_config(path: Path, document: Mapping[str, Any]) -> Path:
    """Write a config file."""
    path.write_text(yaml.safe_dump(dict(document)))
    return path
