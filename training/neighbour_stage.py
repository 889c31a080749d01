"""The stage of the neighbours: their lists, and the share of each in the mixture of every domain.

The shares are those that rank validation targets best, beside the language model as it will serve; a router moves them
for each history where that ranks better still. An unseen domain has vectors and no events, and a language model that is
sure of the wrong things: its share is a setting.

Shapes: I items of a domain.
"""

from collections.abc import Mapping, Sequence
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
from training.memory_proposals import Proposals, Proposed
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
from training.split import Part, Target, targets
from training.stages import Stage, stage

_CHOSEN_ON = 4000
"""Validation targets of a domain, at the most, that reader, shares and router are chosen on."""

_JUDGES = 4
"""One of so many of these judges what a router learned from the others."""

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
        _chosen_on(run, index),
        config.reader_width,
        config.reader_passes,
        run.config.seed,
        name,
        run.device,
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
        with_weights(listed, found),
        unseen=Shares(transitions=2 * third, similar=third),
    )


@dataclass(frozen=True)
class Weights:
    """What weighs the mixture of one domain.

    Attributes:
        reader: with its share of the items alike; None: the domain has none.
        router: gives each history shares of its own; None: they rank no better than the fixed ones.
    """

    shares: Shares
    reader: HistoryReader | None
    router: MemoryRouter | None


def with_weights(listed: Neighbours, found: Mapping[str, Weights]) -> Neighbours:
    """The same lists with what was found for some domains."""
    routers = {name: own.router for name, own in found.items() if own.router is not None}
    readers = {name: own.reader for name, own in found.items() if own.reader is not None}
    return replace(
        listed,
        shares={**listed.shares, **{name: own.shares for name, own in found.items()}},
        routers={**listed.routers, **routers},
        readers={**listed.readers, **readers},
    )


def weights_in(run: Run, recommender: Recommender, listed: Neighbours, index: int) -> Weights:
    """The shares that rank one domain's validation targets best, and the router that ranks them better still.

    The router learns from three quarters of the targets, and the last one judges it.

    Args:
        recommender: the language model as it will serve, without neighbours.
        index: of a domain with validation targets.
    """
    name = run.dataset.domains[index].name
    proposals = Proposals(recommender, listed, run.dataset.domains, index)
    proposed = proposals.of(_chosen_on(run, index))
    shares, reader = _fixed(proposals, proposed, listed.readers.get(name))
    if not run.config.neighbours.router:
        return Weights(shares, reader, None)
    if reader is not None:
        listed = replace(listed, readers={**listed.readers, name: reader})
        proposals = Proposals(recommender, listed, run.dataset.domains, index)
    judging = proposed[_JUDGES - 1 :: _JUDGES]
    learning = [own for row, own in enumerate(proposed) if row % _JUDGES != _JUDGES - 1]
    learned, judged = proposals.asked(learning), proposals.asked(judging)
    return Weights(shares, reader, fit_memory_router(learned, judged, shares, run.config.seed, name))


def _fixed(
    proposals: Proposals, proposed: Sequence[Proposed], reader: HistoryReader | None
) -> tuple[Shares, HistoryReader | None]:
    """The best shares of all histories, and the reader with its own."""
    if reader is None:
        followed, near, popular, _ = best_shares(proposals.asked(proposed).candidates).tolist()
        return Shares(followed, near, popular), None
    followed, near, read, popular, _ = best_shares(proposals.apart(proposed)).tolist()
    share = read / (near + read) if near + read else reader.share
    return Shares(followed, near + read, popular), replace(reader, share=share)


def _chosen_on(run: Run, index: int) -> list[Target]:
    """Validation targets of one domain."""
    own = [target for target in targets(run.events, Part.VALIDATION) if target.domain == index]
    return drawn_targets(own, _CHOSEN_ON, (run.config.seed, index))


def _sentence(shares: Shares, routed: bool) -> str:
    ours = 1 - shares.transitions - shares.similar - shares.popularity
    return (
        f"language model {ours:.2f}, followers {shares.transitions:.2f}, alike {shares.similar:.2f}, "
        f"popular {shares.popularity:.2f}" + (", moved by the router" if routed else "")
    )
