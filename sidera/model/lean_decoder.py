"""The decoder layers of Llama, Qwen2 and Qwen3, without what ``transformers`` wraps around them.

A pass of a search is twenty tokens through every layer, and much of its time goes to what lies between the products of
matrices. Here is the same arithmetic over the same weights in fewer steps: masks and rotations are made once a pass,
the last layer computes only what is asked of it, what reads the same input is one product, and the lower layers run
once for all distributions. Linear layers are called as they are, so adapters, experts and int8 stay in place.

Whether it computes what the stock decoder computes is asked when a model is loaded (:mod:`sidera.model.self_test`);
where it does not, or where a backbone is of another kind, the stock decoder runs.

Shapes: R rows, T tokens of a run, S tokens that it sees (its own included), D hidden width, H heads, G heads of keys
and values, W width of a head, t some of the tokens.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import Cache, PreTrainedModel

from sidera.model.adapters import AdaptedRows, StackedLoRA
from sidera.model.joined_layers import joined
from sidera.model.key_values import RoomyLayer, roomy_layer

_CPU_TOKENS = 1024
"""What an MLP reads at once: more leave the processor's cache and take up to a quarter longer."""

_GROUP_TOKENS = 2048
"""What a layer reads at once, for the same reason: rows are taken in groups of about so many tokens."""

_MERGED_BYTES = 2**28
"""What copies of the weights with an adapter added may take, those of all adapters together."""

KINDS = frozenset({"llama", "qwen2", "qwen3"})
"""Model types whose layers are computed so."""


def fits(backbone: PreTrainedModel) -> bool:
    """Whether a backbone is of such a kind: full attention in every layer, and the decoder of ``transformers``."""
    config = backbone.config.get_text_config()
    known = config.model_type in KINDS and type(backbone.base_model).__module__.startswith("transformers.models.")
    return known and set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}


class LeanDecoder(nn.Module):
    """The hidden states of a backbone, from its own weights.

    Args:
        backbone: of one of :data:`KINDS`; its layers are used, not copied.
        shared: how many layers, from below, have one row a request where the layers above have one a distribution.
        adapted: which rows of a batch are adapted.

    Attributes:
        shared: the same.
    """

    def __init__(self, backbone: PreTrainedModel, shared: int = 0, adapted: AdaptedRows | None = None) -> None:
        super().__init__()
        decoder: Any = backbone.base_model
        # Not registered: the weights stay those of the backbone.
        self._parts: tuple[Any, Any, Any] = (decoder.embed_tokens, decoder.rotary_emb, decoder.norm)
        adapted = adapted or AdaptedRows()
        self._layers = [_Layer(layer, number, adapted) for number, layer in enumerate(decoder.layers)]
        self.shared = shared

    def join(self) -> None:
        """Compute as one product what reads the same input, from now on: see :mod:`sidera.model.joined_layers`.

        Adapters are merged into copies of the weights as well, where these take no more than ``_MERGED_BYTES``.
        """
        products = [product for layer in self._layers for product in layer.join()]
        adapted = [product for product in products if isinstance(product, StackedLoRA) and product.mergeable]
        if sum(product.merged_bytes for product in adapted) <= _MERGED_BYTES:
            for product in adapted:
                product.merge()

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: Cache,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        last: Tensor | None = None,
        times: int = 1,
    ) -> Tensor:
        """What the stock decoder returns as ``last_hidden_state``, after its last norm.

        Args:
            input_ids: Shape: int64[R, T].
            past_key_values: gets the keys and values of this run.
            position_ids: None: 0..T-1. Shape: int64[R, T].
            attention_mask: what each token sees; None: what comes before it, where nothing is cached.
                Shape: bool[R, 1, T, S].
            last: the place of the only token of each row whose hidden state is asked for; None: all of them.
                Shape: int64[R].
            times: how often the rows are repeated behind the shared layers.

        Returns:
            float[R * times, T, D], or float[R * times, 1, D] with ``last``.
        """
        embed, rotary, norm = self._parts
        length = input_ids.shape[1]
        hidden_RTD: Tensor = embed(input_ids)
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device)[None]
        cos_RTW, sin_RTW = rotary(hidden_RTD, position_ids)
        half = sin_RTW.shape[-1] // 2
        turn = (cos_RTW[:, :, None], torch.cat([-sin_RTW[..., :half], sin_RTW[..., half:]], dim=-1)[:, :, None])
        mask = None if attention_mask is None else _added(attention_mask, hidden_RTD)
        for number, layer in enumerate(self._layers):
            if times > 1 and number == self.shared:
                hidden_RTD = hidden_RTD.repeat(times, 1, 1)
                turn = (_repeated(turn[0], times), _repeated(turn[1], times))
                mask = None if mask is None else _repeated(mask, times)
                last = None if last is None else last.repeat(times)
            only = last if number == len(self._layers) - 1 else None
            hidden_RTD = layer(hidden_RTD, turn, mask, past_key_values, only)
        return _normed(hidden_RTD, norm)


class _Layer:
    """One decoder layer."""

    def __init__(self, layer: Any, number: int, adapted: AdaptedRows) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._attention = attention
        self._mlp = mlp
        self._number = number
        self._adapted = adapted
        self._width: int = attention.head_dim
        self._scale: float = attention.scaling
        self._norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self._head_norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
        heads, of_keys = attention.config.num_attention_heads, attention.config.num_key_value_heads
        self._num_heads = [heads, of_keys, of_keys]
        self._all_heads: nn.Module | None = None
        self._both_sides: nn.Module | None = None
        self._activate: Callable[[Tensor], Tensor] = silu if isinstance(mlp.act_fn, nn.SiLU) else mlp.act_fn

    def join(self) -> list[nn.Module]:
        """See :meth:`LeanDecoder.join`; the products that all tokens of a layer go through."""
        attention, mlp = self._attention, self._mlp
        self._all_heads = joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self._both_sides = joined([mlp.gate_proj, mlp.up_proj])
        products = [self._all_heads, attention.o_proj, self._both_sides, mlp.down_proj]
        return [product for product in products if product is not None]

    def __call__(
        self, hidden_RTD: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache, last: Tensor | None
    ) -> Tensor:
        """The hidden states behind the layer, of the last tokens alone where these are named."""
        kept, size, length = roomy_layer(cache, self._number), *hidden_RTD.shape[:2]
        step = max(1, _GROUP_TOKENS // length) if hidden_RTD.device.type == "cpu" else size
        if step >= size:
            return self._rows(hidden_RTD, turn, mask, kept, last, slice(None), size)
        found = []
        for begin in range(0, size, step):
            rows = slice(begin, begin + step)
            own_turn = (_rows_of(turn[0], rows), _rows_of(turn[1], rows))
            own_mask = None if mask is None else _rows_of(mask, rows)
            own_last = None if last is None else last[rows]
            with self._adapted.only(begin, min(begin + step, size), size):
                found.append(self._rows(hidden_RTD[rows], own_turn, own_mask, kept, own_last, rows, size))
        return torch.cat(found)

    def _rows(
        self,
        hidden_RTD: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        kept: RoomyLayer,
        last: Tensor | None,
        rows: slice,
        size: int,
    ) -> Tensor:
        """The same of some rows: ``rows`` of the ``size`` that the pass has, in order."""
        normed_RTD = _normed(hidden_RTD, self._norms[0])
        if last is None:
            queries_RTHW, keys_RTGW, values_RTGW = self._queries_keys_values(normed_RTD, turn)
        else:
            keys_RTGW, values_RTGW = self._keys(normed_RTD, turn), self._heads(self._attention.v_proj(normed_RTD))
        keys_RGTW, values_RGTW = keys_RTGW.transpose(1, 2), values_RTGW.transpose(1, 2)
        if not rows.start:
            kept.open(size, keys_RGTW, values_RGTW)
        keys_RGSW, values_RGSW = kept.write(rows, keys_RGTW, values_RGTW)
        causal = mask is None
        if last is not None:
            hidden_RTD = _at(hidden_RTD, last)
            queries_RTHW = self._queries(_at(normed_RTD, last), (_at(turn[0], last), _at(turn[1], last)))
            mask, causal = _row_of(mask, last, keys_RGSW), False
        seen_RHTW = scaled_dot_product_attention(
            queries_RTHW.transpose(1, 2),
            keys_RGSW,
            values_RGSW,
            attn_mask=mask,
            is_causal=causal,
            scale=self._scale,
            enable_gqa=queries_RTHW.shape[2] != keys_RGSW.shape[1],
        )
        hidden_RTD = hidden_RTD + self._attention.o_proj(seen_RHTW.transpose(1, 2).flatten(2))
        of_cpu = hidden_RTD.device.type == "cpu"
        for part_RtD in hidden_RTD.split(max(1, _CPU_TOKENS // len(hidden_RTD)) if of_cpu else hidden_RTD.shape[1], 1):
            part_RtD.add_(self._mlp.down_proj(self._gated(_normed(part_RtD, self._norms[1]))))
        return hidden_RTD

    def _gated(self, normed_RTD: Tensor) -> Tensor:
        """What the MLP's last product reads."""
        if self._both_sides is None:
            return self._activate(self._mlp.gate_proj(normed_RTD)).mul_(self._mlp.up_proj(normed_RTD))
        gate_RTX, up_RTX = self._both_sides(normed_RTD).chunk(2, dim=-1)
        return self._activate(gate_RTX).mul_(up_RTX)

    def _queries_keys_values(self, normed_RTD: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of every token: queries, turned, float[R, T, H, W]; keys, turned, and values, float[R, T, G, W]."""
        if self._all_heads is None:
            values_RTGW = self._heads(self._attention.v_proj(normed_RTD))
            return self._queries(normed_RTD, turn), self._keys(normed_RTD, turn), values_RTGW
        heads_RTXW = self._heads(self._all_heads(normed_RTD))
        queries_RTHW, keys_RTGW, values_RTGW = heads_RTXW.split(self._num_heads, dim=2)
        of_queries, of_keys = self._head_norms
        if of_queries is None and of_keys is None:
            both = self._num_heads[:2]
            queries_RTHW, keys_RTGW = self._turned(heads_RTXW[:, :, : sum(both)], turn).split(both, dim=2)
            return queries_RTHW, keys_RTGW, values_RTGW
        queries_RTHW = self._turned(_head_normed(queries_RTHW, of_queries), turn)
        return queries_RTHW, self._turned(_head_normed(keys_RTGW, of_keys), turn), values_RTGW

    def _queries(self, normed_RTD: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        return self._turned(_head_normed(self._heads(self._attention.q_proj(normed_RTD)), self._head_norms[0]), turn)

    def _keys(self, normed_RTD: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        return self._turned(_head_normed(self._heads(self._attention.k_proj(normed_RTD)), self._head_norms[1]), turn)

    def _heads(self, wide_RTX: Tensor) -> Tensor:
        return wide_RTX.view(*wide_RTX.shape[:-1], -1, self._width)

    def _turned(self, heads_RTHW: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """The rotation of each token's position (RoPE): x cos + rotated(x) sin, its signs within the sine."""
        return torch.addcmul(heads_RTHW * turn[0], heads_RTHW.roll(self._width // 2, -1), turn[1])


def _normed(x_XD: Tensor, norm: Any) -> Tensor:
    """RMSNorm; its mean is that of float32 in every precision, as the stock one's is."""
    wide_XD, weight_D = x_XD.float(), cast(Tensor, norm.weight)
    # One step for the root of a sum of squares, the rest in place: a third of the time, for a batch half of it.
    square_X1: Tensor = torch.linalg.vector_norm(wide_XD, dim=-1, keepdim=True).square_()
    scale_X1 = square_X1.mul_(1 / wide_XD.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    normed_XD: Tensor = (wide_XD * scale_X1).to(x_XD.dtype)
    return normed_XD.mul_(weight_D)


def _head_normed(heads_RTHW: Tensor, norm: nn.Module | None) -> Tensor:
    """With the norm of every head, where there is one (Qwen3)."""
    return heads_RTHW if norm is None else _normed(heads_RTHW, norm)


def _added(mask_R1TS: Tensor, like: Tensor) -> Tensor:
    """A mask as what is added to scores."""
    return torch.zeros_like(mask_R1TS, dtype=like.dtype).masked_fill_(~mask_R1TS, float("-inf"))


def _at(x_RTX: Tensor, last_R: Tensor) -> Tensor:
    """One token of each row; one row may stand for all of them. Shape: [R, 1, ...]."""
    if len(x_RTX) < len(last_R):
        return x_RTX[0, last_R][:, None]
    return x_RTX[torch.arange(len(last_R), device=last_R.device), last_R][:, None]


def _row_of(mask_R1TS: Tensor | None, last_R: Tensor, keys_RGSW: Tensor) -> Tensor:
    """What one token of each row sees. Shape: [R, 1, 1, S]."""
    if mask_R1TS is None:
        return (torch.arange(keys_RGSW.shape[2], device=last_R.device) <= last_R[:, None])[:, None, None]
    return _at(mask_R1TS[:, 0], last_R)[:, None]


def _rows_of(x_RX: Tensor, rows: slice) -> Tensor:
    """Some rows of a tensor; one row that stands for all of them stays as it is."""
    return x_RX if len(x_RX) == 1 else x_RX[rows]


def _repeated(x_RX: Tensor, times: int) -> Tensor:
    """The rows of a tensor repeated; one row that stands for all of them stays as it is."""
    return x_RX if len(x_RX) == 1 else x_RX.repeat(times, *[1] * (x_RX.ndim - 1))
