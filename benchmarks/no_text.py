"""``python -m benchmarks.no_text --data DIR --domain NAME [--share 0.2] [--quick] --out FILE.json``: hidden texts.

Hides the text of some items at random, and makes their vectors as training does of items that have none. Then asks how
near these are to the vectors of the true texts, and what content-kNN loses on the test part by them.

Shapes: N items, M hidden items, T targets, D dim.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from benchmarks.harness import Figure, report, shown
from sidera.embedding import DEFAULT_ENCODER, EncoderSpec, TextEncoder
from sidera.errors import SideraError
from training.data import Dataset, DomainData, read_dataset
from training.errors import DataError, TrainingError
from training.evaluation import PLACES
from training.floors import FloorTask, content_knn
from training.metrics import ndcg_values, paired_bootstrap, target_ranks
from training.no_text import vectors_without_text
from training.split import Events, Part, Target, split_events, targets
from training.vectors import item_vectors

Vectors = npt.NDArray[np.float32]

_QUICK_ITEMS = 1500
_SEED = 0


@dataclass(frozen=True, eq=False)
class Hidden:
    """A domain, some of whose items are taken for items without text.

    Attributes:
        domain: with all its texts.
        events: of this domain alone.
        hidden_M: int64[M] numbers of the items, in order; each has an event in the train part.
        vectors: by where the hidden items' vectors come from, float32[N, D]; of ``text`` all come from text.
    """

    domain: DomainData
    events: Events
    hidden_M: npt.NDArray[np.int64]
    vectors: Mapping[str, Vectors]


def main(
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domain: Annotated[str, typer.Option(help="The domain.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of the items whose text is hidden.")] = 0.2,
    encoder: Annotated[str, typer.Option(help="Makes the item vectors: a name or a folder.")] = DEFAULT_ENCODER,
    encoder_tokens: Annotated[int, typer.Option(help="The encoder cuts longer texts there.")] = EncoderSpec.max_tokens,
    work: Annotated[Path, typer.Option(help="Text vectors are kept here.")] = Path(".cache/no_text"),
    quick: Annotated[bool, typer.Option("--quick", help="The most popular 1,500 items only.")] = False,
) -> None:
    """Hide the text of some items, and measure the vectors that their interactions give them instead."""
    try:
        dataset = read_dataset(data, [domain])
        if quick:
            dataset = popular_part(dataset, _QUICK_ITEMS)
        (whole,) = dataset.domains
        text_encoder = TextEncoder(EncoderSpec(name=encoder, max_tokens=encoder_tokens))
        vectors_ND = item_vectors(whole, text_encoder, work / ("quick" if quick else "vectors"))
        hidden = hide(dataset, vectors_ND, share)
        figures = cosine_figures(hidden) | knn_figures(hidden)
    except (SideraError, TrainingError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    context = {"domain": domain, "share": share, "items": len(whole.item_ids), "seed": _SEED, "quick": quick}
    report(f"{share:.0%} of the texts of {domain} hidden", figures, out, context)


def popular_part(dataset: Dataset, items: int) -> Dataset:
    """The one domain's items with most events in the train part, and the events of these."""
    (domain,) = dataset.domains
    events = split_events(dataset)
    taken_N = np.bincount(events.item_E[events.part_E == Part.TRAIN], minlength=len(domain.item_ids))
    kept_N = np.sort(np.argsort(-taken_N, kind="stable")[:items])
    number_N = np.full(len(domain.item_ids), -1, dtype=np.int32)
    number_N[kept_N] = np.arange(len(kept_N), dtype=np.int32)
    kept_E = number_N[domain.item_E] >= 0
    part = DomainData(
        name=domain.name,
        item_ids=tuple(domain.item_ids[item] for item in kept_N),
        fields=tuple(domain.fields[item] for item in kept_N),
        user_E=domain.user_E[kept_E],
        item_E=number_N[domain.item_E[kept_E]],
        time_E=domain.time_E[kept_E],
        items_file=domain.items_file,
        no_text={int(number_N[item]): line for item, line in domain.no_text.items() if number_N[item] >= 0},
    )
    return dataclasses.replace(dataset, domains=(part,))


def hide(dataset: Dataset, vectors_ND: Vectors, share: float) -> Hidden:
    """Draw items that have text and an event in the train part, and make their vectors without the text.

    Args:
        vectors_ND: text vectors of the one domain.
        share: of all its items.

    Raises:
        DataError: an item has no text, or no item is left with text, or none to hide.
    """
    (domain,) = dataset.domains
    if domain.no_text:
        raise DataError(f"domain {domain.name!r} has items without text; measure on one whose items all have text")
    events = split_events(dataset)
    trained_N = np.unique(events.item_E[events.part_E == Part.TRAIN])
    count = min(round(share * len(vectors_ND)), len(trained_N))
    if not 0 < count < len(vectors_ND):
        raise DataError(f"--share {share} hides {count} of {len(vectors_ND)} items; hide some of them, not all")
    hidden_M = np.sort(np.random.default_rng(_SEED).choice(trained_N, count, replace=False)).astype(np.int64)
    textless = dataclasses.replace(domain, no_text=dict.fromkeys(hidden_M.tolist(), 0))
    shown_N = np.ones(len(vectors_ND), dtype=bool)
    shown_N[hidden_M] = False
    # Where the texts were: what is measured must not read them, as NaN would show.
    masked_ND = np.where(shown_N[:, None], vectors_ND, np.float32(np.nan))
    others_M = np.random.default_rng([_SEED, 1]).choice(np.flatnonzero(shown_N), count)
    replaced = {
        "graph": vectors_without_text(textless, 0, events, masked_ND, 1.0),
        "mean": np.tile(vectors_ND[shown_N].mean(axis=0), (count, 1)),
        "random": vectors_ND[others_M],
    }
    vectors = {"text": vectors_ND}
    for name, vectors_MD in replaced.items():
        vectors[name] = vectors_ND.copy()
        vectors[name][hidden_M] = vectors_MD
    return Hidden(domain, events, hidden_M, vectors)


def cosine_figures(hidden: Hidden) -> dict[str, Figure]:
    """The mean cosine between the vectors that the hidden items got and those of their texts."""
    means = {
        name: float(_cosines(vectors_ND[hidden.hidden_M], hidden.vectors["text"][hidden.hidden_M]).mean())
        for name, vectors_ND in hidden.vectors.items()
    }
    note = f"to the text's vector, mean of {len(hidden.hidden_M):,} hidden items"
    gain = means["graph"] - means["mean"]
    return {
        "cosine_graph": shown(means["graph"], "cosine", f"from the train part's events; {note}"),
        "cosine_mean": shown(means["mean"], "cosine", f"the mean of the texts that are shown; {note}"),
        "cosine_random": shown(means["random"], "cosine", f"a random other item's; {note}"),
        "cosine_graph_above_mean": Figure(gain, "cosine", "> 0", gain > 0),
    }


def knn_figures(hidden: Hidden) -> dict[str, Figure]:
    """NDCG@10 of content-kNN on the test part, by all texts and by what the hidden items got instead."""
    asked = targets(hidden.events, Part.TEST)
    if not asked:
        raise DataError(f"no user of {hidden.domain.name!r} has 3 events, so there is no target; give more events")
    task = FloorTask(hidden.events, 0, hidden.domain.item_ids, asked, PLACES)
    item_T = np.array([target.item for target in asked])
    ndcg = {
        name: ndcg_values(target_ranks(content_knn(task, vectors_ND), item_T), PLACES)
        for name, vectors_ND in hidden.vectors.items()
    }
    figures = _knn_figures(ndcg, "ndcg_knn", f"{len(asked):,} targets")
    touched_T = _touched(hidden, asked)
    if touched_T.any():
        own = {name: ndcg_T[touched_T] for name, ndcg_T in ndcg.items()}
        note = f"{touched_T.sum():,} targets where the newest item or the target is hidden"
        figures |= _knn_figures(own, "ndcg_knn_touched", note)
    return figures


def _knn_figures(ndcg: Mapping[str, npt.NDArray[np.float64]], label: str, note: str) -> dict[str, Figure]:
    figures = {f"{label}_{name}": shown(float(ndcg_T.mean()), "NDCG@10", note) for name, ndcg_T in ndcg.items()}
    difference = paired_bootstrap(ndcg["graph"], ndcg["text"], _SEED)
    interval = f"95 % of the difference {difference.low:+.4f} .. {difference.high:+.4f}, p {difference.p_value:.4f}"
    by_text = float(ndcg["text"].mean())
    change = 100 * difference.mean / by_text if by_text else None
    return figures | {f"{label}_graph_beside_text": shown(change, "%", interval)}


def _touched(hidden: Hidden, asked: list[Target]) -> npt.NDArray[np.bool_]:
    """Whose newest item or target is hidden: bool[T]."""
    items = frozenset(hidden.hidden_M.tolist())
    return np.array([target.item in items or target.history[-1][1] in items for target in asked])


def _cosines(ours_MD: Vectors, theirs_MD: Vectors) -> npt.NDArray[np.float32]:
    lengths_M = np.linalg.norm(ours_MD, axis=1) * np.linalg.norm(theirs_MD, axis=1)
    cosine_M: npt.NDArray[np.float32] = (ours_MD * theirs_MD).sum(axis=1) / np.maximum(lengths_M, 1e-12)
    return cosine_M


if __name__ == "__main__":
    typer.run(main)
