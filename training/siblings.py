"""The loss that decoding asks for: each code against the other children of its prefix, in its domain's trie.

A beam search normalises over the children that exist (``sidera.beam_search``), a cross-entropy over the whole codebook
of the level also pushes down codes that no search will ever compare with. Here both are the same softmax, so that the
losses of an item's codes sum to minus its log-probability as ``sidera.item_scores`` gives it. A code without siblings
costs nothing, and is known before anything is computed.

Shapes: X codes of one level, one a target; L levels, V codes of a level, C children of the node that has most, E
events, N nodes of a level.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidera.trie import Trie, tables_of
from training.errors import StageError


class Siblings:
    """The children of every node, on the device that trains.

    Args:
        tries: of each domain index, in that order.
        codebook_sizes: how many codes each level has.
        device: where the loss is computed.
    """

    def __init__(self, tries: Sequence[Trie], codebook_sizes: Sequence[int], device: torch.device | str) -> None:
        self._tables = tables_of(tries, device)
        self._sizes = tuple(codebook_sizes)
        self._keys: list[Tensor] = []
        self._codes: list[Tensor] = []
        self._widest: list[int] = []
        for level, size in enumerate(self._sizes):
            count_N = self._tables.first_child[level][:].diff()
            parent_N = torch.repeat_interleave(torch.arange(len(count_N), device=count_N.device), count_N)
            codes_N = self._tables.codes[level][:]
            self._keys.append(parent_N * size + codes_N)
            self._widest.append(int(count_N.max()))
            # So many places from any node on are inside.
            self._codes.append(torch.nn.functional.pad(codes_N, (0, self._widest[level])))

    def check(self, domain_E: npt.NDArray[np.int32], codes_EL: npt.NDArray[np.int32]) -> None:
        """Refuse events of items that the tries do not hold.

        Raises:
            StageError: names the first of them.
        """
        device = self._tables.device
        node_E = torch.from_numpy(domain_E.astype(np.int64)).to(device)
        codes = torch.from_numpy(codes_EL.astype(np.int64)).to(device)
        known_E = torch.ones(len(node_E), dtype=torch.bool, device=device)
        for level in range(len(self._sizes)):
            wanted_E = node_E * self._sizes[level] + codes[:, level]
            node_E = self._child(level, node_E, codes[:, level]).clamp_max(len(self._keys[level]) - 1)
            known_E &= self._keys[level][node_E] == wanted_E
        if not bool(known_E.all()):
            event = int((~known_E).nonzero()[0])
            raise StageError(
                f"event {event} is of SID {tuple(codes_EL[event].tolist())}, which the trie of domain "
                f"{int(domain_E[event])} lacks; give the tries of the catalog that the sequences were made with"
            )

    def parents(self, domain_X: Tensor, codes_XL: Tensor) -> Tensor:
        """The node of level 0..L-1 that each code of some items stands below. Shape: int64[X, L]."""
        nodes = [domain_X]
        for level in range(len(self._sizes) - 1):
            nodes.append(self._child(level, nodes[-1], codes_XL[:, level]))
        return torch.stack(nodes, dim=1)

    def has_siblings(self, level: int, node_X: Tensor) -> Tensor:
        """Whether a node of a level (0-based) has more than one child. Shape: bool[X]."""
        first_child = self._tables.first_child[level]
        return first_child[node_X + 1] - first_child[node_X] > 1

    def losses(
        self, level: int, logits_XV: Tensor, node_X: Tensor, code_X: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        """Cross-entropy of each code over its node's children.

        Args:
            level: of the codes, 0-based.
            logits_XV: of the whole level. Shape: float32[X, V].
            node_X: the node that the code stands below. Shape: int64[X].
            code_X: the code that came. Shape: int64[X].
            label_smoothing: share of the probability that goes to all children alike.

        Returns:
            float32[X].
        """
        first_child = self._tables.first_child[level]
        begin_X = first_child[node_X]
        count_X = first_child[node_X + 1] - begin_X
        step_C = torch.arange(self._widest[level], device=node_X.device)
        exists_XC = step_C < count_X[:, None]
        codes_XC = self._codes[level][begin_X[:, None] + step_C]
        logits_XC = logits_XV.gather(1, codes_XC).masked_fill(~exists_XC, float("-inf"))
        logprobs_XC = logits_XC.log_softmax(dim=1)
        place_X = self._child(level, node_X, code_X) - begin_X
        losses_X = -logprobs_XC.gather(1, place_X[:, None])[:, 0]
        if not label_smoothing:
            return losses_X
        spread_X = -logprobs_XC.masked_fill(~exists_XC, 0.0).sum(dim=1) / count_X
        return (1 - label_smoothing) * losses_X + label_smoothing * spread_X

    def _child(self, level: int, node_X: Tensor, code_X: Tensor) -> Tensor:
        """The node of the next level that has a code, below a node: nodes stand in the order of (parent, code)."""
        return torch.searchsorted(self._keys[level], node_X * self._sizes[level] + code_X)
