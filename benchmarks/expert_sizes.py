"""How many weights train on the shapes of Qwen2.5-7B: counted on the meta device, where no weight takes memory."""

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.harness import Figure, shown
from sidera.model.experts import ExpertShape, add_experts, expert_layers
from sidera.model.linear_layers import linear_layers, sizes_of

PAPER_MILLIONS = 25.5
SHAPE = ExpertShape(count=4, rank=64, alpha=128)


def qwen_7b() -> PreTrainedModel:
    """Qwen2.5-7B without weights (its published config)."""
    config = Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return Qwen2ForCausalLM(config)


def adapter_weights(backbone: PreTrainedModel, rank: int, names: tuple[str, ...] = ()) -> int:
    """Weights of one LoRA adapter on the layers whose names end so; default: on all linear layers."""
    layers = {name: layer for name, layer in linear_layers(backbone).items() if not names or name.endswith(names)}
    return sum(rank * sum(sizes_of(layer) or (0, 0)) for layer in layers.values())


def measure_sizes() -> dict[str, Figure]:
    """The counts, in millions, and the paper's beside them."""
    backbone = qwen_7b()
    adapter = adapter_weights(backbone, SHAPE.rank)
    attention = adapter_weights(backbone, SHAPE.rank, ("q_proj", "v_proj"))
    add_experts(backbone, SHAPE)
    experts = sum(
        weight.numel() for layer in expert_layers(backbone).values() for weight in layer.universal_experts.parameters()
    )
    why = (
        f"GenCDR (arXiv 2511.08006) says {PAPER_MILLIONS} M; one adapter of rank 64 on query and value alone has "
        f"{attention / 1e6:.1f} M, so that figure cannot hold four experts of that rank on any usual choice of layers"
    )
    return {
        "qwen_7b_trainable_millions": shown((experts + adapter) / 1e6, "M", why),
        "qwen_7b_experts_millions": shown(experts / 1e6, "M", "4 experts of rank 64 on every linear layer, with gates"),
        "qwen_7b_domain_adapter_millions": shown(adapter / 1e6, "M", "one domain, rank 64, every linear layer"),
        "qwen_7b_paper_millions": shown(PAPER_MILLIONS, "M", "as published"),
    }
