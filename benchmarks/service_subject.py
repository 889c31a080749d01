"""What the service benchmark serves: bundles of a made-up shop, and requests with histories of so many items.

The bundles come from the real pipeline: ``scratch:small`` over four levels of 256 codes, one epoch; how long an answer
takes does not depend on how good it is. The second bundle has another tokenizer, so a swap to it encodes and places all
live items anew; the third has the first one's tokenizer and another language model. All are kept in the work folder.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sidera.bundle import open_bundle
from sidera.files import write_atomically
from sidera.recommender import Query
from training.config import load_config
from training.pipeline import train

DOMAIN = "shop"
HISTORY = 20
RESULTS = 10
_MAKERS = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Hazel", "Ivy", "Juniper", "Larch", "Maple")
_KINDS = ("kettle", "lamp", "chair", "rug", "clock", "shelf", "mirror", "basket", "vase", "blanket", "stool", "tray")
_LOOKS = ("blue", "oak", "round", "tall", "woven", "glass", "striped", "copper", "folding", "small", "linen", "grey")


@dataclass(frozen=True)
class Size:
    """How large the shop and its model are."""

    items: int
    users: int
    backbone: str
    codes: int

    @classmethod
    def of(cls, quick: bool) -> "Size":
        """The measured one, or one that is trained in seconds."""
        return cls(200, 40, "scratch:tiny", 16) if quick else cls(2000, 400, "scratch:small", 256)


@dataclass(frozen=True)
class Bundles:
    """Folders of bundles: ``first``, the same shop with another tokenizer, and with another language model."""

    first: Path
    other_tokenizer: Path
    other_model: Path

    def __iter__(self) -> Any:
        return iter((self.first, self.other_tokenizer, self.other_model))


def make_bundles(home: Path, size: Size, say: Callable[[str], None]) -> Bundles:
    """Train what is not there yet.

    Raises:
        SideraError, TrainingError: as ``training.pipeline.train``.
    """
    first, data = make_bundle(home, size, say), home / "data"
    other_tokenizer = _trained(home, data, size, "tokenizer", tokenizer_seed=1, model_seed=0, say=say)
    other_model = _trained(home, data, size, "model", tokenizer_seed=0, model_seed=1, say=say)
    return Bundles(first, other_tokenizer, other_model)


def make_bundle(home: Path, size: Size, say: Callable[[str], None]) -> Path:
    """Train the first of them if it is not there yet.

    Raises:
        SideraError, TrainingError: as ``training.pipeline.train``.
    """
    data = home / "data"
    if not (data / DOMAIN / "interactions.csv").exists():
        _write_shop(data / DOMAIN, size)
    return _trained(home, data, size, "first", tokenizer_seed=0, model_seed=0, say=say)


def item_ids(size: Size) -> list[str]:
    """The items that every bundle holds."""
    return [f"item-{number}" for number in range(size.items)]


def title_of(number: int) -> str:
    """Words that differ for every item."""
    words = (_LOOKS[number % 12], _KINDS[number // 12 % 12], _MAKERS[number // 144 % 12])
    return f"{' '.join(words)} no. {number}"


def queries(size: Size, count: int, seed: int = 0) -> list[Query]:
    """Queries with histories of exactly ``HISTORY`` random items, different ones as far as the shop has them."""
    ids, random = item_ids(size), np.random.default_rng(seed)
    chosen = [random.choice(len(ids), size=HISTORY, replace=False).tolist() for _ in range(count)]
    return [Query(DOMAIN, tuple((DOMAIN, ids[place]) for place in places), RESULTS) for places in chosen]


def body_of(query: Query) -> bytes:
    """A query as a body of ``POST /recommend``."""
    history = [{"item_id": item_id} for _, item_id in query.history]
    return json.dumps({"domain": query.domain, "history": history, "num_results": query.num_results}).encode()


def bodies(size: Size, count: int, seed: int = 0) -> list[bytes]:
    """Bodies of such queries."""
    return [body_of(query) for query in queries(size, count, seed)]


def version_of(bundle: Path) -> str:
    """The version that a bundle says it is."""
    return open_bundle(bundle).manifest.bundle_version


def _write_shop(folder: Path, size: Size) -> None:
    """Users who walk from item to item: mostly to one of the next ones, sometimes anywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = [{"item_id": name, "title": title_of(number)} for number, name in enumerate(item_ids(size))]
    events = []
    for user in range(size.users):
        place = int(random.integers(size.items))
        for step in range(HISTORY + 5):
            events.append(f"user-{user},item-{place},{1_600_000_000 + 60 * (user * 100 + step)}")
            near = random.random() < 0.8
            place = (place + int(random.integers(1, 6)) if near else int(random.integers(size.items))) % size.items
    write_atomically(folder / "items.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    lines = ["user_id,item_id,timestamp", *events]
    write_atomically(folder / "interactions.csv", ("\n".join(lines) + "\n").encode())


def _trained(
    home: Path, data: Path, size: Size, name: str, *, tokenizer_seed: int, model_seed: int, say: Callable[[str], None]
) -> Path:
    once = {"epochs": 1, "learning_rate": 0.003, "batch_tokens": 8192}
    document: dict[str, Any] = {
        "data": str(data),
        "domains": [DOMAIN],
        "out": str(home / name / "bundle"),
        "device": "cpu",
        "seed": model_seed,
        "test_targets": 50,
        "trackers": [],
        "tokenizer": {"method": "rqkmeans", "codebook_sizes": _levels(size), "seed": tokenizer_seed},
        "language_model": {
            "backbone": size.backbone,
            "max_history": HISTORY + 10,
            "validation_targets": 20,
            "universal": once,
            "domain": {"optimizer": once},
        },
    }
    path = home / f"{name}.yaml"
    write_atomically(path, yaml.safe_dump(document).encode())
    config = load_config(path)
    train(config, say)
    return Path(config.out)


def _levels(size: Size) -> Sequence[int]:
    return [size.codes] * 4
