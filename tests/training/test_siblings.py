"""The loss over the children that exist: the plain computation, and the score that decoding gives."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sidera.item_scores import read_items
from sidera.language_model import LanguageModel
from sidera.model.vocabulary import Vocabulary
from sidera.trie import build_trie, tables_of
from training.backbones import new_backbone
from training.code_loss import CodeLoss
from training.errors import StageError
from training.language_model import Phase, train_universal
from training.model_config import LanguageModelConfig, OptimizerConfig
from training.sequences import SequenceBatch, TrainingSequences, epoch_batches
from training.siblings import Siblings

SIZES = (4, 6, 3)
VOCABULARY = Vocabulary(SIZES, {"books": 0, "films": 1})
NAMES = ("books", "films")
SIDS = (
    [(0, 1, 2), (0, 1, 0), (0, 5, 1), (2, 0, 0), (3, 2, 1), (3, 3, 1), (3, 3, 2)],
    [(1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 4, 2)],
)
"""Books have nodes with one child at levels 2 and 3; films have one first code."""
TRIES = tuple(build_trie(np.array(sids), SIZES)[0] for sids in SIDS)
LENGTHS = (1, 7, 3, 2, 5, 4)


def backbone() -> PreTrainedModel:
    torch.manual_seed(0)
    made = new_backbone("scratch:tiny", VOCABULARY, 40)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made


def sequences() -> TrainingSequences:
    random = np.random.default_rng(0)
    domain_E = random.integers(0, 2, size=sum(LENGTHS)).astype(np.int32)
    codes = [SIDS[domain][random.integers(len(SIDS[domain]))] for domain in domain_E.tolist()]
    target_E = random.random(len(codes)) < 0.7
    return TrainingSequences(domain_E, np.array(codes, dtype=np.int32), target_E, np.cumsum([0, *LENGTHS]))


def one_batch(any_domain_probability: float = 0.5) -> SequenceBatch:
    (batch,) = epoch_batches(
        sequences(),
        VOCABULARY,
        NAMES,
        max_items=9,
        batch_tokens=10_000,
        any_domain_probability=any_domain_probability,
        seed=(0, 0),
    )
    return batch


def loss_over_siblings(model: PreTrainedModel, smoothing: float = 0.0) -> CodeLoss:
    return CodeLoss(model, VOCABULARY, 0.5, smoothing, siblings=Siblings(TRIES, SIZES, "cpu")).eval()


def children(domain: int, prefix: tuple[int, ...]) -> list[int]:
    depth = len(prefix)
    return sorted({sid[depth] for sid in SIDS[domain] if sid[:depth] == prefix})


@torch.no_grad()
def naive_losses(model: PreTrainedModel, batch: SequenceBatch, smoothing: float) -> list[float]:
    """Of every code of every target, with a dictionary for a trie."""
    losses = []
    for row, tokens_WX in enumerate(batch.tokens_BWX):
        logits_TV = model(input_ids=tokens_WX.flatten()[None]).logits[0].double()
        for item in batch.target_BW[row].nonzero()[:, 0].tolist():
            sid = tuple(batch.codes_BWL[row, item].tolist())
            for level in range(len(SIZES)):
                own = children(int(batch.domain_BW[row, item]), sid[:level])
                tokens = [VOCABULARY.first_code(level) + code for code in own]
                scores = logits_TV[item * VOCABULARY.tokens_per_item + level][tokens].log_softmax(0)
                came = float(scores[own.index(sid[level])])
                losses.append(-(1 - smoothing) * came - smoothing * float(scores.mean()))
    return losses


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_all_target_codes_of_the_softmax_over_the_children_that_exist(
    smoothing: float,
) -> None:
    model, batch = backbone(), one_batch()
    anonymous = batch.tokens_BWX[:, :, 0] == VOCABULARY.any_domain
    assert anonymous.any(), "the trie is still that of the item's own domain"
    naive = naive_losses(model, batch, smoothing)
    assert len(naive) == 3 * batch.weight
    assert 0 < sum(loss == 0 for loss in naive) < len(naive), "codes without siblings count, as 0"
    with torch.no_grad():
        found = float(loss_over_siblings(model, smoothing)(batch))
        whole = float(CodeLoss(model, VOCABULARY, 0.5, smoothing).eval()(batch))
    assert found == pytest.approx(sum(naive) / len(naive), abs=1e-5)
    assert found < whole - 0.1


def test_the_losses_of_an_items_codes_sum_to_minus_its_log_probability_when_decoding() -> None:
    model = backbone()
    language_model, tables = LanguageModel(model, VOCABULARY), tables_of(TRIES)
    history = [("books", (3, 3, 1)), ("films", (1, 0, 2))]
    loss = loss_over_siblings(model)
    leaf = 0
    for domain, sids in enumerate(SIDS):
        for sid in sorted(sids):
            prompt = language_model.prompt(history, NAMES[domain])
            expected = float(read_items(language_model, tables, [prompt], torch.tensor([leaf]))[0])
            items = [*history, (NAMES[domain], sid)]
            batch = SequenceBatch(
                torch.tensor([[VOCABULARY.item_tokens(name, codes) for name, codes in items]]),
                torch.tensor([[codes for _, codes in items]]),
                torch.tensor([[NAMES.index(name) for name, _ in items]]),
                torch.tensor([[False, False, True]]),
                "one item",
            )
            with torch.no_grad():
                assert 3 * float(loss(batch)) == pytest.approx(-expected, abs=1e-4)
            leaf += 1


def test_label_smoothing_pushes_down_only_codes_that_exist_and_codes_that_do_not_get_no_gradient() -> None:
    siblings = Siblings(TRIES, SIZES, "cpu")
    logits_XV = torch.randn(1, 6, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    domain_X, codes_XL = torch.tensor([0]), torch.tensor([[3, 2, 1]])
    parent_X = siblings.parents(domain_X, codes_XL)[:, 1]
    siblings.losses(1, logits_XV, parent_X, codes_XL[:, 1], label_smoothing=0.3).sum().backward()
    share = torch.softmax(logits_XV[0, [2, 3]].detach(), dim=0)
    assert logits_XV.grad is not None
    assert logits_XV.grad[0, [0, 1, 4, 5]].tolist() == [0.0] * 4
    torch.testing.assert_close(logits_XV.grad[0, [2, 3]], share - torch.tensor([0.85, 0.15]))


def test_a_batch_without_a_choice_costs_nothing_and_still_has_a_gradient() -> None:
    batch = one_batch()
    only = torch.zeros_like(batch.target_BW)
    place = ((batch.domain_BW == 0) & (batch.codes_BWL == torch.tensor([2, 0, 0])).all(dim=2)).nonzero()[0]
    only[place[0], place[1]] = True
    model = backbone()
    loss: Tensor = loss_over_siblings(model)(replace(batch, target_BW=only))
    assert float(loss.detach()) > 0, "the first code of books is a choice"
    tries = (build_trie(np.array([(2, 0, 0)]), SIZES)[0], TRIES[1])
    none = CodeLoss(model, VOCABULARY, 0.0, 0.1, siblings=Siblings(tries, SIZES, "cpu"))(replace(batch, target_BW=only))
    assert float(none.detach()) == 0
    none.backward()
    assert all(weight.grad is not None and float(weight.grad.abs().sum()) == 0 for weight in model.parameters())


def test_parts_of_a_batch_add_up_to_its_loss() -> None:
    loss, batch = loss_over_siblings(backbone()), one_batch()
    parts = [part for part in (batch.part(index, 3) for index in range(3)) if part is not None]
    with torch.no_grad():
        whole, shares = float(loss(batch)), [float(loss(part)) * part.weight / batch.weight for part in parts]
    assert len(parts) == 3
    assert math.fsum(shares) == pytest.approx(whole, abs=1e-6)


def phase(tries: bool, loss: str = "children") -> Phase:
    config = LanguageModelConfig(
        universal=OptimizerConfig(epochs=1, learning_rate=0.01, batch_tokens=64),
        loss=loss,  # type: ignore[arg-type]
        max_history=8,
        domain=None,
    )
    return Phase(sequences(), VOCABULARY, NAMES, config, seed=1, tries=TRIES if tries else None)


def test_the_config_chooses_the_loss_that_phase_1_learns(tmp_path: Path) -> None:
    losses = {}
    for kind in ("children", "codebook"):
        made = phase(True, kind)
        report = train_universal(made, backbone(), lambda model: {"recall@10": 0.0}, tmp_path / kind)
        losses[kind] = report.losses[0]
    assert losses["children"] < losses["codebook"] - 0.1


def test_tries_that_are_missing_or_of_other_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="needs the tries of the catalog"):
        phase(False).loss(backbone(), None)
    others = replace(phase(True), tries=(TRIES[1], TRIES[0]))
    with pytest.raises(StageError, match=r"event 0 is of SID \(.*which the trie of domain [01] lacks"):
        others.loss(backbone(), None)
