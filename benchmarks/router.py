"""``python -m benchmarks.router --bundle DIR --data DIR --domains A,B --out FILE.json``: what the routers are worth.

The mixture that is served, whose shares the routers choose for each history, against one vector of fixed shares in each
domain: the one of all in twentieths (the domain's part of the language model in tenths) that has the highest NDCG@10 on
the validation targets. Both rank the same candidates, those of :mod:`training.expert_masses`, on the validation targets
that the vector was chosen on, and on test targets. Item level.

Shapes: N targets, G experts, C candidates of one target, Z candidates of all targets, W vectors of shares, P parts:
followers, alike, popularity, language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console

from benchmarks.harness import Figure, report, shown
from sidera.errors import SideraError
from sidera.loading import LoadedBundle, load_bundle
from training.data import read_dataset
from training.errors import DataError, TrainingError
from training.evaluation import PLACES, drawn_targets
from training.expert_masses import Experts, Known, known_to_experts
from training.metrics import ABSENT, ndcg_values, paired_bootstrap
from training.mixture_shares import grid
from training.split import CalendarSplit, Part, split_events, targets

GAMMAS = tuple(step / 10 for step in range(11))
_PARTS = 4

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fixed:
    """One vector of shares for all histories of a domain.

    Attributes:
        gamma: what the domain's distribution is of the language model.
        share_P: of followers, alike, popularity, language model.
    """

    gamma: float
    share_P: Floats

    @property
    def told(self) -> str:
        """The vector in words."""
        followed, alike, popular, model = self.share_P.tolist()
        shares = f"followers {followed:.2f}, alike {alike:.2f}, popular {popular:.2f}, language model {model:.2f}"
        return f"{shares} with gamma {self.gamma:.1f}"


def main(
    bundle: Annotated[Path, typer.Option(help="A trained bundle with neighbours.")],
    data: Annotated[Path, typer.Option(help="The data that it was trained on.")],
    domains: Annotated[str, typer.Option(help="Domains of the bundle, such as beauty,clothing.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    targets: Annotated[int, typer.Option(min=0, help="Test targets of a domain; 0: all.")] = 0,
    validation: Annotated[int, typer.Option(min=1, help="Validation targets that fixed shares are chosen on.")] = 2000,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads, 0 for all cores.")] = 0,
    forget: Annotated[Path | None, typer.Option(help="The list of users to forget that training had.")] = None,
) -> None:
    """Compare the routers of a bundle with the best fixed shares of each domain."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        if threads:
            torch.set_num_threads(threads)
        loaded = load_bundle(bundle)
        seed = int(loaded.manifest.config["seed"])
        figures: dict[str, Figure] = {}
        for name in (name.strip() for name in domains.split(",") if name.strip()):
            known = asked_experts(loaded, data, name, validation, targets, forget)
            figures |= router_figures(name, known[Part.VALIDATION], known[Part.TEST], seed)
        context: dict[str, object] = {"bundle": loaded.manifest.bundle_version}
        report("Routers against the best fixed shares, NDCG@10", figures, out, context)
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def asked_experts(
    loaded: LoadedBundle, data: Path, name: str, validation: int, test: int, forget: Path | None
) -> dict[Part, Experts]:
    """What the experts know of the validation and the test targets of a domain.

    Raises:
        DataError: the domain is not in the bundle, or has no shares or no targets.
    """
    listed, entries = loaded.recommender.neighbours, loaded.manifest.domains
    if listed is None or name not in listed.shares:
        known = ", ".join(listed.shares) if listed is not None else "none: it has no neighbours"
        raise DataError(f"--domains names {name!r}, which has no shares in this bundle; choose among {known}")
    trained = sorted(entries, key=lambda own: entries[own].token)
    dataset = read_dataset(data, trained, int(loaded.manifest.config["min_interactions"]), forget)
    moments = loaded.manifest.config.get("split")
    events = split_events(dataset, None if moments is None else CalendarSplit(**moments))
    seed, index = int(loaded.manifest.config["seed"]), trained.index(name)
    found = {}
    for part, most in ((Part.VALIDATION, validation), (Part.TEST, test)):
        own = drawn_targets([target for target in targets(events, part) if target.domain == index], most, (seed, index))
        if not own:
            raise DataError(f"domain {name!r} has no {part.name.lower()} target; choose another one")
        found[part] = known_to_experts(loaded.recommender, listed, dataset.domains, index, own)
    return found


def best_fixed(experts: Experts) -> Fixed:
    """The fixed shares with the highest NDCG@10; of several the first."""
    share_WP = grid(_PARTS)
    best, highest = Fixed(0.0, share_WP[-1]), -1.0
    held = [known for known in experts.known if known.target is not None]
    if not held:
        return best
    begin_N = np.cumsum([0, *(known.mass_GC.shape[1] for known in held)])
    target_N = begin_N[:-1] + np.array([known.target for known in held])
    for gamma in GAMMAS if experts.of_model == 2 else GAMMAS[:1]:
        mass_PZ = np.concatenate([_by_part(known, experts.of_model, gamma) for known in held], axis=1)
        for share_P in share_WP:
            score_Z = share_P @ mass_PZ
            score_N = score_Z[target_N]
            better_N = np.add.reduceat(score_Z > np.repeat(score_N, np.diff(begin_N)), begin_N[:-1])
            ndcg = float(ndcg_values(np.where(score_N > 0, better_N, ABSENT), PLACES).sum())
            if ndcg > highest:
                best, highest = Fixed(gamma, share_P), ndcg
    return best


def fixed_ndcg(experts: Experts, fixed: Fixed) -> Floats:
    """NDCG@10 of every target with fixed shares: float64[N]."""
    return _ndcg(experts, [fixed] * len(experts.known))


def routed_ndcg(experts: Experts) -> Floats:
    """NDCG@10 of every target with the shares that serve: float64[N]."""
    every = []
    for known in experts.known:
        ours = known.share_G[: experts.of_model]
        gamma = float(ours[1] / ours.sum()) if experts.of_model == 2 and ours.sum() > 0 else 0.0
        every.append(Fixed(gamma, np.append(known.share_G[experts.of_model :], ours.sum())))
    return _ndcg(experts, every)


def _ndcg(experts: Experts, shares: Sequence[Fixed]) -> Floats:
    rank_N = np.full(len(experts.known), ABSENT, dtype=np.int64)
    for row, (known, own) in enumerate(zip(experts.known, shares, strict=True)):
        if known.target is not None:
            score_C = own.share_P @ _by_part(known, experts.of_model, own.gamma)
            if score_C[known.target] > 0:
                rank_N[row] = int((score_C > score_C[known.target]).sum())
    return ndcg_values(rank_N, PLACES)


def _by_part(known: Known, of_model: int, gamma: float) -> Floats:
    """What each part gives the candidates, float64[P, C]; what it leaves goes to the language model."""
    weight_M = np.array([1 - gamma, gamma])[:of_model] if of_model == 2 else np.ones(1)
    model_C = weight_M @ known.mass_GC[:of_model]
    left_P = np.append(known.left_G[of_model:], 0.0)
    mass_PC: Floats = np.concatenate([known.mass_GC[of_model:], model_C[None]]) + left_P[:, None] * model_C
    return mass_PC


def router_figures(name: str, validation: Experts, test: Experts, seed: int) -> dict[str, Figure]:
    """The routers of one domain against its best fixed shares, on validation and on test targets."""
    fixed = best_fixed(validation)
    figures = {}
    for part, experts in (("validation", validation), ("test", test)):
        routed_N, fixed_N = routed_ndcg(experts), fixed_ndcg(experts, fixed)
        difference = paired_bootstrap(routed_N, fixed_N, seed)
        note = f"{len(routed_N):,} targets"
        figures[f"ndcg_routed_{part}_{name}"] = shown(float(routed_N.mean()), "NDCG@10", note)
        figures[f"ndcg_fixed_{part}_{name}"] = shown(float(fixed_N.mean()), "NDCG@10", f"{note}; {fixed.told}")
        told = f"95 % {difference.low:+.4f} .. {difference.high:+.4f}, p {difference.p_value:.4f}"
        figures[f"routed_minus_fixed_{part}_{name}"] = (
            Figure(difference.mean, "NDCG@10", "> 0", difference.mean > 0, told)
            if part == "test"
            else shown(difference.mean, "NDCG@10", f"{told}; the fixed shares were chosen on these")
        )
    return figures


if __name__ == "__main__":
    typer.run(main)
