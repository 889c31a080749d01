"""Pretrained backbones: what is refused before hours are spent, what trains, and what stays bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from sidera.errors import BackboneError
from sidera.language_model import LanguageModel
from sidera.model.experts import expert_layers
from sidera.model.linear_layers import linear_layers, sizes_of
from sidera.model.vocabulary import Vocabulary
from tests.training.backbone_folders import ROWS, random_sequences, write_backbone, write_tokenizer
from training.backbones import load_universal, save_universal
from training.code_loss import CodeLoss
from training.errors import ConfigError, StageError
from training.language_model import Phase, train_adapter, train_universal
from training.model_config import AdapterConfig, ExpertsConfig, LanguageModelConfig, OptimizerConfig
from training.new_rows import NewRows
from training.pretrained import check_pretrained, find_pretrained, load_pretrained
from training.sequences import epoch_batches
from training.trainable import check_trainable

VOCABULARY = Vocabulary((4, 6, 3), {"books": 0, "films": 1}, base=ROWS)
NAMES = ("books", "films")
SCORES = {"recall@10": 0.0, "ndcg@10": 0.0}
OPTIMIZER = OptimizerConfig(epochs=2, learning_rate=0.05, batch_tokens=64)
EXPERTS = ExpertsConfig(count=2, rank=3, alpha=4)


def phase(**changes: Any) -> Phase:
    settings: dict[str, Any] = {
        "universal": OPTIMIZER,
        "backbone": "a folder",
        "max_history": 8,
        "loss": "codebook",
        "experts": EXPERTS,
        "domain": AdapterConfig(rank=2, alpha=4, optimizer=OPTIMIZER),
    }
    return Phase(random_sequences(VOCABULARY), VOCABULARY, NAMES, LanguageModelConfig(**settings | changes), seed=1)


def ready(folder: Path, kind: str = "llama", **changes: Any) -> Any:
    """A pretrained backbone with rows for the vocabulary."""
    write_backbone(folder, kind, **changes)
    return load_pretrained(find_pretrained(str(folder)), VOCABULARY, "cpu", seed=0)


def trained(backbone: PreTrainedModel, folder: Path, **changes: Any) -> set[str]:
    """Run phase 1; returns the names of the weights that trained."""
    names: set[str] = set()

    def validate(model: PreTrainedModel) -> dict[str, float]:
        names.update(name for name, weight in model.named_parameters() if weight.requires_grad)
        return SCORES

    train_universal(phase(**changes), backbone, validate, folder)
    return names


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("llama", {"tie_word_embeddings": False}), ("gpt2", {}), ("qwen3", {"head_dim": 8}), ("phi", {})],
)
def test_phase_1_changes_new_rows_and_experts_and_leaves_every_other_bit(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    backbone = ready(tmp_path / "base", kind, **changes)
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    names = trained(backbone, tmp_path / "run")
    assert {name.rpartition(".universal_experts.")[0] for name in names} == set(linear_layers(backbone))
    save_universal(backbone, tmp_path / "universal")
    saved = load_file(tmp_path / "universal" / "backbone" / "model.safetensors")
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert set(saved) == set(base), "a stock folder: the same names"
    changed = {name for name, weight in saved.items() if not torch.equal(weight, before[name])}
    embedding = next(name for name in saved if "embed_tokens" in name or "wte" in name)
    heads = {"lm_head.weight"} if "lm_head.weight" in saved else set()
    assert changed == {embedding} | heads
    for name, weight in saved.items():
        own = weight[:ROWS] if name in (embedding, *heads, "lm_head.bias") else weight
        assert torch.equal(own, base[name]), name
    new = saved[embedding][ROWS:]
    used = [VOCABULARY.domain_token("books") - ROWS, VOCABULARY.first_code(0) - ROWS]
    assert all(not torch.equal(new[row], before[embedding][ROWS + row]) for row in used)


def test_what_phase_1_leaves_is_loaded_with_the_same_scores_and_without_the_base_models_sampling(
    tmp_path: Path,
) -> None:
    backbone = ready(tmp_path / "base")
    trained(backbone, tmp_path / "run")
    save_universal(backbone, tmp_path / "universal")
    assert sorted(path.name for path in (tmp_path / "universal").rglob("*.json")) == ["adapter_config.json"] * 2 + [
        "config.json"
    ]
    config = json.loads((tmp_path / "universal" / "backbone" / "config.json").read_text())
    assert not {"do_sample", "temperature", "top_k", "top_p"} & set(config)
    loaded = load_universal(tmp_path / "universal")
    assert loaded.generation_config.top_k != 2
    tokens_BT = torch.arange(ROWS, VOCABULARY.size)[None, :20]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=tokens_BT).logits, backbone.eval()(input_ids=tokens_BT).logits)


def test_the_exact_number_of_weights_trains_and_a_weight_more_is_refused(tmp_path: Path) -> None:
    backbone = ready(tmp_path / "base")
    trained(backbone, tmp_path / "run")
    sizes = [sizes_of(layer) or (0, 0) for layer in linear_layers(backbone).values()]
    experts = sum(2 * 3 * (size_in + size_out) + 2 * size_in for size_in, size_out in sizes)
    check_trainable("universal", backbone, experts)
    backbone.get_parameter("model.norm.weight").requires_grad_(True)
    with pytest.raises(StageError, match=f"universal: {experts + 32} weights would train where {experts} belong"):
        check_trainable("universal", backbone, experts)


def test_without_experts_only_the_new_rows_train(tmp_path: Path) -> None:
    backbone = ready(tmp_path / "base")
    assert trained(backbone, tmp_path / "run", experts=ExpertsConfig(count=0)) == set()
    assert expert_layers(backbone) == {}
    assert not torch.equal(backbone.get_input_embeddings().weight[ROWS:], ready(tmp_path / "b").lm_head.weight[ROWS:])


def test_the_loss_with_separate_rows_is_that_of_the_whole_backbone_and_has_its_gradient(tmp_path: Path) -> None:
    for tied in (True, False):
        backbone = ready(tmp_path / str(tied), tie_word_embeddings=tied)
        (batch,) = epoch_batches(
            random_sequences(VOCABULARY),
            VOCABULARY,
            NAMES,
            max_items=9,
            batch_tokens=10_000,
            any_domain_probability=0.3,
            seed=(0, 0),
        )
        CodeLoss(backbone, VOCABULARY, 0.0, 0.0)(batch).backward()
        weights = {backbone.get_input_embeddings().weight, backbone.get_output_embeddings().weight}
        expected = [weight.grad[ROWS:].clone() for weight in weights]
        backbone.zero_grad()
        rows = NewRows(backbone, ROWS, VOCABULARY.size)
        CodeLoss(backbone, VOCABULARY, 0.0, 0.0, rows)(batch).backward()
        found: list[Tensor] = [weight.grad for weight in rows.parameters() if weight.grad is not None]
        assert len(found) == len(expected) == (1 if tied else 2)
        assert all(any(torch.allclose(a, b, atol=1e-6) for b in expected) for a in found)
        assert all(weight.grad is None for weight in weights)


def test_a_rows_gradient_does_not_depend_on_the_base_models_padding_token(tmp_path: Path) -> None:
    """Row 2 of the new rows has the number that the base model calls padding."""
    backbone = ready(tmp_path / "base", pad_token_id=2)
    rows = NewRows(backbone, ROWS, VOCABULARY.size)
    rows.embed(backbone.get_input_embeddings(), torch.tensor([[ROWS + 2]])).sum().backward()
    assert rows.embed_rows_ND.grad is not None
    assert bool((rows.embed_rows_ND.grad[2] == 1).all())


def test_text_tokens_are_read_beside_the_new_rows_and_do_not_train(tmp_path: Path) -> None:
    backbone = ready(tmp_path / "base")
    rows = NewRows(backbone, ROWS, VOCABULARY.size)
    embedding = backbone.get_input_embeddings()
    tokens_BT = torch.tensor([[3, ROWS, VOCABULARY.size - 1, 7]])
    found_BTD = rows.embed(embedding, tokens_BT)
    assert torch.equal(found_BTD, embedding(tokens_BT))
    found_BTD[0, 0].sum().backward()
    assert rows.embed_rows_ND.grad is not None
    assert not rows.embed_rows_ND.grad.any()


def test_new_rows_lie_among_the_backbones_own_and_the_seed_decides_them(tmp_path: Path) -> None:
    base = write_backbone(tmp_path / "base")
    found = find_pretrained(str(tmp_path / "base"))

    def new_rows(seed: int) -> Tensor:
        backbone = load_pretrained(found, VOCABULARY, "cpu", seed)
        weight: Tensor = backbone.get_input_embeddings().get_parameter("weight").detach()
        assert weight.shape[0] == VOCABULARY.size
        assert weight.dtype == torch.float32
        return weight[ROWS:]

    own = base.get_input_embeddings().get_parameter("weight").detach()
    assert torch.equal(new_rows(1), new_rows(1))
    assert not torch.equal(new_rows(1), new_rows(2))
    assert len(new_rows(1).unique(dim=0)) == VOCABULARY.size - ROWS
    torch.testing.assert_close(new_rows(1).mean(0), own.mean(0), atol=0.15, rtol=0)
    assert float(new_rows(1).std()) < float(own.std())


def test_a_domain_that_comes_later_trains_its_adapter_and_one_row(tmp_path: Path) -> None:
    backbone = ready(tmp_path / "base")
    trained(backbone, tmp_path / "run")
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    later = Vocabulary((4, 6, 3), {"books": 0, "films": 5}, base=ROWS)
    whole = phase()
    added = Phase(whole.sequences, later, NAMES, whole.config, whole.seed)
    train_adapter(added, backbone, 1, lambda model: SCORES, tmp_path / "later", new_token=True)
    after = backbone.state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}, "one matrix, shared by embedding and head"
    rows = (after["lm_head.weight"] != before["lm_head.weight"]).any(dim=1).nonzero().flatten().tolist()
    assert rows == [later.domain_token("films")]
    token = later.domain_token("films")
    assert not torch.equal(after["lm_head.weight"][token], before["lm_head.weight"][later.any_domain])
    assert (tmp_path / "later" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_adapter_of_the_upper_half_leaves_the_lower_layers_hidden_states_alone(tmp_path: Path, kind: str) -> None:
    backbone = ready(tmp_path / "base", kind, num_hidden_layers=3)
    trained(backbone, tmp_path / "run")
    half = AdapterConfig(rank=2, alpha=4, adapter_layers="upper_half", optimizer=OPTIMIZER)
    train_adapter(phase(domain=half), backbone, 1, lambda model: SCORES, tmp_path / "half")
    weights = load_file(tmp_path / "half" / "adapter" / "adapter_model.safetensors")
    stack = "h" if kind == "gpt2" else "layers"
    assert weights
    assert not any(f".{stack}.0." in name for name in weights)
    assert {f".{stack}.1.", f".{stack}.2."} == {
        part for part in (f".{stack}.1.", f".{stack}.2.") if any(part in name for name in weights)
    }
    model = LanguageModel(backbone, VOCABULARY, {"films": tmp_path / "half" / "adapter"}, {"films": 0.5})
    states_of: list[Tensor] = []
    layers = model.backbone.base_model.h if kind == "gpt2" else model.backbone.base_model.layers
    hook = layers[0].register_forward_hook(
        lambda module, given, output: states_of.append(output[0] if isinstance(output, tuple) else output)
    )
    hidden_MBTD = model.read(torch.tensor([[ROWS + 1, ROWS + 40, ROWS + 41]]), torch.tensor([0]))
    hook.remove()
    torch.testing.assert_close(states_of[0][0], states_of[0][1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(hidden_MBTD[0], hidden_MBTD[1], atol=1e-3)


def test_a_backbone_that_is_nowhere_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (str(tmp_path / "nothing"), "nobody/no-such-model", "tiny", "a b"):
        with pytest.raises(
            ConfigError, match=r"language_model\.backbone: .* neither scratch:<preset>, nor a folder"
        ) as e:
            find_pretrained(name)
        assert "\n" not in str(e.value)


def test_a_folder_that_holds_no_causal_model_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig

    with pytest.raises(ConfigError, match=r"has no config\.json"):
        find_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ConfigError, match="its config cannot be read"):
        find_pretrained(str(tmp_path))
    BertConfig().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"bert"', '"clip"'))
    with pytest.raises(ConfigError, match="'clip' model is no causal language model"):
        find_pretrained(str(tmp_path))


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"has no \*\.safetensors"):
        find_pretrained(str(tmp_path))


def test_a_tokenizer_whose_tokens_would_clash_with_the_new_ones_is_refused(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    write_tokenizer(tmp_path, {"[UNK]": 0, "one": 1, "last": ROWS - 1})
    assert find_pretrained(str(tmp_path)).rows == ROWS
    write_tokenizer(tmp_path, {"[UNK]": 0, "one": 1, "behind": ROWS})
    with pytest.raises(ConfigError, match=f"token 'behind' of its tokenizer has number {ROWS}.*clash with a new token"):
        find_pretrained(str(tmp_path))
    write_tokenizer(tmp_path, {"[UNK]": 0, "one": 1})
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('"one": 1', '"one": 1, "uno": 1'))
    with pytest.raises(ConfigError, match="gives 'one' and 'uno' one number, 1"):
        find_pretrained(str(tmp_path))


def test_a_vocabulary_that_begins_elsewhere_is_refused(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    found = find_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match="the new tokens begin at 7; tokens would clash"):
        load_pretrained(found, Vocabulary((4, 6, 3), {}, base=7), "cpu", seed=0)


def test_a_backbone_that_decodes_wrongly_or_reads_too_little_is_refused_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    write_backbone(tmp_path / "right")
    found = find_pretrained(str(tmp_path / "right"))
    check_pretrained(found, (4, 6, 3), 8, "cpu")
    with pytest.raises(BackboneError, match="reads 128 tokens, a history of 40 items needs 164"):
        check_pretrained(found, (4, 6, 3), 40, "cpu")
    write_backbone(tmp_path / "wrong", "falcon", alibi=True)
    with pytest.raises(BackboneError, match="FalconForCausalLM cannot decode a tree"):
        check_pretrained(find_pretrained(str(tmp_path / "wrong")), (4, 6, 3), 8, "cpu")


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    write_backbone(tmp_path / "a")
    write_backbone(tmp_path / "b")
    write_backbone(tmp_path / "c", num_hidden_layers=3)
    one, same, other = (find_pretrained(str(tmp_path / name)).digest for name in "abc")
    assert one == same != other
