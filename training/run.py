"""What all stages of one run share: config, data, targets that select, and where the stages lie."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sidera.catalog import Catalog
from sidera.items.neighbours import Neighbours
from sidera.language_model import LanguageModel
from sidera.recommender import Recommender
from training.config import TrainConfig
from training.data import Dataset
from training.evaluation import drawn_targets, query_of
from training.pretrained import FoundBackbone
from training.split import Events, Part, Target, targets
from training.trackers import Tracking

_SAMPLES_PER_DOMAIN = 8


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        work: the folder of its stages.
        device: where the models compute.
        say: told in a sentence what each stage did.
        pretrained: the backbone that phase 1 begins with; None for a scratch one.
    """

    config: TrainConfig
    dataset: Dataset
    events: Events
    work: Path
    device: str
    say: Callable[[str], None]
    pretrained: FoundBackbone | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The domains, in the order of their tokens."""
        return tuple(domain.name for domain in self.dataset.domains)

    @cached_property
    def validation(self) -> tuple[Target, ...]:
        """Validation targets; at most ``validation_targets`` a domain, the same ones in every run."""
        every = targets(self.events, Part.VALIDATION)
        chosen: list[Target] = []
        for domain in range(len(self.names)):
            own = [target for target in every if target.domain == domain]
            chosen += drawn_targets(own, self.config.language_model.validation_targets, (self.config.seed, domain))
        return tuple(chosen)

    def validation_of(self, domain: int) -> tuple[Target, ...]:
        """The validation targets of one domain."""
        return tuple(target for target in self.validation if target.domain == domain)

    @property
    def tracking(self) -> Tracking:
        """Where the curves of the language model's training go."""
        return Tracking(self.config.trackers, self.work / "logs")

    def recommender(self, model: LanguageModel, catalog: Catalog, neighbours: Neighbours | None = None) -> Recommender:
        """What would serve this model."""
        config = self.config.language_model
        return Recommender(model, catalog, config.max_history, config.beam_width, neighbours)

    def samples(self) -> list[dict[str, Any]]:
        """A few requests of real users, as ``POST /recommend`` takes them, to warm a service up with."""
        bodies: list[dict[str, Any]] = []
        for domain, name in enumerate(self.names):
            for target in self.validation_of(domain)[:_SAMPLES_PER_DOMAIN]:
                query = query_of(target, self.dataset.domains)
                newest = query.history[-self.config.language_model.max_history :]
                history = [{"domain": place, "item_id": item_id} for place, item_id in newest]
                bodies.append({"domain": name, "history": history, "num_results": 10})
            bodies.append({"domain": name, "history": [], "num_results": 10})
        return bodies

    def evaluation_users(self) -> list[dict[str, Any]]:
        """A few users whose next item only validation has seen: ``domain``, ``history`` and ``target``."""
        users: list[dict[str, Any]] = []
        for domain, name in enumerate(self.names):
            own = [target for target in self.validation_of(domain) if target.history]
            for target in own[:_SAMPLES_PER_DOMAIN]:
                query = query_of(target, self.dataset.domains)
                newest = query.history[-self.config.language_model.max_history :]
                history = [{"domain": place, "item_id": item_id} for place, item_id in newest]
                item_id = self.dataset.domains[domain].item_ids[target.item]
                users.append({"domain": name, "history": history, "target": item_id})
        return users
