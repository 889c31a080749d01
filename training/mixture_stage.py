"""The stage that weighs the distributions: a constant per domain, or the user router where it is better."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from sidera.catalog import Catalog
from sidera.files import write_atomically
from sidera.language_model import LanguageModel
from sidera.model.user_router import UserRouter, load_router, save_router
from sidera.model.vocabulary import Vocabulary
from sidera.recommender import Recommender
from training.backbones import load_universal
from training.evaluation import query_of
from training.run import Run
from training.split import Part, Target, targets
from training.stages import Stage, stage
from training.user_router import (
    Transitions,
    best_constant,
    constant_log_likelihood,
    fit_router,
    is_likelier,
    router_log_likelihood,
    score_transitions,
)


@dataclass(frozen=True)
class Weighed:
    """The mixture of a run.

    Attributes:
        stage: its digest goes into the stages behind it.
        gammas: the domain distribution's constant share in each domain that has an adapter.
        router: the file of the user router; None: no domain is better off with one.
        routed: the domains in which it decides in place of the constant.
    """

    stage: Stage
    gammas: Mapping[str, float]
    router: Path | None
    routed: frozenset[str]

    def adapters(self, adapters: Mapping[str, Stage]) -> dict[str, Path]:
        """The PEFT folders of the domains whose adapter has a share in the mixture."""
        used = [name for name in adapters if name in self.routed or self.gammas[name] > 0]
        return {name: adapters[name].folder / "adapter" for name in used}

    def loaded_router(self) -> UserRouter | None:
        """The router, read from its file."""
        return None if self.router is None else load_router(self.router)


def mixture_stage(
    run: Run, vocabulary: Vocabulary, catalog: Catalog, universal: Stage, adapters: Mapping[str, Stage]
) -> Weighed:
    """Weigh the distributions; leaves ``gammas.json``, and ``router.safetensors`` where a router is better.

    What the models gave for the transitions is kept as it comes, so that a run that was killed goes on from there.
    """
    config = run.config.language_model.router
    inputs = {
        "upstream": [universal.digest, *(made.digest for made in adapters.values())],
        "config": asdict(config),
        "seed": run.config.seed,
    }
    with stage(run.work, "mixture", inputs) as made:
        path, router_path = made.folder / "gammas.json", made.folder / "router.safetensors"
        if not made.done:
            # Nobody has a target in a domain that is missing here: no adapter could be trained.
            found = {name: _fixed(config.gamma) for name in adapters} if config.gamma is not None else {}
            if config.gamma is None and adapters:
                folders = {name: adapter.folder / "adapter" for name, adapter in adapters.items()}
                backbone = load_universal(universal.folder, run.device)
                scored = _Scored(run, run.recommender(LanguageModel(backbone, vocabulary, folders), catalog), made)
                found = _weigh(run, scored, list(adapters), router_path)
            write_atomically(path, json.dumps(found, indent=1).encode())
        found = json.loads(path.read_text())
    run.say("mixture: " + ("; ".join(_sentence(name, about) for name, about in found.items()) or "universal alone"))
    routed = frozenset(name for name, about in found.items() if about["by"] == "router")
    gammas = {name: float(about["gamma"]) for name, about in found.items()}
    return Weighed(made, gammas, router_path if routed else None, routed)


class _Scored:
    """The transitions of a run, as its models see them."""

    def __init__(self, run: Run, recommender: Recommender, made: Stage) -> None:
        self._run, self._recommender, self._folder = run, recommender, made.folder
        self._held_out = targets(run.events, Part.ROUTER)

    def held_out(self, name: str) -> Transitions:
        """Those that neither phase has learned."""
        domain = self._run.names.index(name)
        return self._of(name, [target for target in self._held_out if target.domain == domain], "router")

    def validation(self, name: str) -> Transitions:
        """The validation targets."""
        return self._of(name, self._run.validation_of(self._run.names.index(name)), "validation")

    def _of(self, name: str, asked: Sequence[Target], kind: str) -> Transitions:
        if not asked:
            return Transitions(torch.empty(2, 0), torch.empty(0, 0))
        path = self._folder / f"{name}-{kind}.safetensors"
        if not path.exists():
            domains = self._run.dataset.domains
            prompts = [self._recommender.prompt(query_of(target, domains)) for target in asked]
            item_ids = domains[asked[0].domain].item_ids
            leaves = [self._recommender.leaf(name, item_ids[target.item]) for target in asked]
            label = f"mixture {name}: {kind} targets"
            model, tables = self._recommender.model, self._recommender.tables
            found = score_transitions(model, tables, prompts, leaves, name, label)
            write_atomically(path, save({"log_mass": found.log_mass_MX, "user": found.user_XD}))
        kept = load_file(path)
        return Transitions(kept["log_mass"], kept["user"])


def _weigh(run: Run, scored: _Scored, names: Sequence[str], router_path: Path) -> dict[str, dict[str, Any]]:
    """The best constant of each domain, and the router where validation targets are likelier with it."""
    validation = {name: scored.validation(name) for name in names}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        gamma, likelihoods = best_constant(validation[name].log_mass_MX)
        constant = constant_log_likelihood(gamma, validation[name].log_mass_MX)
        found[name] = {"by": "constant", "gamma": gamma, "log_likelihood": constant, "constants": likelihoods}
    if run.config.language_model.router_share == 0:
        return found
    held_out = {name: scored.held_out(name) for name in names}
    learned = {name: transitions for name, transitions in held_out.items() if len(transitions)}
    if not learned:
        return found
    fit = fit_router(learned, validation, run.config.language_model.router, run.config.seed)
    better = []
    for name in learned:
        with_router = router_log_likelihood(fit.router, validation[name])
        log_weights_MX = fit.router(validation[name].user_XD)
        low, middle, high = log_weights_MX[1].exp().quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        found[name] |= {
            "router_log_likelihood": with_router,
            "router_gammas": {"10%": low, "50%": middle, "90%": high},
            "transitions": len(learned[name]),
        }
        if is_likelier(with_router, than=found[name]["log_likelihood"]):
            found[name]["by"] = "router"
            better.append(name)
    if better:
        fit.router.domains = tuple(better)
        save_router(fit.router, router_path)
    return found


def _fixed(gamma: float) -> dict[str, Any]:
    return {"by": "fixed", "gamma": gamma}


def _sentence(name: str, about: Mapping[str, Any]) -> str:
    constant = f"{name} gamma {about['gamma']:.2f}"
    if about["by"] == "fixed":
        return f"{constant}, as set"
    if "router_log_likelihood" not in about:
        return f"{constant}, the best constant"
    ours, routers = about["log_likelihood"], about["router_log_likelihood"]
    if about["by"] == "constant":
        return f"{constant}, as the router is not better ({routers:.4f} against {ours:.4f})"
    low, high = about["router_gammas"]["10%"], about["router_gammas"]["90%"]
    return f"{name} by the router, gamma {low:.2f} to {high:.2f} ({routers:.4f} against {ours:.4f} of a constant)"
