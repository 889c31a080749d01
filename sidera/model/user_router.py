"""How much a user hears of the domain's own distribution: gamma, from a router or from a constant per domain.

The mixture of a request is P = (1 - gamma) P_uni + gamma P_dom over items (GenCDR, arXiv 2511.08006). A router reads
gamma off the user vector: the universal hidden state at the prompt's last token, the target's domain token. So the
weights of a mixture are known only once the histories are read; until then a :class:`Mixture` stands for them.

Shapes: M distributions (0 universal, 1 the domain's), B batch, D hidden width of the backbone, H width of the
bottleneck and of the layer behind it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sidera.errors import BackboneError

_DOMAINS = "domains"


class UserRouter(nn.Module):
    """gamma = sigmoid(MLP(z)), z a Gaussian bottleneck of the user vector, at inference its mean.

    The bottleneck is that of the variational information bottleneck (arXiv 1612.00410). All computes in float32, each
    row by itself.

    Args:
        width: D.
        hidden: H.
        domains: the domains that it decides for; the user vector tells it which of them is asked for.
    """

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, width: int, hidden: int, domains: Sequence[str]) -> None:
        super().__init__()
        self.domains = tuple(domains)
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))
        self.bottleneck = nn.Linear(width, 2 * hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, 1)

    @property
    def width(self) -> int:
        """D, of the user vectors that it reads."""
        return self.bottleneck.in_features

    def bottleneck_of(self, user_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each user's bottleneck vector: float32[B, H] each."""
        mean_BH, log_variance_BH = self.bottleneck((user_BD.float() - self.mean_D) / self.scale_D).chunk(2, dim=1)
        return mean_BH, log_variance_BH

    def log_weights_of(self, bottleneck_BH: Tensor) -> Tensor:
        """log (1 - gamma) and log gamma of bottleneck vectors, finite both: float32[2, B]."""
        logit_B = self.output(nn.functional.gelu(self.hidden(bottleneck_BH)))[:, 0]
        return nn.functional.logsigmoid(torch.stack([-logit_B, logit_B]))

    def forward(self, user_BD: Tensor) -> Tensor:
        """log (1 - gamma) and log gamma at the mean of the bottleneck: float32[2, B]."""
        return self.log_weights_of(self.bottleneck_of(user_BD)[0])


@dataclass(frozen=True)
class Mixture:
    """How the distributions of a batch of requests are weighed.

    Attributes:
        constant_MB: log-weights of the distributions where no router decides. Shape: float32[M, B].
        adapters_B: the adapter of each request's domain distribution; None: only the universal one is read. With
            adapters and M of 1 it is the domain distribution alone. Shape: int64[B].
        router: decides for the requests of ``routed_B``; M is 2 then. None: all weights are constant.
        routed_B: Shape: bool[B].
    """

    constant_MB: Tensor
    adapters_B: Tensor | None = None
    router: UserRouter | None = None
    routed_B: Tensor | None = None

    @property
    def num_distributions(self) -> int:
        """M."""
        return len(self.constant_MB)

    @property
    def size(self) -> int:
        """B."""
        return self.constant_MB.shape[1]

    @torch.no_grad()
    def log_weights(self, hidden_MBD: Tensor) -> Tensor:
        """The log-weight of every distribution, float32[M, B]; -inf where it has no share.

        Args:
            hidden_MBD: the hidden state at each prompt's last token.
        """
        if self.router is None or self.routed_B is None:
            return self.constant_MB
        return torch.where(self.routed_B, self.router(hidden_MBD[0]), self.constant_MB)

    def repeated(self, row: int, times: int) -> "Mixture":
        """That of one request, so many times."""
        rows_B = torch.full((times,), row, device=self.constant_MB.device)
        return Mixture(
            constant_MB=self.constant_MB[:, rows_B],
            adapters_B=None if self.adapters_B is None else self.adapters_B[rows_B],
            router=self.router,
            routed_B=None if self.routed_B is None else self.routed_B[rows_B],
        )


def save_router(router: UserRouter, path: Path) -> None:
    """Write a router to one safetensors file; its domains are in the header."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in router.state_dict().items()}
    save_file(weights, path, metadata={_DOMAINS: json.dumps(router.domains)})


def load_router(path: Path) -> UserRouter:
    """Read what ``save_router`` wrote.

    Raises:
        BackboneError: the file is no router.
    """
    try:
        with safe_open(path, framework="pt") as file:
            domains = json.loads(file.metadata()[_DOMAINS])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        router = UserRouter(weights["mean_D"].shape[0], weights["hidden.bias"].shape[0], domains)
        router.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackboneError(f"{path.name}: no user router can be read ({error}); export the bundle again") from error
    return router.eval()
