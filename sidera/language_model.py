"""History -> hidden states -> code scores: the backbone, its adapters, and the weights that mix them.

A history is read once (``prefill``); the tokens of a search are appended as one run in the sequence dimension
(``extend``), each seeing the history and its own ancestors. Only the slice of the output head that belongs to a level
is multiplied (``code_logits``). This module knows tokens and rows; it knows no trie, no item and no beam.

Where adapters touch upper layers only, the layers below run once for both distributions. With a history cache, only
what is new of a history is read.

Shapes: M distributions (0 universal, 1 the domain's), B batch, P history tokens, T tokens of a run, S tokens of the
search so far (this run's included), D hidden width, V codes of a level. Rows of the model are M * B, distribution
first.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sidera.errors import BackboneError
from sidera.model.adapters import AdapterBank
from sidera.model.cached_prefill import CachedPrefill
from sidera.model.history_cache import HistoryCache
from sidera.model.key_values import empty_cache
from sidera.model.lean_decoder import LeanDecoder, fits
from sidera.model.output_head import code_logits
from sidera.model.read_history import ReadHistory as ReadHistory
from sidera.model.shared_layers import repeated_rows
from sidera.model.user_router import Mixture, UserRouter
from sidera.model.vocabulary import Vocabulary
from sidera.progress_bars import no_progress_bars


class LanguageModel:
    """A backbone that scores codes.

    Args:
        backbone: any full-attention causal model of ``transformers``; put into evaluation mode.
        vocabulary: where codes and domains lie in its embedding.
        adapters: PEFT folder of each domain that has an adapter.
        gammas: the domain distribution's share in the mixture, 0..1, of each domain that has an adapter.
        router: decides that share for every request of its domains, in place of their constants.

    Raises:
        BackboneError: the embedding has fewer rows than the vocabulary, an adapter does not fit, a gamma is outside
            0..1, or the router is one of another backbone or of a domain without an adapter.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        vocabulary: Vocabulary,
        adapters: Mapping[str, Path] | None = None,
        gammas: Mapping[str, float] | None = None,
        router: UserRouter | None = None,
    ) -> None:
        adapters = adapters or {}
        rows = embedding_rows(backbone)
        if rows < vocabulary.size:
            raise BackboneError(f"the backbone embeds {rows} tokens, the codes need {vocabulary.size}; resize it first")
        self.vocabulary = vocabulary
        self.gammas = {domain: (gammas or {}).get(domain, 0.0) for domain in adapters}
        for domain, gamma in self.gammas.items():
            if not 0.0 <= gamma <= 1.0:
                raise BackboneError(f"gamma of {domain!r} is {gamma}; a share lies in 0..1")
        self.adapter_index = {domain: index for index, domain in enumerate(adapters)}
        self._bank = AdapterBank(backbone, list(adapters.values())) if adapters else None
        self.backbone = backbone.eval()
        self.router = None if router is None else self._checked_router(router)
        self._repeated = None if self._bank is None else repeated_rows(backbone, self._bank.layer_names)
        self._stock: nn.Module = backbone.base_model
        adapted = None if self._bank is None else self._bank.of_batch
        self.decoder = LeanDecoder(backbone, self.shared_layers, adapted) if fits(backbone) else self._stock
        self._cached: CachedPrefill | None = None

    @property
    def device(self) -> torch.device:
        device: torch.device = self.backbone.device
        return device

    @property
    def max_tokens(self) -> int:
        """The longest sequence that the backbone can read.

        Raises:
            BackboneError: it has neither rotary nor learned positions.
        """
        longest = getattr(self.backbone.config.get_text_config(), "max_position_embeddings", None)
        if longest is None:
            name = type(self.backbone).__name__
            raise BackboneError(f"{name} has no positions of its own; use one with rotary or learned positions")
        return int(longest)

    @property
    def shared_layers(self) -> int:
        """How many decoder layers, counted from below, run once for all distributions."""
        return 0 if self._repeated is None else self._repeated.first

    def share_nothing(self) -> None:
        """Run every layer once a distribution from now on, and forget the histories that were kept."""
        self._repeated = None
        if isinstance(self.decoder, LeanDecoder):
            self.decoder.shared = 0
        self.keep_histories(0 if self.history_cache is None else self.history_cache.max_bytes)

    @property
    def lean(self) -> bool:
        """Whether passes go through :mod:`sidera.model.lean_decoder`, not through the backbone's own modules."""
        return isinstance(self.decoder, LeanDecoder)

    def use_stock_decoder(self) -> None:
        """Send every pass through the backbone's own modules from now on."""
        self.decoder = self._stock

    def join_layers(self) -> None:
        """Compute as one product what reads the same input, where the decoder can; for serving alone.

        Weights that share their memory cannot be saved. See :mod:`sidera.model.joined_layers`.
        """
        if isinstance(self.decoder, LeanDecoder):
            self.decoder.join()

    @property
    def history_cache(self) -> HistoryCache | None:
        """What is kept of histories; None where nothing is."""
        return None if self._cached is None else self._cached.cache

    def keep_histories(self, max_bytes: int) -> None:
        """Keep up to so many bytes of the histories that are read, from now on; 0 keeps none."""
        if max_bytes == 0:
            self._cached = None
            return
        self._cached = CachedPrefill(
            HistoryCache(max_bytes),
            self.vocabulary.tokens_per_item,
            self.vocabulary.pad,
            self.shared_layers,
            self._forward,
        )

    def prompt(self, history: Sequence[tuple[str, Sequence[int]]], target_domain: str) -> list[int]:
        """``domain sid domain sid ... domain``: a history of (domain, SID), then the target's domain."""
        tokens = [token for domain, sid in history for token in self.vocabulary.item_tokens(domain, sid)]
        return [*tokens, self.vocabulary.domain_token(target_domain)]

    def mixture(self, domains: Sequence[str]) -> Mixture:
        """How the distributions are weighed for a batch of requests for these domains.

        M is 1 where all requests use the same one of the two alone. A domain without an adapter has gamma 0.
        """
        gammas = [self.gammas.get(domain, 0.0) for domain in domains]
        routed = [self.router is not None and domain in self.router.domains for domain in domains]
        alone = torch.zeros(1, len(domains), device=self.device)
        if not any(routed) and not any(gammas):
            return Mixture(alone)
        adapters_B = torch.tensor([self.adapter_index.get(domain, 0) for domain in domains], device=self.device)
        if not any(routed) and all(gamma == 1 for gamma in gammas):
            return Mixture(alone, adapters_B)
        gamma_B = torch.tensor(gammas, device=self.device)
        constant_MB = torch.stack([torch.log1p(-gamma_B), torch.log(gamma_B)])
        if not any(routed):
            return Mixture(constant_MB, adapters_B)
        return Mixture(constant_MB, adapters_B, self.router, torch.tensor(routed, device=self.device))

    def _checked_router(self, router: UserRouter) -> UserRouter:
        width = self.backbone.get_output_embeddings().weight.shape[1]
        if router.width != width:
            raise BackboneError(f"the user router reads vectors of {router.width}, the backbone's have {width}; fit it")
        if missing := sorted(set(router.domains) - set(self.adapter_index)):
            raise BackboneError(f"the user router decides for {missing[0]!r}, which has no adapter; fit it again")
        return router.to(self.device).eval()

    @torch.no_grad()
    def prefill(
        self, tokens_BP: Tensor, lengths_B: Tensor, adapters_B: Tensor | None, num_distributions: int
    ) -> tuple[Tensor, ReadHistory]:
        """Read histories, padded on the right.

        Args:
            tokens_BP: the prompts. Shape: int64[B, P].
            lengths_B: their lengths. Shape: int64[B].
            adapters_B: the adapter of each domain distribution; None: only the universal one. Shape: int64[B].
            num_distributions: M; 1 with adapters is the domain distribution alone.

        Returns:
            The hidden state at each history's last token, float[M, B, D], and what ``extend`` goes on from.
        """
        if self._cached is not None:
            return self._cached(tokens_BP, lengths_B, adapters_B, num_distributions)
        history = self._unread(tokens_BP, lengths_B, adapters_B, num_distributions, shared=self.shared_layers > 0)
        return self._forward(tokens_BP, history, None, None, last_B=lengths_B - 1)[:, :, 0], history

    @torch.no_grad()
    def read(self, tokens_BP: Tensor, adapters_B: Tensor | None) -> Tensor:
        """The hidden state of every token of whole sequences, padded on the right: the plain way.

        Nothing is shared, and every pass goes through the backbone's own modules.

        Returns:
            float[M, B, P, D]; with adapters both distributions, the universal one first.
        """
        lengths_B = torch.full((len(tokens_BP),), tokens_BP.shape[1], device=tokens_BP.device)
        num_distributions = 1 if adapters_B is None else 2
        history = self._unread(tokens_BP, lengths_B, adapters_B, num_distributions, shared=False)
        return self._forward(tokens_BP, history, None, None, plain=True)

    @torch.no_grad()
    def extend(self, history: ReadHistory, tokens_BT: Tensor, depths_BT: Tensor, visible_BTS: Tensor) -> Tensor:
        """Append one run of tokens to each history.

        Args:
            tokens_BT: tokens of the search, in any order that puts no token before its ancestors.
            depths_BT: how many codes lie before each token; its position is its history's length plus that.
            visible_BTS: which tokens of the search (all runs so far, this one last) each token sees.

        Returns:
            The hidden state of every token, float[M, B, T, D].
        """
        positions_BT = history.lengths_B[:, None] + depths_BT
        in_history_BTP = history.in_history_BP[:, None, :].expand(-1, tokens_BT.shape[1], -1)
        mask_B1TX = torch.cat([in_history_BTP, visible_BTS], dim=2)[:, None]
        return self._forward(tokens_BT, history, position_ids=positions_BT, attention_mask=mask_B1TX)

    @torch.no_grad()
    def code_logits(self, hidden_XD: Tensor, level: int) -> Tensor:
        """Scores of the codes of a level (0-based), as the whole head gives them. Shape: float32[..., V]."""
        return code_logits(self.backbone, self.vocabulary, hidden_XD, level)

    @staticmethod
    def _unread(
        tokens_BP: Tensor, lengths_B: Tensor, adapters_B: Tensor | None, num_distributions: int, *, shared: bool
    ) -> ReadHistory:
        in_history_BP = torch.arange(tokens_BP.shape[1], device=lengths_B.device) < lengths_B[:, None]
        return ReadHistory(empty_cache(), lengths_B, in_history_BP, adapters_B, num_distributions, shared)

    def _forward(
        self,
        tokens_BT: Tensor,
        history: ReadHistory,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        last_B: Tensor | None = None,
        plain: bool = False,
    ) -> Tensor:
        """Hidden states, float[M, B, T, D]; of the tokens at ``last_B`` alone, where given, float[M, B, 1, D].

        Args:
            plain: through the backbone's own modules, whatever else could run.
        """
        num, size = history.num_distributions, len(tokens_BT)
        times = 1 if history.shared else num

        def repeated(x: Tensor | None) -> Tensor | None:
            return x if x is None or times == 1 else x.repeat(times, *[1] * (x.ndim - 1))

        lean = self.lean and not plain
        # One row stands for all rows there.
        common = lean and size == 1
        inputs: dict[str, Any] = {
            "input_ids": repeated(tokens_BT),
            "position_ids": position_ids if common else repeated(position_ids),
            "attention_mask": attention_mask if common else repeated(attention_mask),
            "past_key_values": history.cache,
        }
        with ExitStack() as within:
            if self._bank is not None and history.adapters_B is not None:
                within.enter_context(self._bank.rows(history.adapters_B))
            if lean:
                hidden: Tensor = self.decoder(**inputs, last=repeated(last_B), times=num // times)
                return hidden.view(num, size, *hidden.shape[1:])
            if self._repeated is not None and history.shared:
                within.enter_context(self._repeated.times(num, size))
            hidden = self._stock(**inputs, use_cache=True).last_hidden_state
        hidden_MBTD = hidden.view(num, size, *hidden.shape[1:])
        if last_B is None:
            return hidden_MBTD
        return hidden_MBTD[:, torch.arange(size, device=last_B.device), last_B][:, :, None]


def embedding_rows(backbone: PreTrainedModel) -> int:
    """How many tokens a backbone embeds."""
    rows: int = backbone.get_input_embeddings().weight.shape[0]  # type: ignore[index, assignment]
    return rows


def load_backbone(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | Literal["auto"] = "auto"
) -> PreTrainedModel:
    """Load a Hugging Face causal model from a folder: safetensors only, none of its code or sampling settings.

    ``transformers`` builds a model with its dtype as the default of the whole process, which would disturb whatever
    computes beside it. So it builds in float32, the default, and the weights are converted one by one afterwards.

    Args:
        dtype: of the weights in memory; default: as they are saved.

    Raises:
        BackboneError: the folder holds no causal model that ``transformers`` knows, or not all of its weights.
    """
    try:
        with no_progress_bars():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            loading: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(f"{folder}: no backbone can be loaded ({error}); give a causal model's folder") from error
    backbone: PreTrainedModel = loading[0]
    if missing := loading[1]["missing_keys"]:
        raise BackboneError(f"{folder}: the weights lack {min(missing)}; export the backbone again")
    wanted = getattr(config, "dtype", None) or torch.float32 if dtype == "auto" else dtype
    for parameter in backbone.parameters():
        parameter.data = parameter.data.to(device, wanted)
    backbone.config.dtype = wanted
    nn.Module.to(backbone, device)
    return backbone
