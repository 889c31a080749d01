"""Small random worlds, in which every answer can also be computed the slow and obvious way."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sidera.beam_search import SearchBatch, SearchResult, beam_search
from sidera.decoding.diversity import Diversity, PrefixCaps
from sidera.decoding.known_mass import KnownMass
from sidera.decoding.leaf_filter import LeafFilter, LeafSet
from sidera.decoding.sampling import Sampler, Sampling
from sidera.language_model import LanguageModel
from sidera.model.user_router import Mixture
from sidera.model.vocabulary import Vocabulary
from sidera.trie import build_trie, tables_of

Sid = tuple[int, ...]

SIZES = (5, 4, 6)
VOCABULARY = Vocabulary(SIZES, {"films": 0, "books": 3}, base=7)
"""Domains may have other names too: those that training never saw."""

ADAPTED = ("q_proj", "v_proj", "down_proj")

BACKBONES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {},
    "gpt2": {"n_positions": 96},
    "phi": {},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "cohere": {"logit_scale": 0.5},
    "gemma2": {"attention": "eager", "head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 64},
}
"""Kinds of backbones that differ in positions, norms or heads, and what makes a tiny one of each."""


def random_backbone(kind: str = "qwen2", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny model with weights so large that its scores are spread."""
    settings = {
        "vocab_size": VOCABULARY.size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "initializer_range": 0.5,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    } | changes
    attention = settings.pop("attention", "sdpa")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind, **settings)
        backbone: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for name, parameter in backbone.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.5)
    backbone.eval()
    return backbone


def write_adapter(
    folder: Path,
    backbone: PreTrainedModel,
    seed: int = 1,
    rank: int = 2,
    targets: Sequence[str] = ADAPTED,
    **config: Any,
) -> Path:
    """A folder as ``peft`` writes it, with random matrices for all layers whose names end in ``targets``."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, layer in backbone.named_modules():
        if not f".{name}".endswith(tuple(f".{target}" for target in targets)):
            continue
        size_out, size_in = layer.weight.shape
        if type(layer).__name__ == "Conv1D":
            size_out, size_in = size_in, size_out
        prefix = f"base_model.model.{name}"
        weights[f"{prefix}.lora_A.weight"] = torch.randn(rank, size_in, generator=generator) * 0.3
        weights[f"{prefix}.lora_B.weight"] = torch.randn(size_out, rank, generator=generator) * 0.3
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 3.0,
        "lora_dropout": 0.0,
        "target_modules": list(targets),
        "inference_mode": True,
    } | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def adapted_model(
    folder: Path, gammas: dict[str, float] | None = None, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """A tiny language model with an adapter for ``films`` and one of another rank for ``books``."""
    backbone = random_backbone()
    nn.Module.to(backbone, dtype)
    adapters = {
        "films": write_adapter(folder / "films", backbone, seed=1),
        "books": write_adapter(folder / "books", backbone, seed=2, rank=3),
    }
    return LanguageModel(backbone, VOCABULARY, adapters, gammas or {"films": 0.3, "books": 0.8})


@dataclass(frozen=True)
class Request:
    """What is asked of a search, in words of SIDs."""

    domain: str = "films"
    history: tuple[tuple[str, Sid], ...] = ()
    num_results: int = 3
    gamma: float = 0.0
    blocked: frozenset[Sid] = frozenset()
    allowed: frozenset[Sid] | None = None
    known: tuple[tuple[Sid, float], ...] = ()
    shared: float = 0.0
    diversity: Diversity | None = None
    sampling: Sampling | None = None

    def permits(self, sid: Sid) -> bool:
        return sid not in self.blocked and (self.allowed is None or sid in self.allowed)


@dataclass(frozen=True)
class Found:
    """What a search found for one request, best first."""

    sids: list[Sid]
    scores: list[float]
    certified: bool


class World:
    """A language model, and the SIDs of some domains.

    ``exhaustive`` and ``naive_beams`` use nothing of the search: whole sequences, a dictionary for a trie, one beam at
    a time. Logits are kept, as they do not depend on the SIDs that exist.
    """

    def __init__(
        self, model: LanguageModel, domains: Mapping[str, Iterable[Sid]], logits: dict[Any, Any] | None = None
    ):
        self.model = model
        self.sids = {domain: sorted(sids) for domain, sids in domains.items()}
        tries = [build_trie(np.array(sids), model.vocabulary.codebook_sizes)[0] for sids in self.sids.values()]
        self.tables = tables_of(tries)
        self.root = {domain: root for root, domain in enumerate(self.sids)}
        starts = np.cumsum([0] + [len(sids) for sids in self.sids.values()]).tolist()
        self.first_leaf = dict(zip(self.sids, starts, strict=False))
        self.shared = {domain: shared_masses(len(sids)) for domain, sids in self.sids.items()}
        self._logits: dict[Any, Any] = {} if logits is None else logits

    def batch(self, requests: Sequence[Request], padding: int = 0) -> SearchBatch:
        """The requests as tensors; ``padding`` makes the prompts wider than the longest one."""
        prompts = [self.prompt(request) for request in requests]
        tokens_BP = torch.full((len(prompts), max(map(len, prompts)) + padding), self.model.vocabulary.pad)
        for row, prompt in enumerate(prompts):
            tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
        mixed = any(request.gamma > 0 for request in requests)
        gamma_B = torch.tensor([request.gamma for request in requests])
        adapters_B = torch.tensor([self.adapter(request) for request in requests])
        mixed_MB = torch.stack([torch.log1p(-gamma_B), gamma_B.log()])
        return SearchBatch(
            tokens_BP=tokens_BP,
            lengths_B=torch.tensor([len(prompt) for prompt in prompts]),
            roots_B=torch.tensor([self.root[request.domain] for request in requests]),
            mixture=Mixture(mixed_MB, adapters_B) if mixed else Mixture(torch.zeros(1, len(prompts))),
            num_results_B=torch.tensor([request.num_results for request in requests]),
            filter=LeafFilter.build(
                [self.leaves(request.domain, request.blocked) for request in requests],
                [
                    None if request.allowed is None else LeafSet.of(self.leaves(request.domain, request.allowed))
                    for request in requests
                ],
            ),
            known=KnownMass.build(
                [np.array(self.leaves(request.domain, dict(request.known)), dtype=np.int64) for request in requests],
                [np.array([mass for sid, mass in request.known if self._exists(request, sid)]) for request in requests],
                [request.shared for request in requests],
                torch.cat([torch.zeros(1), torch.tensor(np.concatenate([*self.shared.values()])).cumsum(0)]),
            ),
            caps=PrefixCaps.build([request.diversity for request in requests], self.tables.num_levels),
            sampler=Sampler.build([request.sampling for request in requests]),
        )

    def _exists(self, request: Request, sid: Sid) -> bool:
        return sid in self.sids[request.domain]

    def search(self, requests: Sequence[Request], width: int, padding: int = 0) -> list[Found]:
        found = self.raw_search(requests, width, padding)
        answers = []
        for row, request in enumerate(requests):
            count = int(found.counts_B[row])
            first = self.first_leaf[request.domain]
            sids = [self.sids[request.domain][leaf - first] for leaf in found.leaves_BK[row, :count].tolist()]
            answers.append(Found(sids, found.scores_BK[row, :count].tolist(), bool(found.certified_B[row])))
        return answers

    def raw_search(self, requests: Sequence[Request], width: int, padding: int = 0) -> SearchResult:
        return beam_search(self.model, self.tables, self.batch(requests, padding), width)

    def prompt(self, request: Request) -> list[int]:
        return self.model.prompt(request.history, request.domain)

    def adapter(self, request: Request) -> int:
        return self.model.adapter_index.get(request.domain, 0)

    def leaves(self, domain: str, sids: Iterable[Sid]) -> list[int]:
        own = self.sids[domain]
        return [self.first_leaf[domain] + own.index(sid) for sid in sids if sid in own]

    def exhaustive(self, request: Request) -> list[tuple[float, Sid]]:
        """The score of every allowed SID, best first."""
        scores = [(self._score(request, sid), sid) for sid in self.sids[request.domain] if request.permits(sid)]
        return sorted(scores, key=lambda pair: -pair[0])

    def greedy(self, request: Request) -> list[tuple[float, Sid]]:
        """The exhaustive ranking, without the items whose prefix has had as many as the request's cap allows."""
        assert request.diversity is not None
        kept: list[tuple[float, Sid]] = []
        for score, sid in self.exhaustive(request):
            prefix = sid[: request.diversity.prefix_length]
            if sum(own[: len(prefix)] == prefix for _, own in kept) < request.diversity.max_per_prefix:
                kept.append((score, sid))
        return kept

    def prefix_score(self, request: Request, prefix: Sid) -> float:
        """log P(prefix), whatever the request's filter."""
        return self._score(request, prefix)

    def naive_beams(self, request: Request, width: int) -> tuple[list[tuple[float, Sid]], bool]:
        """Level-synchronous beam search, and whether no decision in it was as close as rounding."""
        beams: list[tuple[float, Sid]] = [(0.0, ())]
        clear = True
        for _ in self.model.vocabulary.codebook_sizes:
            grown = [
                (self._score(request, (*prefix, code)), (*prefix, code))
                for _, prefix in beams
                for code in self._children(request.domain, prefix)
                if self._any_permitted(request, (*prefix, code))
            ]
            grown.sort(key=lambda pair: -pair[0])
            clear &= all(better[0] - worse[0] > 1e-4 for better, worse in itertools.pairwise(grown))
            beams = grown[:width]
        return beams[: request.num_results], clear

    def _any_permitted(self, request: Request, prefix: Sid) -> bool:
        return any(sid[: len(prefix)] == prefix and request.permits(sid) for sid in self.sids[request.domain])

    def _children(self, domain: str, prefix: Sid) -> list[int]:
        depth = len(prefix)
        return sorted({sid[depth] for sid in self.sids[domain] if sid[:depth] == prefix})

    def _score(self, request: Request, sid: Sid) -> float:
        """log P(sid): what is known of it, and the mixture's share of the rest."""
        own = {whole: mass for whole, mass in request.known if self._exists(request, whole)}
        known = sum(mass for whole, mass in own.items() if whole[: len(sid)] == sid)
        shares = zip(self.sids[request.domain], self.shared[request.domain].tolist(), strict=True)
        known += request.shared * sum(mass for whole, mass in shares if whole[: len(sid)] == sid)
        rest = max(1 - request.shared - sum(own.values()), 0.0)
        with np.errstate(divide="ignore"):
            return float(np.logaddexp(np.log(known), np.log(rest) + self._mixed(request, sid)))

    def _mixed(self, request: Request, sid: Sid) -> float:
        """log sum_m w_m P_m(sid), codes normalised over the children that exist."""
        adapter = self.adapter(request) if request.gamma > 0 else None
        masses = [0.0, 0.0]
        for depth, code in enumerate(sid):
            children = self._children(request.domain, sid[:depth])
            for which, logits_V in enumerate(self._code_logits(self.prompt(request), sid[:depth], adapter)):
                own = logits_V[children]
                masses[which] += float(logits_V[code] - own.max() - np.log(np.exp(own - own.max()).sum()))
        if request.gamma == 0:
            return masses[0]
        if request.gamma == 1:
            return masses[1]
        return float(np.logaddexp(math.log(1 - request.gamma) + masses[0], math.log(request.gamma) + masses[1]))

    def _code_logits(self, prompt: list[int], prefix: Sid, adapter: int | None) -> Any:
        """The next code's logits under each distribution: the whole sequence is read again."""
        key = (tuple(prompt), prefix, adapter)
        if key not in self._logits:
            vocabulary = self.model.vocabulary
            codes = [vocabulary.first_code(level) + code for level, code in enumerate(prefix)]
            adapters = None if adapter is None else torch.tensor([adapter])
            hidden_M1PD = self.model.read(torch.tensor([prompt + codes]), adapters)
            self._logits[key] = self.model.code_logits(hidden_M1PD[:, 0, -1], len(prefix)).double().numpy()
        return self._logits[key]


def random_sids(rng: np.random.Generator, count: int, sizes: Sequence[int] = SIZES) -> list[Sid]:
    """So many different SIDs, sorted."""
    places = rng.choice(math.prod(sizes), size=count, replace=False)
    return sorted(zip(*(column.tolist() for column in np.unravel_index(places, tuple(sizes))), strict=True))


def shared_masses(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A distribution over so many leaves; every third has no mass."""
    masses = np.arange(1, count + 1) % 3 + 1e-9 * (count < 3)
    shares: np.ndarray[Any, np.dtype[np.float64]] = masses / masses.sum()
    return shares
