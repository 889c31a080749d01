"""The stage of the neighbours: their lists, and the share of each in the mixture of every domain.

The shares are those that rank validation targets best, beside the language model as it will serve; a router moves them
for each history where that ranks better still. An unseen domain has vectors and no events, and a language model that is
sure of the wrong things: its share is a setting.

Shapes: I items of a domain.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sidera.catalog import Catalog
from sidera.items.history_reader import HistoryReader
from sidera.items.memory_router import MemoryRouter
from sidera.items.neighbours import GrownLists, Neighbours, Reading, Shares, load_neighbours, save_neighbours
from sidera.language_model import LanguageModel
from sidera.recommender import Recommender
from training.evaluation import drawn_targets
from training.history_reader import fit_reader
from training.memory_proposals import Proposals
from training.memory_router import fit_memory_router
from training.mixture_shares import best_shares
from training.neighbour_lists import (
    borrowers_of,
    counts_of,
    joined,
    popularity_of,
    rule_of,
    similar_of,
    trained_until,
    transitions_of,
)
from training.run import Run
from training.split import Events, Part, targets
from training.stages import Stage, stage

_LEARNED_FROM = 2000
"""Held-out events of a domain at the most that the router learns from."""

_FILE = "neighbours.safetensors"


def neighbour_stage(
    run: Run, model: LanguageModel, catalog: Catalog, vectors: Mapping[str, npt.NDArray[np.float32]], upstream: Stage
) -> tuple[Path | None, Stage]:
    """Make the lists and weigh them; leaves ``neighbours.safetensors``. None where the config has them disabled.

    Args:
        model: the language model as it will serve.
        vectors: of each domain's items. Shape of each: float32[I, D].
    """
    config = run.config.neighbours
    with stage(run.work, "neighbours", {"upstream": upstream.digest, "config": asdict(config)}) as made:
        path = made.folder / _FILE
        if config.enabled and not made.done:
            listed = _listed(run, catalog, vectors)
            save_neighbours(_weighed(run, model, catalog, listed), path)
    if not config.enabled:
        return None, made
    known = load_neighbours(path)
    told = (f"{name} {_sentence(own, name in known.routers)}" for name, own in known.shares.items())
    run.say("neighbours: " + "; ".join(told))
    return path, made


def _listed(run: Run, catalog: Catalog, vectors: Mapping[str, npt.NDArray[np.float32]]) -> Neighbours:
    """The lists of all domains, without a share in anything."""
    config = run.config.neighbours
    transitions, similar, borrowed, numbers = {}, {}, {}, {}
    readers: dict[str, HistoryReader] = {}
    rule = rule_of(config, run.events)
    popularity = np.zeros(len(catalog), dtype=np.float32)
    for index, domain in enumerate(run.dataset.domains):
        name, count = domain.name, len(domain.item_ids)
        numbers[name] = np.array([catalog.find(name, item_id) for item_id in domain.item_ids], dtype=np.int64)
        transitions[name] = transitions_of(run.events, index, count, rule)
        similar[name] = similar_of(vectors[name], config, name)
        popularity[numbers[name]] = popularity_of(run.events, index, count)
        borrowed[name] = borrowers_of(similar[name], counts_of(run.events, index, count))
        reader = reader_of(run, index, vectors[name], numbers[name])
        if reader is not None:
            readers[name] = reader
    return Neighbours(
        transitions=joined(transitions, numbers, len(catalog)),
        similar=GrownLists(joined(similar, numbers, len(catalog))),
        popularity=popularity,
        shares={},
        unseen=Shares(),
        reading=Reading(
            config.recent,
            config.decay,
            config.nearest,
            config.temperature,
            config.smoothing,
            config.discount,
            config.borrowing,
            config.reader_share,
        ),
        readers=readers,
        borrowers=joined(borrowed, numbers, len(catalog)),
        rule=rule,
        trained_until={domain.name: trained_until(run.events, row) for row, domain in enumerate(run.dataset.domains)},
    )


def reader_of(
    run: Run, index: int, vectors_ID: npt.NDArray[np.float32], number_I: npt.NDArray[np.int64]
) -> HistoryReader | None:
    """What reads whole histories of one domain; None where the config has none, or nothing can be learned."""
    config, name = run.config.neighbours, run.names[index]
    if not config.reader_width or len(number_I) > config.reader_most_items:
        return None
    return fit_reader(
        run.events,
        index,
        vectors_ID,
        number_I,
        run.validation_of(index),
        config.reader_width,
        config.reader_steps,
        run.config.seed,
        name,
    )


def _weighed(run: Run, model: LanguageModel, catalog: Catalog, listed: Neighbours) -> Neighbours:
    """The same lists with the shares that rank the validation targets best."""
    recommender = run.recommender(model, catalog)
    found = {
        domain.name: weights_in(run, recommender, listed, index)
        for index, domain in enumerate(run.dataset.domains)
        if run.validation_of(index)
    }
    # Where events brought followers, two thirds of the share are theirs; where none did, all of it is for items alike.
    third = run.config.neighbours.unseen_share / 3
    return replace(
        listed,
        shares={name: weights.shares for name, weights in found.items()},
        unseen=Shares(transitions=2 * third, similar=third),
        routers={name: weights.router for name, weights in found.items() if weights.router is not None},
    )


@dataclass(frozen=True)
class Weights:
    """What weighs the mixture of one domain.

    Attributes:
        router: gives each history shares of its own; None: they rank no better than the fixed ones.
    """

    shares: Shares
    router: MemoryRouter | None


def weights_in(run: Run, recommender: Recommender, listed: Neighbours, index: int) -> Weights:
    """The shares that rank one domain's targets best, and the router that ranks its validation targets better still.

    The fixed shares are of the validation targets and the events that were held out for routers together.

    Args:
        recommender: the language model as it will serve, without neighbours.
        index: of a domain with validation targets.
    """
    counted = int(counts_of(run.events, index, len(run.dataset.domains[index].item_ids)).sum())
    proposals = Proposals(recommender, listed, run.dataset.domains, index, counted)
    validation = proposals.asked(run.validation_of(index))
    held_out = [target for target in targets(run.events, Part.ROUTER) if target.domain == index]
    drawn = drawn_targets(held_out, _LEARNED_FROM, (run.config.seed, index))
    learned = proposals.asked(drawn, event_times(run.events, index, listed.rule.reference))
    followed, near, popular, _ = best_shares([*validation.candidates, *learned.candidates]).tolist()
    shares = Shares(followed, near, popular)
    if not run.config.neighbours.router:
        return Weights(shares, None)
    return Weights(
        shares, fit_memory_router(learned, validation, shares, run.config.seed, run.dataset.domains[index].name)
    )


def event_times(events: Events, domain: int, reference: float) -> dict[int, float]:
    """The time of each user's event that is held out for routers; ``reference`` where times are positions."""
    held = np.flatnonzero((events.part_E == Part.ROUTER) & (events.domain_E == domain))
    time_E = np.where(events.real_time_E[held], events.time_E[held], reference)
    return dict(zip(events.user_E[held].tolist(), time_E.tolist(), strict=True))


def _sentence(shares: Shares, routed: bool) -> str:
    ours = 1 - shares.transitions - shares.similar - shares.popularity
    return (
        f"language model {ours:.2f}, followers {shares.transitions:.2f}, alike {shares.similar:.2f}, "
        f"popular {shares.popularity:.2f}" + (", moved by the router" if routed else "")
    )
