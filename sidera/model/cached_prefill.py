"""Reads of each history only what a history cache does not hold.

Requests of which much is known go through one pass, those of which little is known through another, so that a
returning user does not wait for the padding of a new one. A pass goes on from what is known, padded and masked; its
tokens stand behind that, so places of a history lie where the mask says, in order.

Shapes: M distributions, B batch, P places of a history, G requests of one pass, C places of what is known, T tokens of
a pass, N items, I tokens of an item, D hidden width, R rows of a pass, F numbers a token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from sidera.model.history_cache import HistoryCache, Item, Part
from sidera.model.key_values import cache_of, empty_cache, head_shapes, keys_and_values, pack, side_by_side, unpack
from sidera.model.read_history import ReadHistory

Forward = Callable[[Tensor, ReadHistory, Tensor | None, Tensor | None, Tensor], Tensor]
"""Tokens, what they go on from, positions, mask and a place in each row to hidden states there, float[M, B, 1, D]."""

_PASS_TOKENS = {"cpu": 64}
_PASS_TOKENS_ELSEWHERE = 4096
"""A second pass costs about as much as so many more tokens in the first one."""


@dataclass(frozen=True)
class _Request:
    """One prompt, and what is known of it: of each part, float[I, F] of every known item."""

    prompt: list[int]
    items: list[Item]
    parts: list[Part]
    known: list[list[Tensor]]

    @property
    def num_known(self) -> int:
        return len(self.known[0])


class CachedPrefill:
    """``LanguageModel.prefill`` over a history cache.

    Args:
        cache: of this model alone.
        tokens_per_item: I.
        pad: the token of places that no mask shows.
        lower_layers: how many decoder layers all distributions share; 0 where they share none.
        forward: the model's pass.
    """

    def __init__(
        self, cache: HistoryCache, tokens_per_item: int, pad: int, lower_layers: int, forward: Forward
    ) -> None:
        self.cache = cache
        self._tokens_per_item = tokens_per_item
        self._pad = pad
        self._forward = forward
        self._lower = lower_layers
        upper = slice(lower_layers, None)
        self._sections = [slice(lower_layers), upper] if lower_layers else [upper]
        self._shapes: list[list[tuple[int, int]]] = []

    def __call__(
        self, tokens_BP: Tensor, lengths_B: Tensor, adapters_B: Tensor | None, num_distributions: int
    ) -> tuple[Tensor, ReadHistory]:
        """See ``LanguageModel.prefill``."""
        adapters = [None] * len(tokens_BP) if adapters_B is None else adapters_B.tolist()
        requests = [
            self._understand(tokens[:length], adapter, num_distributions)
            for tokens, length, adapter in zip(tokens_BP.tolist(), lengths_B.tolist(), adapters, strict=True)
        ]
        new = [len(request.prompt) - request.num_known * self._tokens_per_item for request in requests]
        groups = _groups(new, _PASS_TOKENS.get(tokens_BP.device.type, _PASS_TOKENS_ELSEWHERE))
        passes = [
            self._read(
                [requests[row] for row in rows],
                lengths_B[rows],
                None if adapters_B is None else adapters_B[rows],
                num_distributions,
            )
            for rows in groups
        ]
        for rows, (_, history) in zip(groups, passes, strict=True):
            self._keep([requests[row] for row in rows], history)
        if len(groups) == 1:
            return passes[0]
        return self._join(groups, passes, lengths_B, adapters_B)

    def _understand(self, prompt: list[int], adapter: int | None, num_distributions: int) -> _Request:
        size = self._tokens_per_item
        items = [tuple(prompt[begin : begin + size]) for begin in range(0, (len(prompt) - 1) // size * size, size)]
        last = [Part(False, adapter)]
        parts = [Part(True, None)] * (len(self._sections) - 1) + [Part(False, None)] * (num_distributions - 1) + last
        return _Request(prompt, items, parts, self.cache.find(parts, items))

    def _read(
        self, requests: Sequence[_Request], lengths_G: Tensor, adapters_G: Tensor | None, num_distributions: int
    ) -> tuple[Tensor, ReadHistory]:
        """The hidden state at each prompt's end, float[M, G, D], and what a search goes on from."""
        device = lengths_G.device
        known = [request.num_known * self._tokens_per_item for request in requests]
        places_C = torch.arange(max(known), device=device)
        known_G1 = torch.tensor(known, device=device)[:, None]
        news = [request.prompt[count:] for request, count in zip(requests, known, strict=True)]
        length = max(map(len, news))
        tokens_GT = torch.tensor([new + [self._pad] * (length - len(new)) for new in news], device=device)
        places_T = torch.arange(length, device=device)
        new_G1 = lengths_G[:, None] - known_G1
        in_history_GP = torch.cat([places_C < known_G1, places_T < new_G1], dim=1)
        history = ReadHistory(
            cache=self._past(requests, num_distributions) if max(known) else empty_cache(),
            lengths_B=lengths_G,
            in_history_BP=in_history_GP,
            adapters_B=adapters_G,
            num_distributions=num_distributions,
            shared=self._lower > 0,
        )
        positions_GT = mask_G1TP = None
        if max(known):
            positions_GT = (known_G1 + places_T).minimum(lengths_G[:, None] - 1)
            past_GTC = (places_C < known_G1)[:, None].expand(-1, length, -1)
            causal_GTT = (places_T <= places_T[:, None]).expand(len(requests), -1, -1)
            mask_G1TP = torch.cat([past_GTC, causal_GTT], dim=2)[:, None]
        return self._forward(tokens_GT, history, positions_GT, mask_G1TP, new_G1[:, 0] - 1)[:, :, 0], history

    def _past(self, requests: Sequence[_Request], num_distributions: int) -> Cache:
        """What is known of the histories of one pass, padded on the right."""
        tensors = []
        for section, shapes in enumerate(self._shapes):
            rows = [request.known[section] for request in requests]
            if section == len(self._sections) - 1:
                rows = [request.known[section + m] for m in range(num_distributions) for request in requests]
            if len(rows) == 1:
                packed_RCF = torch.cat(rows[0])[None]
            else:
                some_IF = next(known[0] for known in rows if known)
                longest = max(map(len, rows)) * self._tokens_per_item
                packed_RCF = some_IF.new_empty(len(rows), longest, some_IF.shape[1])
                for packed_CF, known in zip(packed_RCF, rows, strict=True):
                    end = len(known) * self._tokens_per_item
                    if known:
                        torch.cat(known, out=packed_CF[:end])
                    packed_CF[end:].zero_()
            tensors += unpack(packed_RCF, shapes)
        return cache_of(tensors)

    def _keep(self, requests: Sequence[_Request], history: ReadHistory) -> None:
        """Put what a pass read of whole items into the cache."""
        if all(request.num_known == len(request.items) for request in requests):
            return
        if not self._shapes:
            self._shapes = [head_shapes(history.cache, section) for section in self._sections]
        start = max(request.num_known for request in requests) * self._tokens_per_item
        packed = [pack(history.cache, section, start) for section in self._sections]
        for place, request in enumerate(requests):
            new = len(request.items) - request.num_known
            for number, part in enumerate(request.parts):
                section = min(number, len(self._sections) - 1)
                row = place + (number - section) * len(requests)
                new_XF = packed[section][row, : new * self._tokens_per_item]
                self.cache.add(part, request.items, new_XF.unflatten(0, (new, self._tokens_per_item)))

    def _join(
        self,
        groups: Sequence[Sequence[int]],
        passes: Sequence[tuple[Tensor, ReadHistory]],
        lengths_B: Tensor,
        adapters_B: Tensor | None,
    ) -> tuple[Tensor, ReadHistory]:
        """Several passes over some requests each as one over all of them."""
        histories = [history for _, history in passes]
        num, size = histories[0].num_distributions, len(lengths_B)
        upper_rows = [[m * size + row for m in range(num) for row in own] for own in groups]
        tensors = []
        for section in self._sections:
            section_rows = groups if section.start is None else upper_rows
            kept = [keys_and_values(history.cache, section) for history in histories]
            tensors += [side_by_side(same, section_rows) for same in zip(*kept, strict=True)]
        longest = max(history.padded_length for history in histories)
        in_history_BP = torch.zeros(size, longest, dtype=torch.bool, device=lengths_B.device)
        hidden_MBD = passes[0][0].new_empty(num, size, passes[0][0].shape[2])
        for rows, (hidden_MGD, history) in zip(groups, passes, strict=True):
            in_history_BP[rows, : history.padded_length] = history.in_history_BP
            hidden_MBD[:, rows] = hidden_MGD
        joined = ReadHistory(cache_of(tensors), lengths_B, in_history_BP, adapters_B, num, histories[0].shared)
        return hidden_MBD, joined


def _groups(new_tokens: Sequence[int], pass_tokens: int) -> list[list[int]]:
    """Which requests are read together: all, or the ones with few new tokens apart where that saves more than a pass.

    Args:
        new_tokens: of each request.
        pass_tokens: what a second pass costs, in tokens.
    """
    rows = sorted(range(len(new_tokens)), key=new_tokens.__getitem__)
    longest = new_tokens[rows[-1]]
    saved = [few * (longest - new_tokens[rows[few - 1]]) for few in range(1, len(rows))]
    if not saved or max(saved) <= pass_tokens:
        return [list(range(len(rows)))]
    few = saved.index(max(saved)) + 1
    return [sorted(rows[:few]), sorted(rows[few:])]
