"""Stacked adapters against ``peft`` itself, and folders that are none of ours."""

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from sidera.errors import BackboneError
from sidera.language_model import LanguageModel
from sidera.model.adapters import AdapterBank
from sidera.model.key_values import keys_and_values
from sidera.model.linear_layers import upper_half
from sidera.model.self_test import check_backbone
from tests.sidera.worlds import BACKBONES, VOCABULARY, random_backbone, write_adapter

KINDS = {"qwen2": ("q_proj", "v_proj", "down_proj"), "gpt2": ("c_attn", "c_fc", "c_proj")}
TOKENS_BT = torch.tensor([[40, 41, 45, 50], [8, 44, 47, 49], [41, 44, 48, 55], [9, 42, 44, 51], [42, 43, 44, 8]])


def write_three(folder: Path, backbone: PreTrainedModel, kind: str) -> list[Path]:
    """Adapters that differ in rank, in scale and in the layers that they touch."""
    fan_in_fan_out = {"fan_in_fan_out": True} if kind == "gpt2" else {}
    return [
        write_adapter(folder / "a", backbone, 1, 2, KINDS[kind], **fan_in_fan_out),
        write_adapter(folder / "b", backbone, 2, 5, KINDS[kind][:2], use_rslora=True, lora_alpha=2.0, **fan_in_fan_out),
        write_adapter(folder / "c", backbone, 3, 1, KINDS[kind][2:], lora_alpha=0.5, **fan_in_fan_out),
    ]


def logits(backbone: Any, tokens_BT: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = backbone(input_ids=tokens_BT, use_cache=False).logits
    return found


def peft_logits(backbone: PreTrainedModel, folder: Path, tokens_BT: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return logits(peft.PeftModel.from_pretrained(copy.deepcopy(backbone), str(folder)).eval(), tokens_BT)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_goes_through_its_own_adapter_as_peft_computes_it(tmp_path: Path, kind: str) -> None:
    backbone = random_backbone(kind)
    folders = write_three(tmp_path, backbone, kind)
    plain = logits(backbone, TOKENS_BT)
    with_adapter = [peft_logits(backbone, folder, TOKENS_BT) for folder in folders]
    differences = [float((adapted - plain).abs().max()) for adapted in with_adapter]
    assert min(differences) > 0.05
    bank = AdapterBank(backbone, folders)

    torch.testing.assert_close(logits(backbone, TOKENS_BT), plain, atol=1e-5, rtol=1e-5)
    for chosen in ([0, 0, 0, 0, 0], [2, 0, 1, 1, 2], [1, 2, 0], [1], []):
        rows = len(TOKENS_BT) - len(chosen)
        expected = torch.stack(
            [*plain[:rows], *(with_adapter[adapter][rows + place] for place, adapter in enumerate(chosen))]
        )
        with bank.rows(torch.tensor(chosen, dtype=torch.int64)):
            torch.testing.assert_close(logits(backbone, TOKENS_BT), expected, atol=5e-5, rtol=1e-4)
    with bank.rows(None):
        torch.testing.assert_close(logits(backbone, TOKENS_BT), plain, atol=1e-5, rtol=1e-5)


def test_after_an_error_no_row_keeps_an_adapter(tmp_path: Path) -> None:
    backbone = random_backbone()
    plain = logits(backbone, TOKENS_BT)
    bank = AdapterBank(backbone, write_three(tmp_path, backbone, "qwen2"))
    with pytest.raises(ZeroDivisionError), bank.rows(torch.tensor([0])):
        raise ZeroDivisionError
    torch.testing.assert_close(logits(backbone, TOKENS_BT), plain, atol=1e-5, rtol=1e-5)


def test_what_peft_saves_is_what_is_read(tmp_path: Path) -> None:
    backbone = random_backbone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = peft.LoraConfig(r=3, lora_alpha=7, target_modules="all-linear", init_lora_weights=False)
        trained = peft.get_peft_model(copy.deepcopy(backbone), settings).eval()
        trained.save_pretrained(str(tmp_path / "saved"))
    bank = AdapterBank(backbone, [tmp_path / "saved"])
    with bank.rows(torch.zeros(len(TOKENS_BT), dtype=torch.int64)):
        torch.testing.assert_close(logits(backbone, TOKENS_BT), logits(trained, TOKENS_BT), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "not a plain LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"r": 4}, "no matrices of rank 4"),
    ],
)
def test_an_adapter_that_is_not_plain_lora_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    backbone = random_backbone()
    with pytest.raises(BackboneError, match=f"domain-films.*{message}"):
        AdapterBank(backbone, [write_adapter(tmp_path / "domain-films", backbone, **config)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights | {"base_model.model.model.norm.weight": torch.ones(32)}, "more than LoRA matrices"),
        (lambda weights: dict(list(weights.items())[1:]), "more than LoRA|no matrices"),
        (lambda weights: {name: tensor for name, tensor in weights.items() if "lora_A" in name}, "no matrices of rank"),
        (
            lambda weights: {name: tensor[:, :1].contiguous() for name, tensor in weights.items()},
            "no matrices of rank",
        ),
    ],
)
def test_an_adapter_with_more_or_fewer_weights_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    backbone = random_backbone()
    file = write_adapter(tmp_path / "domain-films", backbone) / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(BackboneError, match=f"domain-films.*({message})"):
        AdapterBank(backbone, [file.parent])


@pytest.mark.parametrize("damaged", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{not json"])
def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, damaged: str, content: bytes | None) -> None:
    backbone = random_backbone()
    file = write_adapter(tmp_path / "domain-films", backbone) / damaged
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(BackboneError, match="domain-films: no adapter can be read"):
        AdapterBank(backbone, [file.parent])


def test_an_adapter_of_another_backbone_is_refused(tmp_path: Path) -> None:
    wide = random_backbone(hidden_size=64)
    deep = random_backbone(num_hidden_layers=3)
    other = random_backbone("gpt2")
    with pytest.raises(BackboneError, match="another width"):
        AdapterBank(random_backbone(), [write_adapter(tmp_path / "wide", wide)])
    with pytest.raises(BackboneError, match=r"'model\.layers\.2\.\w+\.\w+' is not in this backbone"):
        AdapterBank(random_backbone(), [write_adapter(tmp_path / "deep", deep)])
    with pytest.raises(BackboneError, match="is not in this backbone"):
        AdapterBank(random_backbone(), [write_adapter(tmp_path / "other", other, targets=("c_fc",))])


def test_an_adapter_of_what_is_no_linear_layer_or_of_the_head_is_refused(tmp_path: Path) -> None:
    backbone = random_backbone()
    with pytest.raises(BackboneError, match="is a Embedding; only linear layers"):
        AdapterBank(backbone, [write_adapter(tmp_path / "rows", backbone, targets=("embed_tokens",))])
    with pytest.raises(BackboneError, match="'lm_head' is the output head"):
        AdapterBank(backbone, [write_adapter(tmp_path / "head", backbone, targets=("lm_head",))])


def test_the_adapters_of_a_language_model_are_those_of_its_domains(tmp_path: Path) -> None:
    backbone = random_backbone()
    first, second, _ = write_three(tmp_path, backbone, "qwen2")
    expected = {"films": peft_logits(backbone, second, TOKENS_BT), "books": peft_logits(backbone, first, TOKENS_BT)}
    plain = logits(backbone, TOKENS_BT)
    model = LanguageModel(backbone, VOCABULARY, {"films": second, "books": first}, {"films": 0.5})
    for domain, adapted in expected.items():
        adapters_B = torch.full((len(TOKENS_BT),), model.adapter_index[domain])
        hidden_MBTD = model.read(TOKENS_BT, adapters_B)
        found = model.code_logits(hidden_MBTD, 1)
        rows = slice(VOCABULARY.first_code(1), VOCABULARY.first_code(2))
        torch.testing.assert_close(found[0], plain[..., rows], atol=5e-5, rtol=1e-4)
        torch.testing.assert_close(found[1], adapted[..., rows], atol=5e-5, rtol=1e-4)


def test_the_configuration_that_these_tests_write_is_one_that_peft_reads(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "films", random_backbone(), rank=3)
    assert peft.PeftConfig.from_pretrained(str(folder)).r == 3


def upper_half_model(folder: Path, kind: str, **changes: Any) -> LanguageModel:
    """A model of four layers whose adapters, of two domains, touch the last two."""
    backbone = random_backbone(kind, num_hidden_layers=4, **changes)
    conv = {"fan_in_fan_out": True} if kind == "gpt2" else {}
    adapters = {
        domain: write_adapter(folder / domain, backbone, seed, rank=seed + 1, targets=upper_half(backbone), **conv)
        for seed, domain in enumerate(("films", "books"), 1)
    }
    return LanguageModel(backbone, VOCABULARY, adapters, {"films": 0.3, "books": 0.8})


def rows_of_layers(model: LanguageModel) -> list[int]:
    """Rows of the keys that every layer keeps of a batch of three requests and two distributions."""
    tokens_BP = torch.tensor([[9, 40, 44, 48, 9], [8, 0, 0, 0, 0], [8, 41, 47, 50, 9]])
    _, history = model.prefill(tokens_BP, torch.tensor([5, 1, 5]), torch.tensor([1, 0, 1]), 2)
    return [len(kept) for kept in keys_and_values(history.cache, slice(None))[::2]]


# gemma2 decodes no trees and is refused when it is loaded; only its head is of use to tests.
@pytest.mark.parametrize("kind", sorted(BACKBONES.keys() - {"gemma2"}))
def test_layers_below_the_adapters_run_once_and_a_search_sees_what_plain_reading_gives(
    tmp_path: Path, kind: str
) -> None:
    model = upper_half_model(tmp_path, kind, **BACKBONES[kind])
    assert model.shared_layers == 2
    assert rows_of_layers(model) == [3, 3, 6, 6]
    first, second = [9, 40, 44, 48, 9], [8]
    for prompts in ([first, second], [first], [second]):
        tokens_BP = torch.full((len(prompts), max(map(len, prompts))), VOCABULARY.pad)
        for row, prompt in enumerate(prompts):
            tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
        adapters_B = torch.arange(len(prompts))
        lengths_B = torch.tensor([len(prompt) for prompt in prompts])
        hidden_MBD, history = model.prefill(tokens_BP, lengths_B, adapters_B, 2)
        two = torch.tensor([[40, 41]] * len(prompts))
        apart = torch.eye(2, dtype=torch.bool).expand(len(prompts), 2, 2)
        extended_MBTD = model.extend(history, two, torch.zeros_like(two), apart)
        for row, prompt in enumerate(prompts):
            alone = model.read(torch.tensor([prompt]), adapters_B[row : row + 1])
            torch.testing.assert_close(hidden_MBD[:, row], alone[:, 0, -1], atol=1e-5, rtol=1e-5)
            for place, token in enumerate((40, 41)):
                alone = model.read(torch.tensor([[*prompt, token]]), adapters_B[row : row + 1])
                torch.testing.assert_close(extended_MBTD[:, row, place], alone[:, 0, -1], atol=1e-5, rtol=1e-5)
    check_backbone(model, max_history_items=8)
    assert model.shared_layers == 2


def test_adapters_of_the_first_layer_leave_nothing_to_share(tmp_path: Path) -> None:
    backbone = random_backbone(num_hidden_layers=4)
    adapters = {"films": write_adapter(tmp_path, backbone)}
    model = LanguageModel(backbone, VOCABULARY, adapters, {"films": 0.3})
    assert model.shared_layers == 0
    assert rows_of_layers(LanguageModel(backbone, VOCABULARY)) == [6] * 4


def test_a_backbone_that_shares_wrongly_decodes_without_sharing(tmp_path: Path) -> None:
    model = upper_half_model(tmp_path, "smollm3")
    assert model._repeated is not None
    model._repeated._repeat = lambda value: value  # type: ignore[method-assign]
    check_backbone(model, max_history_items=8)
    assert model.shared_layers == 0
    assert rows_of_layers(model) == [6] * 4
