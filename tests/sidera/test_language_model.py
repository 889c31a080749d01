"""Reading, extending and scoring against plain calls of ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidera.errors import BackboneError
from sidera.language_model import LanguageModel, load_backbone
from sidera.model.vocabulary import Vocabulary
from tests.sidera.worlds import BACKBONES, SIZES, VOCABULARY, adapted_model, random_backbone


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_slice_of_the_head_gives_the_logits_of_the_whole_model(kind: str) -> None:
    backbone = random_backbone(kind, **BACKBONES[kind])
    model = LanguageModel(backbone, VOCABULARY)
    tokens_BP = torch.arange(40, 56).view(2, 8)
    with torch.no_grad():
        whole = backbone(input_ids=tokens_BP).logits
    hidden_MBPD = model.read(tokens_BP, None)
    for level in range(len(SIZES)):
        first = VOCABULARY.first_code(level)
        sliced = model.code_logits(hidden_MBPD[0], level)
        assert sliced.shape == (2, 8, SIZES[level])
        torch.testing.assert_close(sliced, whole[..., first : first + SIZES[level]].float(), atol=1e-5, rtol=1e-5)


def test_bias_scale_and_soft_cap_are_there_to_be_forgotten() -> None:
    def changed(kind: str) -> Any:
        return random_backbone(kind, **BACKBONES[kind])

    assert float(changed("phi").lm_head.bias.detach().abs().max()) > 0.1
    assert changed("granite").config.logits_scaling == 3.0
    assert changed("cohere").config.logit_scale == 0.5
    assert changed("gemma2").config.final_logit_softcapping == 2.0


def test_a_history_read_in_a_padded_batch_ends_in_the_hidden_state_that_it_has_alone(tmp_path: Path) -> None:
    model = adapted_model(tmp_path)
    prompts = [[40, 41, 45, 50, 8], [9], [8, 44, 47]]
    tokens_BP = torch.full((3, 9), VOCABULARY.pad)
    for row, prompt in enumerate(prompts):
        tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
    adapters_B = torch.tensor([1, 0, 1])
    hidden_MBD, history = model.prefill(tokens_BP, torch.tensor([5, 1, 3]), adapters_B, 2)
    assert (history.padded_length, history.num_distributions) == (9, 2)
    for row, prompt in enumerate(prompts):
        alone = model.read(torch.tensor([prompt]), adapters_B[row : row + 1])[:, 0, -1]
        torch.testing.assert_close(hidden_MBD[:, row], alone, atol=1e-5, rtol=1e-5)


def test_tokens_of_two_branches_in_one_run_do_not_see_each_other(tmp_path: Path) -> None:
    model = adapted_model(tmp_path)
    prompts = [[40, 41, 45, 50, 8], [9]]
    tokens_BP = torch.tensor([prompts[0], [9, *[VOCABULARY.pad] * 4]])
    adapters_B = torch.tensor([0, 1])
    _, history = model.prefill(tokens_BP, torch.tensor([5, 1]), adapters_B, 2)
    # First run: the codes a and b; second run: c and d behind a, e behind b.
    a, b, c, d, e = 41, 42, 46, 47, 48
    first = torch.eye(2, dtype=torch.bool).expand(2, 2, 2)
    hidden_1 = model.extend(history, torch.tensor([[a, b]] * 2), torch.zeros(2, 2, dtype=torch.int64), first)
    second = torch.tensor([[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]], dtype=torch.bool).expand(2, 3, 5)
    hidden_2 = model.extend(history, torch.tensor([[c, d, e]] * 2), torch.ones(2, 3, dtype=torch.int64), second)
    for row, prompt in enumerate(prompts):
        for found, branch in [
            (hidden_1[:, row, 0], [a]),
            (hidden_1[:, row, 1], [b]),
            (hidden_2[:, row, 0], [a, c]),
            (hidden_2[:, row, 1], [a, d]),
            (hidden_2[:, row, 2], [b, e]),
        ]:
            alone = model.read(torch.tensor([prompt + branch]), adapters_B[row : row + 1])[:, 0, -1]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


def test_a_prompt_is_the_history_and_the_domain_asked_for() -> None:
    model = LanguageModel(random_backbone(), VOCABULARY)
    history = [("films", (1, 2, 3)), ("songs", (0, 0, 0))]
    films, any_domain = VOCABULARY.domain_token("films"), VOCABULARY.any_domain
    codes = [VOCABULARY.first_code(level) for level in range(3)]
    assert model.prompt(history, "books") == [
        films, codes[0] + 1, codes[1] + 2, codes[2] + 3, any_domain, *codes, VOCABULARY.domain_token("books")
    ]  # fmt: skip
    assert model.prompt([], "songs") == [any_domain]


def test_a_batch_is_mixed_only_if_one_of_its_domains_is(tmp_path: Path) -> None:
    model = adapted_model(tmp_path, gammas={"films": 0.25, "books": 0.0})
    alone = model.mixture(["songs", "books"])
    assert alone.constant_MB.tolist() == [[0.0, 0.0]]
    assert alone.adapters_B is None
    mixed = model.mixture(["songs", "films", "books"])
    assert mixed.constant_MB.exp().tolist() == [[1.0, 0.75, 1.0], [0.0, 0.25, 0.0]]
    assert mixed.adapters_B is not None
    assert mixed.adapters_B[1:].tolist() == [model.adapter_index["films"], model.adapter_index["books"]]
    assert mixed.log_weights(torch.empty(2, 3, 32)) is mixed.constant_MB


def test_a_domain_whose_adapter_speaks_alone_has_weights_without_nan(tmp_path: Path) -> None:
    mixture = adapted_model(tmp_path, gammas={"films": 1.0}).mixture(["films", "songs"])
    assert mixture.constant_MB.exp().tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_a_batch_whose_adapters_speak_alone_reads_its_histories_once(tmp_path: Path) -> None:
    model = adapted_model(tmp_path, gammas={"films": 1.0, "books": 1.0})
    mixture = model.mixture(["films", "books"])
    assert mixture.constant_MB.tolist() == [[0.0, 0.0]]
    adapters_B = mixture.adapters_B
    assert adapters_B is not None
    tokens_BP = torch.tensor([model.prompt([], "films"), model.prompt([], "books")])
    hidden_MBD, history = model.prefill(tokens_BP, torch.tensor([1, 1]), adapters_B, mixture.num_distributions)
    keys = history.cache.layers[0].keys  # type: ignore[union-attr]
    assert keys is not None
    assert keys.shape[0] == 2
    torch.testing.assert_close(hidden_MBD[0], model.read(tokens_BP, adapters_B)[1, :, 0])


@pytest.mark.parametrize("gamma", [-0.1, 1.5, float("nan")])
def test_a_gamma_that_is_no_share_is_refused(tmp_path: Path, gamma: float) -> None:
    with pytest.raises(BackboneError, match=r"gamma of 'films' is .*; a share lies in 0\.\.1"):
        adapted_model(tmp_path, gammas={"films": gamma})


def test_a_backbone_with_too_few_rows_is_refused() -> None:
    with pytest.raises(BackboneError, match=f"embeds {VOCABULARY.size} tokens, the codes need {VOCABULARY.size + 1}"):
        LanguageModel(random_backbone(), Vocabulary((5, 4, 7), base=7))


def test_a_backbone_that_was_saved_and_loaded_gives_the_same_logits(tmp_path: Path) -> None:
    backbone = random_backbone()
    backbone.save_pretrained(tmp_path)
    again = load_backbone(tmp_path)
    assert again.config._attn_implementation == "sdpa"
    tokens = torch.tensor([[40, 41, 45]])
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=tokens).logits, backbone(input_ids=tokens).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_backbone_has_the_dtype_that_it_was_saved_with_and_none_is_set_for_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Another bundle computes in the same process while this one is loaded."""
    backbone = random_backbone()
    torch.nn.Module.to(backbone, dtype)
    backbone.save_pretrained(tmp_path)
    defaults = list[torch.dtype]()
    monkeypatch.setattr(torch, "set_default_dtype", defaults.append)
    again = load_backbone(tmp_path)
    assert set(defaults) <= {torch.float32}
    assert {weight.dtype for weight in again.parameters()} == {dtype}
    for name, weight in backbone.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert {weight.dtype for weight in load_backbone(tmp_path, dtype=torch.float32).parameters()} == {torch.float32}


def test_a_folder_without_a_causal_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="no backbone can be loaded"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(BackboneError, match="no backbone can be loaded"):
        load_backbone(tmp_path)


def test_weights_that_must_be_unpickled_are_refused(tmp_path: Path) -> None:
    backbone = random_backbone()
    backbone.config.save_pretrained(tmp_path)
    torch.save(backbone.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="no backbone can be loaded"):
        load_backbone(tmp_path)


def test_a_backbone_that_lacks_weights_is_refused_and_not_filled_with_random_ones(tmp_path: Path) -> None:
    random_backbone().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_backbone(tmp_path)
