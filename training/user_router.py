"""Weighs the two distributions of the mixture: the best constant of a domain, and the user router's fit.

Both look only at what a model gave for transitions that it never learned: the log-probability of the item that came,
under the universal and under the domain's distribution, and the user vector of the prompt. They are computed once; a
fit then takes seconds. The router makes (1 - gamma) P_uni + gamma P_dom of the items likely, through the variational
information bottleneck (arXiv 1612.00410) that GenCDR (arXiv 2511.08006) routes with.

Shapes: M distributions (0 universal, 1 the domain's), X transitions, B a batch of them, D hidden width of the backbone,
H width of the bottleneck, G constants that are tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sidera.item_scores import read_items
from sidera.language_model import LanguageModel
from sidera.model.user_router import UserRouter
from sidera.trie import TrieTables
from training.errors import StageError
from training.model_config import RouterConfig
from training.progress import track

_GAMMAS = torch.arange(21, dtype=torch.float64) / 20
_SAME_LIKELIHOOD = 1e-6
_SCORED_AT_ONCE = 64
_FITTED_AT_ONCE = 128
_STEPS = 50
"""Steps of an epoch at the most; more transitions make larger batches."""
_PATIENCE = 10
"""Epochs without likelier validation targets after which the fit ends."""


@dataclass(frozen=True)
class Transitions:
    """Targets of one domain, as a model sees them.

    Attributes:
        log_mass_MX: log-probability of each target under either distribution. Shape: float32[2, X].
        user_XD: the universal hidden state at the end of its prompt. Shape: float32[X, D].
    """

    log_mass_MX: Tensor
    user_XD: Tensor

    def __len__(self) -> int:
        return len(self.user_XD)


@dataclass(frozen=True)
class RouterFit:
    """A fitted router.

    Attributes:
        router: of the best epoch; decides for every domain that it was fitted on.
        scores: mean log-probability of the validation targets, before the first epoch and after each.
    """

    router: UserRouter
    scores: tuple[float, ...]


def score_transitions(
    model: LanguageModel,
    tables: TrieTables,
    prompts: Sequence[Sequence[int]],
    leaves: Sequence[int],
    domain: str,
    label: str,
) -> Transitions:
    """Ask a model for the targets of a domain that has an adapter.

    Args:
        prompts: the tokens of each target's history.
        leaves: the leaf of each target.
        label: what is being done, for the progress bar.

    Raises:
        StageError: the model gives NaN.
    """
    adapter = model.adapter_index[domain]
    log_mass, user = torch.empty(2, len(prompts)), [torch.empty(0)] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    with track(label, len(prompts)) as advance:
        for begin in range(0, len(prompts), _SCORED_AT_ONCE):
            rows = by_length[begin : begin + _SCORED_AT_ONCE]
            leaves_B = torch.tensor([leaves[row] for row in rows], device=model.device)
            adapters_B = torch.full_like(leaves_B, adapter)
            log_mass_MB, hidden_MBD = read_items(model, tables, [prompts[row] for row in rows], leaves_B, adapters_B)
            log_mass[:, rows] = log_mass_MB.cpu()
            for row, user_D in zip(rows, hidden_MBD[0].float().cpu(), strict=True):
                user[row] = user_D
            advance(len(rows))
    found = Transitions(log_mass, torch.stack(user) if user else torch.empty(0, 0))
    if bool(found.log_mass_MX.isnan().any()) or not bool(found.user_XD.isfinite().all()):
        raise StageError(f"{label}: the model's scores are NaN; train it again with a lower learning rate")
    return found


def best_constant(log_mass_MX: Tensor) -> tuple[float, tuple[float, ...]]:
    """The domain distribution's share that makes the targets of one domain most likely.

    Returns:
        The share, one of 0, 0.05, ... 1, the least of those that are equally likely; and the mean log-probability of a
        target with each of these.
    """
    log_weights_GM = torch.stack([torch.log1p(-_GAMMAS), torch.log(_GAMMAS)], dim=1)
    mean_G = torch.logsumexp(log_weights_GM[..., None] + log_mass_MX.double(), dim=1).mean(dim=1)
    least = int((mean_G >= mean_G.max() - _SAME_LIKELIHOOD).nonzero()[0])
    return float(_GAMMAS[least]), tuple(mean_G.tolist())


def constant_log_likelihood(gamma: float, log_mass_MX: Tensor) -> float:
    """Mean log-probability of the targets under the mixture with this gamma."""
    share = torch.tensor(gamma, dtype=torch.float64)
    log_weights_M = torch.stack([torch.log1p(-share), torch.log(share)])
    return float(torch.logsumexp(log_weights_M[:, None] + log_mass_MX.double(), dim=0).mean())


@torch.no_grad()
def router_log_likelihood(router: UserRouter, transitions: Transitions) -> float:
    """Mean log-probability of the targets under the router's mixture, as it is served."""
    log_weights_MX = router(transitions.user_XD).double()
    return float(torch.logsumexp(log_weights_MX + transitions.log_mass_MX.double(), dim=0).mean())


def is_likelier(log_likelihood: float, than: float) -> bool:
    """Whether a mean log-probability is higher by more than rounding."""
    return log_likelihood > than + _SAME_LIKELIHOOD


def fit_router(
    learned: Mapping[str, Transitions], validation: Mapping[str, Transitions], config: RouterConfig, seed: int
) -> RouterFit:
    """Fit one router for the domains of ``learned``; the epoch that makes the validation targets likeliest is kept.

    It starts as the best constant of all transitions together. The loss is minus the mean log-probability of the
    items, plus ``kl_weight`` times the divergence of the bottleneck from a standard normal vector.

    Args:
        learned: transitions that no expert and no adapter has learned; at least one.
        validation: validation targets of the same domains; at least one.
    """
    every, held = _joined(list(learned.values())), _joined([validation[name] for name in learned])
    # Where both give the item no probability no gamma helps, and the gradient is NaN.
    tells_X = (every.log_mass_MX > float("-inf")).any(dim=0)
    log_mass_MX, user_XD = every.log_mass_MX[:, tells_X], every.user_XD[tells_X]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        router = UserRouter(every.user_XD.shape[1], config.hidden, tuple(learned))
    _start(router, every)
    optimizer = torch.optim.Adam(router.parameters(), lr=config.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(_FITTED_AT_ONCE, -(-len(user_XD) // _STEPS))
    best, scores = _copy(router), [router_log_likelihood(router, held)]
    with track("user router", config.epochs) as advance:
        for _ in range(config.epochs):
            for rows_B in torch.randperm(len(user_XD), generator=generator).split(at_once):
                mean_BH, log_variance_BH = router.bottleneck_of(user_XD[rows_B])
                noise_BH = torch.randn(mean_BH.shape, generator=generator)
                log_weights_MB = router.log_weights_of(mean_BH + (log_variance_BH / 2).exp() * noise_BH)
                log_likelihood_B = torch.logaddexp(*(log_weights_MB + log_mass_MX[:, rows_B]))
                divergence_B = (mean_BH.square() + log_variance_BH.exp() - 1 - log_variance_BH).sum(dim=1) / 2
                loss = config.kl_weight * divergence_B.mean() - log_likelihood_B.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            score = router_log_likelihood(router, held)
            if score > max(scores):
                best = _copy(router)
            scores.append(score)
            advance(note=f"validation {score:.4f}")
            if len(scores) - 1 - scores.index(max(scores)) >= _PATIENCE:
                break
    router.load_state_dict(best)
    return RouterFit(router.requires_grad_(False).eval(), tuple(scores))


def _start(router: UserRouter, every: Transitions) -> None:
    """Standardise the user vectors, and let gamma be one constant."""
    with torch.no_grad():
        router.mean_D.copy_(every.user_XD.mean(dim=0))
        scale_D = every.user_XD.std(dim=0, correction=0)
        router.scale_D.copy_(torch.where(scale_D > 1e-6, scale_D, 1.0))
        gamma = min(max(best_constant(every.log_mass_MX)[0], 0.05), 0.95)
        router.output.weight.zero_()
        router.output.bias.fill_(torch.logit(torch.tensor(gamma)))


def _joined(parts: Sequence[Transitions]) -> Transitions:
    parts = [part for part in parts if len(part)]
    return Transitions(
        torch.cat([part.log_mass_MX for part in parts], dim=1), torch.cat([part.user_XD for part in parts])
    )


def _copy(router: UserRouter) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in router.state_dict().items()}
