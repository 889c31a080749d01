"""What every variant of the downstream benchmark shares: domains, vectors, test targets and the floors' ranks.

Shapes: E events, N items, D item vector dim, T targets, K places.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sidera.embedding import EncoderSpec, TextEncoder
from training.data import Dataset, DomainData, read_dataset
from training.errors import DataError
from training.evaluation import PLACES
from training.floors import FloorTask, content_knn, item_bigram, popularity
from training.metrics import target_ranks
from training.no_text import vectors_without_text
from training.split import Events, Part, Target, split_events, targets
from training.stages import stage
from training.vectors import item_vectors

Ranks = npt.NDArray[np.int64]
"""The rank, from 0, of each target; ``training.metrics.ABSENT`` where it was not found. Shape: [T]."""

FLOORS = ("popularity", "bigram", "content-kNN")

_TARGETS_SEED = 0
_HIDDEN_SEED = 0


@dataclass(frozen=True)
class Domains:
    """Which domains serve what.

    Attributes:
        trained: the language model learns from their events, in the order of their tokens.
        unseen: only evaluated; the language model meets them as ``<any_domain>``.
        fitted: the tokenizer is fitted on their items.
    """

    trained: tuple[str, ...]
    unseen: tuple[str, ...]
    fitted: tuple[str, ...]

    @property
    def every(self) -> tuple[str, ...]:
        """All names, each once; those trained on come first, so that the others change no number of theirs."""
        return tuple(dict.fromkeys(self.trained + self.unseen + self.fitted))


@dataclass(frozen=True, eq=False)
class TestPart:
    """The test targets of one domain.

    Attributes:
        domain: its number in ``domains``.
        domains: those whose events a history may hold.
        events: of these domains.
        targets: the sampled ones.
        zero_shot: whether the language model never saw the domain.
        digest: of all that ranking them depends on, models and SIDs aside.
    """

    domain: int
    domains: tuple[DomainData, ...]
    events: Events
    targets: tuple[Target, ...]
    zero_shot: bool
    digest: str

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.domains[self.domain].name


@dataclass(frozen=True, eq=False)
class World:
    """The data of a run.

    Attributes:
        roles: which domains serve what.
        data: all of these domains.
        vectors: float32[N, D] by domain.
        events: split events of the domains trained on.
        parts: what is evaluated, by domain.
    """

    roles: Domains
    data: Dataset
    vectors: Mapping[str, npt.NDArray[np.float32]]
    events: Events
    parts: Mapping[str, TestPart]

    def dataset(self, names: Sequence[str]) -> Dataset:
        """Some of the domains, in this order."""
        digest = hashlib.sha256(json.dumps([self.data.digest, *names]).encode()).hexdigest()
        return replace(self.data, domains=tuple(self.data.domain(name) for name in names), digest=digest)


def read_world(
    data: Path,
    roles: Domains,
    encoder: EncoderSpec,
    vectors: Path,
    most_targets: int,
    device: str = "cpu",
    hide_text: float = 0.0,
) -> World:
    """Read the domains, make or read their vectors, and sample the test targets.

    Args:
        vectors: the folder of the vectors' shards.
        most_targets: of a domain, the same ones in every run; 0: all.
        hide_text: the share of the items of the domains trained on whose vectors are made without their text.

    Raises:
        DataError: a domain cannot be read or has no test target, or is trained on and called unseen.
    """
    for name in roles.unseen:
        if name in roles.trained:
            raise DataError(f"domain {name!r} is among --domains and --unseen; name it once")
    whole = read_dataset(data, roles.every)
    for domain in whole.domains:
        if domain.no_text:
            raise DataError(
                f"{domain.items_file}: {len(domain.no_text):,} items have no text; leave them out of the items"
            )
    model = TextEncoder(encoder, device)
    made = {domain.name: item_vectors(domain, model, vectors) for domain in whole.domains}
    if hide_text:
        for domain in whole.domains[: len(roles.trained)]:
            made[domain.name] = some_without_text(replace(whole, domains=(domain,)), made[domain.name], hide_text)
    events = split_events(replace(whole, domains=whole.domains[: len(roles.trained)]))
    world = World(roles, whole, made, events, {})
    parts = {}
    for name in roles.trained:
        parts[name] = _test_part(world.dataset(roles.trained), events, name, most_targets, zero_shot=False)
    for name in roles.unseen:
        beside = world.dataset((*roles.trained, name))
        parts[name] = _test_part(beside, split_events(beside), name, most_targets, zero_shot=True)
    return replace(world, parts=parts)


def some_without_text(dataset: Dataset, vectors_ND: npt.NDArray[np.float32], share: float) -> npt.NDArray[np.float32]:
    """The vectors of the one domain, some of whose items, drawn at random, are taken for items without text."""
    (domain,) = dataset.domains
    drawn_N = np.random.default_rng(_HIDDEN_SEED).permutation(len(vectors_ND))
    hidden_M = np.sort(drawn_N[: round(share * len(vectors_ND))])
    made_ND = np.array(vectors_ND)
    # Where the texts were: what is made must not read them, as NaN would show.
    made_ND[hidden_M] = np.nan
    textless = replace(domain, no_text=dict.fromkeys(hidden_M.tolist(), 0))
    length = float(np.linalg.norm(vectors_ND, axis=1).mean())
    made_ND[hidden_M] = vectors_without_text(textless, 0, split_events(dataset), made_ND, length)
    return made_ND


def floor_ranks(part: TestPart, vectors_ND: npt.NDArray[np.float32], work: Path) -> dict[str, Ranks]:
    """The ranks that each floor gives the targets of a domain; kept on disk.

    Popularity and the bigram count the domain's own train events, also where the language model never saw these.
    """
    inputs = {"part": part.digest, "vectors": array_digest(vectors_ND)}
    with stage(work, f"floors-{part.name}", inputs) as made:
        path = made.folder / "ranks.npz"
        if not made.done:
            task = FloorTask(part.events, part.domain, part.domains[part.domain].item_ids, part.targets, PLACES)
            item_T = target_items(part)
            tops = zip(FLOORS, (popularity(task), item_bigram(task), content_knn(task, vectors_ND)), strict=True)
            np.savez(path, allow_pickle=False, **{name: target_ranks(top_TK, item_T) for name, top_TK in tops})
        with np.load(path, allow_pickle=False) as ranks:
            return {name: ranks[name] for name in ranks.files}


def target_items(part: TestPart) -> npt.NDArray[np.int64]:
    """The item number of each target, int64[T]."""
    return np.array([target.item for target in part.targets], dtype=np.int64)


def events_digest(events: Events) -> str:
    """sha256 (hex) over everything that the events say."""
    return array_digest(
        events.user_E, events.domain_E, events.item_E, events.time_E, events.part_E, events.real_time_E, events.row_E
    )


def array_digest(*arrays: npt.NDArray[np.generic]) -> str:
    """sha256 (hex) over kinds, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _test_part(dataset: Dataset, events: Events, name: str, most: int, zero_shot: bool) -> TestPart:
    number = [domain.name for domain in dataset.domains].index(name)
    own = [target for target in targets(events, Part.TEST) if target.domain == number]
    if not own:
        raise DataError(f"domain {name!r}: no user has 3 events, so nothing can be evaluated; give more events")
    if most:
        rows = np.random.default_rng(_TARGETS_SEED).permutation(len(own))[:most]
        own = [own[row] for row in sorted(rows.tolist())]
    told = {
        "events": events_digest(events),
        "domains": [domain.name for domain in dataset.domains],
        "items": [hashlib.sha256("\0".join(domain.item_ids).encode()).hexdigest() for domain in dataset.domains],
        "domain": number,
        "most": most,
        "zero_shot": zero_shot,
    }
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return TestPart(number, dataset.domains, events, tuple(own), zero_shot, digest)
