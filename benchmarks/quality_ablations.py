"""GenCDR's switches, one at a time, and what the language model is worth without each part (arXiv 2511.08006).

All variants answer the same test targets without neighbours, which the paper does not have, so differences are paired.
A variant that only weighs or searches otherwise is made of the weights that are there. So is "no domain adapter": the
universal distribution alone, which learned from the same events. Experts are part of phase 1: their variants are
trained anew, and take over every stage before it.

Shapes: N targets, K places.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.no_trie import recommend_without_trie
from benchmarks.quality_runs import QualityRun, Say, train_run, without_neighbours
from sidera.bundle import open_bundle
from sidera.language_model import LanguageModel
from sidera.loading import bundle_vocabulary, load_bundle, load_bundle_backbone
from sidera.recommender import Recommender
from training.config import TrainConfig
from training.data import DomainData
from training.evaluation import recommend_for
from training.metrics import target_ranks
from training.split import Part, Target, split_events, targets
from training.stages import stage

Ranks = npt.NDArray[np.int64]

SERVED = "sidera"
WHOLE = "language_model"
"""What all variants but one are compared with; "no neighbours" is this one, compared with what is served."""

FIXED_GAMMA = 0.5


@dataclass(frozen=True)
class Ablation:
    """One switch.

    Attributes:
        name: in figures.
        paper: what the paper says of the effect on NDCG@10.
        than: the variant that it is compared with.
        experts: settings of the universal experts; None: the weights that are there serve.
        adapters: whether it says anything where no domain has an adapter.
    """

    name: str
    paper: str
    than: str = WHOLE
    experts: Mapping[str, Any] | None = None
    adapters: bool = False


ABLATIONS = (
    Ablation("no_universal_experts", "falls", experts={"count": 0}),
    Ablation("no_domain_adapter", "falls", adapters=True),
    Ablation("average_gate", "falls", experts={"gate": "average"}),
    Ablation("gamma_fixed", "falls", adapters=True),
    Ablation("gamma_constant", "falls", adapters=True),
    Ablation("no_trie", "falls by 2.5 to 3.2 %"),
    Ablation("no_neighbours", "has none", than=SERVED),
)
"""Fixed and constant gamma stand for the paper's model without a user router."""


@dataclass(frozen=True)
class Ablated:
    """What the variants gave.

    Attributes:
        ranks: by domain and variant. Shape of each: int64[N].
        left_out: why a switch says nothing here, by its name.
        runs: what was trained for it.
    """

    ranks: Mapping[str, Mapping[str, Ranks]]
    left_out: Mapping[str, str]
    runs: Sequence[QualityRun]


def ablate(run: QualityRun, homes: Path, most_targets: int, say: Say) -> Ablated:
    """Rank the same test targets with every switch.

    Args:
        run: the whole.
        homes: the folder of the runs that are trained anew.
        most_targets: of a domain, the same ones for every variant; 0: all.
    """
    domains, asked = run.dataset().domains, _asked(run, most_targets)
    found: dict[str, dict[str, Ranks]] = {name: {} for name in asked}
    left_out, trained = {}, []

    def rank(variant: str, of: QualityRun) -> None:
        made: list[Recommender] = []

        def recommender() -> Recommender:
            if not made:
                made.append(variant_of(of, variant))
            return made[0]

        for name, own in asked.items():
            found[name][variant] = _ranked(of, variant, recommender, domains, own)

    for variant in (SERVED, WHOLE):
        rank(variant, run)
    for ablation in ABLATIONS:
        if ablation.than == SERVED:
            continue
        if reason := _says_nothing(ablation, run):
            left_out[ablation.name] = reason
            continue
        say(f"ablation: {ablation.name}")
        if ablation.experts is None:
            rank(ablation.name, run)
            continue
        changed = with_experts(run.config, ablation.experts)
        own_run = train_run(homes / f"ablation-{ablation.name}", changed, say, like=run)
        trained.append(own_run)
        rank(ablation.name, own_run)
    for of_domain in found.values():
        of_domain["no_neighbours"] = of_domain[WHOLE]
    return Ablated(found, left_out, trained)


def variant_of(run: QualityRun, variant: str) -> Recommender:
    """The recommender of a variant that the weights of a run are enough for."""
    served = load_bundle(run.bundle, run.config.device).recommender
    if variant == SERVED:
        return served
    model = served.model
    if variant in ("no_domain_adapter", "gamma_fixed", "gamma_constant"):
        bundle, weighed = open_bundle(run.bundle), _weighed(run)
        backbone = load_bundle_backbone(bundle, model.device.type)
        # Those of the bundle are only the ones that have a share.
        every = {name: run.work / f"adapter-{name}" / "adapter" for name in weighed}
        adapters = {} if variant == "no_domain_adapter" else every
        fixed = variant == "gamma_fixed"
        gammas = {name: FIXED_GAMMA if fixed else float(about["gamma"]) for name, about in weighed.items()}
        model = LanguageModel(backbone, bundle_vocabulary(bundle.manifest), adapters, gammas)
    return without_neighbours(Recommender(model, served.catalog, served.max_history, served.beam_width))


def with_experts(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """The config with other settings of its universal experts.

    Raises:
        ValueError: its backbone has none.
    """
    experts = config.language_model.universal_experts
    if experts is None:
        raise ValueError("the backbone has no universal experts; take a pretrained one, or set experts")
    changed = replace(experts, **settings)
    return replace(config, language_model=replace(config.language_model, experts=changed))


def _weighed(run: QualityRun) -> dict[str, dict[str, Any]]:
    """What the run's mixture stage says of each domain that has an adapter."""
    weighed: dict[str, dict[str, Any]] = json.loads((run.work / "mixture" / "gammas.json").read_text())
    return weighed


def _says_nothing(ablation: Ablation, run: QualityRun) -> str:
    """Why a switch has no effect here; empty where it has one."""
    experts = run.config.language_model.universal_experts
    if ablation.experts is not None:
        if experts is None:
            return "the backbone has no universal experts: all of its weights are shared and train"
        if replace(experts, **ablation.experts) == experts:
            return "it is trained so already"
    if ablation.adapters and not _weighed(run):
        return "no domain has an adapter"
    return ""


def _asked(run: QualityRun, most: int) -> dict[str, list[Target]]:
    """Test targets by domain; of a domain at most ``most``, drawn once and in their order."""
    asked: dict[str, list[Target]] = {}
    dataset = run.dataset()
    every = targets(split_events(dataset), Part.TEST)
    for number, domain in enumerate(dataset.domains):
        own = [target for target in every if target.domain == number]
        if most:
            rows = np.random.default_rng(run.config.seed).permutation(len(own))[:most]
            own = [own[row] for row in sorted(rows.tolist())]
        if own:
            asked[domain.name] = own
    return asked


def _ranked(
    run: QualityRun,
    variant: str,
    recommender: Callable[[], Recommender],
    domains: Sequence[DomainData],
    asked: Sequence[Target],
) -> Ranks:
    """The ranks of one domain's targets; kept on disk."""
    name = domains[asked[0].domain].name
    told = hashlib.sha256(json.dumps([asdict(target) for target in asked]).encode()).hexdigest()
    inputs = {"bundle": run.manifest.bundle_version, "variant": variant, "targets": told}
    with stage(run.home / "ranks", f"{variant}-{name}", inputs) as made:
        path = made.folder / "ranks.json"
        if not made.done:
            if variant == "no_trie":
                top_NK = recommend_without_trie(recommender(), domains, asked).top_NP
            else:
                top_NK = recommend_for(recommender(), domains, asked, f"{variant}, {name}").top_NK
            rank_N = target_ranks(top_NK, np.array([target.item for target in asked]))
            path.write_text(json.dumps(rank_N.tolist()))
        return np.array(json.loads(path.read_text()), dtype=np.int64)
