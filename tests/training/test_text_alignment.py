"""Text alignment: where the tokens lie, what each task's loss is, when its batches come, what it leaves as it was."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.model.vocabulary import Vocabulary
from tests import tiny
from tests.training.backbone_folders import ROWS, write_backbone, write_tokenizer
from training.code_loss import CodeLoss
from training.config import load_config
from training.data import Dataset, DomainData
from training.errors import ConfigError, DataError, StageError
from training.language_model import Phase, train_universal
from training.model_config import ExpertsConfig, LanguageModelConfig, OptimizerConfig, TextAlignmentConfig
from training.new_rows import NewRows
from training.pipeline import train
from training.pretrained import find_pretrained, load_pretrained, load_text_tokenizer
from training.sequences import SequenceBatch, TrainingSequences
from training.siblings import Siblings
from training.text_alignment import TitleBatch, catalog_titles, check_text_alignment

VOCABULARY = Vocabulary((4, 6, 3), {"books": 0, "films": 1}, base=ROWS)
NAMES = ("books", "films")
WORDS = {word: number for number, word in enumerate(["[UNK]", "red", "blue", "green", "old", "new", "boat", "clock"])}
TITLES: dict[str, dict[tuple[int, ...], str | None]] = {
    "books": {(0, 1, 2): "red boat", (0, 5, 1): "blue clock clock", (3, 2, 1): "old green boat", (3, 3, 0): None},
    "films": {(0, 1, 2): "new clock", (1, 4, 2): "red red new blue boat", (2, 0, 0): "  "},
}
ALIGNMENT = TextAlignmentConfig(share=0.4, max_title_tokens=4)
SCORES = {"recall@10": 0.0}


def catalog() -> Catalog:
    items = [
        CatalogItem(domain, f"{domain}-{number}", sid, title)
        for domain, titles in TITLES.items()
        for number, (sid, title) in enumerate(titles.items())
    ]
    return create_catalog(items, VOCABULARY.codebook_sizes)


def folder_with_words(folder: Path, **changes: Any) -> Path:
    write_backbone(folder, initializer_range=0.1, **changes)
    write_tokenizer(folder, WORDS)
    return folder


def phase(folder: Path, alignment: TextAlignmentConfig | None = ALIGNMENT, epochs: int = 2, **changes: Any) -> Phase:
    """Users who walk from item to item, and the catalog's titles."""
    random = np.random.default_rng(0)
    lengths = (6, 3, 7, 2, 5, 4, 6, 3)
    domain_E = random.integers(0, 2, size=sum(lengths)).astype(np.int32)
    sids = [list(TITLES[name]) for name in NAMES]
    codes = [sids[domain][random.integers(len(sids[domain]))] for domain in domain_E.tolist()]
    every = np.ones(len(codes), dtype=bool)
    sequences = TrainingSequences(domain_E, np.array(codes, dtype=np.int32), every, np.cumsum([0, *lengths]))
    settings: dict[str, Any] = {"loss": "codebook", "label_smoothing": 0.0} | changes
    config = LanguageModelConfig(
        universal=OptimizerConfig(epochs=epochs, learning_rate=0.02, batch_tokens=32, checkpoint_steps=2),
        backbone=str(folder),
        max_history=8,
        dropout=0.0,
        domain=None,
        experts=ExpertsConfig(count=2, rank=4, alpha=8),
        text_alignment=alignment,
        **settings,
    )
    made = catalog()
    titles = catalog_titles(made, NAMES, load_text_tokenizer(find_pretrained(str(folder))), ALIGNMENT.max_title_tokens)
    tries = tuple(made.index(name).trie for name in NAMES)
    return Phase(sequences, VOCABULARY, NAMES, config, seed=1, tries=tries, titles=titles)


def loaded(folder: Path) -> Any:
    torch.manual_seed(0)
    return load_pretrained(find_pretrained(str(folder)), VOCABULARY, "cpu", seed=0)


def every_batch(made: Phase, epoch: int = 0) -> Sequence[SequenceBatch | TitleBatch]:
    return made.batches_with_titles(made.config.universal.batch_tokens)(epoch)


def of_titles(made: Phase, task: str) -> list[TitleBatch]:
    batches = [batch for epoch in range(4) for batch in every_batch(made, epoch) if isinstance(batch, TitleBatch)]
    return [batch for batch in batches if batch.task == task]


def test_a_titles_tokens_are_the_backbones_own_words_and_items_without_one_are_left_out(tmp_path: Path) -> None:
    titles = phase(folder_with_words(tmp_path)).titles
    assert titles is not None
    found = {
        (NAMES[titles.domain_I[row]], tuple(titles.codes_IL[row].tolist())): titles.token_X[
            titles.begin_I[row] : titles.begin_I[row + 1]
        ].tolist()
        for row in range(len(titles))
    }
    assert found == {
        ("books", (0, 1, 2)): [1, 6],
        ("books", (0, 5, 1)): [2, 7, 7],
        ("books", (3, 2, 1)): [4, 3, 6],
        ("films", (0, 1, 2)): [5, 7],
        ("films", (1, 4, 2)): [1, 1, 5, 2],
    }, "the fifth word of a title is not read"


@pytest.mark.parametrize("task", ["title to SID", "SID to title"])
def test_title_domain_and_codes_lie_where_the_task_reads_them(tmp_path: Path, task: str) -> None:
    (batch, *_) = of_titles(phase(folder_with_words(tmp_path)), task)
    assert len(batch.tokens_BT) > 1
    words = list(WORDS)
    for row in range(len(batch.tokens_BT)):
        domain, sid = NAMES[int(batch.domain_B[row])], tuple(batch.codes_BL[row].tolist())
        title = [WORDS[word] for word in str(TITLES[domain][sid]).split()][:4]
        item = VOCABULARY.item_tokens(domain, sid)
        expected = [*title, *item] if task == "title to SID" else [*item, *title]
        tokens_T = batch.tokens_BT[row].tolist()
        assert tokens_T[: len(expected)] == expected
        assert set(tokens_T[len(expected) :]) <= {VOCABULARY.pad}
        if task == "title to SID":
            read = [tokens_T[place] for place in batch.code_places_BL[row].tolist()]
            assert read == item[:-1], "the domain's token and the codes before the one that is predicted"
        else:
            assert [words[tokens_T[place]] for place in batch.is_title_BT[row].nonzero()[:, 0].tolist()] == [
                words[token] for token in title
            ]
    assert batch.weight == len(batch.tokens_BT) if task == "title to SID" else int(batch.title_length_B.sum())


@pytest.mark.parametrize("over_siblings", [False, True])
def test_each_tasks_loss_is_that_of_the_whole_head_row_by_row(tmp_path: Path, over_siblings: bool) -> None:
    made, model = phase(folder_with_words(tmp_path)), loaded(tmp_path)
    assert made.tries is not None
    siblings = Siblings(made.tries, VOCABULARY.codebook_sizes, "cpu") if over_siblings else None
    loss = CodeLoss(model, VOCABULARY, 0.5, 0.0, NewRows(model, ROWS, VOCABULARY.size), siblings).eval()
    for task in ("title to SID", "SID to title"):
        batch = of_titles(made, task)[0]
        losses = []
        for row, tokens_T in enumerate(batch.tokens_BT):
            domain, codes_L = int(batch.domain_B[row]), batch.codes_BL[row].tolist()
            length = int(batch.title_length_B[row])
            with torch.no_grad():
                logits_TV = model(input_ids=tokens_T[None, : length + 4]).logits[0].double()
            if task == "SID to title":
                scores_TV = logits_TV[3:-1, :ROWS].log_softmax(1)
                losses += [-float(scores_TV[place, tokens_T[4 + place]]) for place in range(length)]
                continue
            for level, code in enumerate(codes_L):
                own = list(range(VOCABULARY.codebook_sizes[level]))
                if over_siblings:
                    sids = TITLES[NAMES[domain]]
                    own = sorted({sid[level] for sid in sids if list(sid[:level]) == codes_L[:level]})
                tokens = [VOCABULARY.first_code(level) + other for other in own]
                losses.append(-float(logits_TV[length + level, tokens].log_softmax(0)[own.index(code)]))
        with torch.no_grad():
            assert float(loss(batch)) == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_scoring_titles_in_pieces_changes_neither_loss_nor_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = of_titles(phase(folder_with_words(tmp_path, tie_word_embeddings=False)), "SID to title")[0]
    found: list[tuple[float, Tensor]] = []
    for at_once in (1000, 2):
        monkeypatch.setattr("training.code_loss._TITLE_TOKENS_AT_ONCE", at_once)
        model = loaded(tmp_path)
        rows = NewRows(model, ROWS, VOCABULARY.size)
        loss = CodeLoss(model, VOCABULARY, 0.0, 0.0, rows)(batch)
        loss.backward()
        assert rows.embed_rows_ND.grad is not None
        assert all(weight.grad is not None for weight in rows.parameters()), "DDP waits for a gradient of each"
        found.append((float(loss.detach()), rows.embed_rows_ND.grad))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])
    assert float(found[0][1].abs().sum()) > 0


def test_parts_of_a_batch_of_titles_add_up_to_its_loss(tmp_path: Path) -> None:
    made, model = phase(folder_with_words(tmp_path)), loaded(tmp_path)
    loss = CodeLoss(model, VOCABULARY, 0.0, 0.0, NewRows(model, ROWS, VOCABULARY.size))
    for task in ("title to SID", "SID to title"):
        batch = of_titles(made, task)[0]
        parts = [part for part in (batch.part(index, 2) for index in range(2)) if part is not None]
        assert len(parts) == 2
        with torch.no_grad():
            shares = [float(loss(part)) * part.weight / batch.weight for part in parts]
            assert sum(shares) == pytest.approx(float(loss(batch)), abs=1e-6)
        assert batch.part(len(batch.tokens_BT), 99) is None


def same(one: SequenceBatch | TitleBatch, other: SequenceBatch | TitleBatch) -> bool:
    return type(one) is type(other) and all(
        torch.equal(value, getattr(other, name)) if isinstance(value, Tensor) else value == getattr(other, name)
        for name, value in vars(one).items()
    )


def test_batches_of_titles_stand_among_those_of_histories_in_their_share_the_same_ones_for_the_same_epoch(
    tmp_path: Path,
) -> None:
    made = phase(folder_with_words(tmp_path))
    places = []
    for epoch in range(3):
        mixed, plain = every_batch(made, epoch), every_batch(replace_alignment(made, None), epoch)
        histories = [batch for batch in mixed if isinstance(batch, SequenceBatch)]
        assert all(same(one, other) for one, other in zip(histories, plain, strict=True))
        assert len(mixed) - len(plain) == round(len(plain) * 0.4 / 0.6) >= 3
        again = every_batch(made, epoch)
        assert all(same(mixed[step], again[step]) for step in reversed(range(len(mixed)))), "each can be taken alone"
        tasks = Counter(batch.task for batch in mixed if isinstance(batch, TitleBatch))
        assert len(tasks) == 2
        assert abs(tasks["title to SID"] - tasks["SID to title"]) <= 1
        places.append([isinstance(batch, TitleBatch) for batch in mixed])
        assert all(batch.num_tokens <= 32 for batch in mixed)
    assert places[0] != places[1]


def replace_alignment(made: Phase, alignment: TextAlignmentConfig | None) -> Phase:
    return replace(made, config=replace(made.config, text_alignment=alignment))


def test_no_title_comes_again_before_all_have_come(tmp_path: Path) -> None:
    made = phase(folder_with_words(tmp_path), TextAlignmentConfig(share=0.9, max_title_tokens=4))
    batches = [batch for batch in every_batch(made) if isinstance(batch, TitleBatch)]
    items = [
        (int(domain), *codes.tolist())
        for batch in batches
        for domain, codes in zip(batch.domain_B, batch.codes_BL, strict=True)
    ]
    whole = len(items) // 5
    assert whole >= 2
    assert all(len(set(items[5 * turn : 5 * turn + 5])) == 5 for turn in range(whole))


def weights_after(folder: Path, run: Path, made: Phase) -> tuple[dict[str, Tensor], tuple[float, ...]]:
    model = loaded(folder)
    report = train_universal(made, model, lambda model: SCORES, run)
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}, report.losses


def test_a_share_of_0_leaves_training_as_it_is_without_alignment_bit_for_bit(tmp_path: Path) -> None:
    folder = folder_with_words(tmp_path / "base")
    plain, losses = weights_after(folder, tmp_path / "none", phase(folder, None))
    nothing, same_losses = weights_after(folder, tmp_path / "0", phase(folder, TextAlignmentConfig(share=0.0)))
    aligned, other_losses = weights_after(folder, tmp_path / "some", phase(folder))
    assert losses == same_losses != other_losses
    assert all(torch.equal(weight, nothing[name]) for name, weight in plain.items())
    assert any(not torch.equal(weight, aligned[name]) for name, weight in plain.items())


@pytest.mark.parametrize("tied", [True, False])
def test_both_tasks_are_learned_while_every_row_of_the_backbones_own_stays_as_it_was(
    tmp_path: Path, tied: bool
) -> None:
    folder = folder_with_words(tmp_path / "base", tie_word_embeddings=tied)
    made, model = phase(folder, epochs=12), loaded(folder)
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    batches = {task: of_titles(made, task)[:4] for task in ("title to SID", "SID to title")}

    def losses(model: PreTrainedModel) -> dict[str, float]:
        loss = CodeLoss(model, VOCABULARY, 0.0, 0.0)
        with torch.no_grad():
            return {task: sum(float(loss(batch)) for batch in own) / len(own) for task, own in batches.items()}

    first = losses(model)
    train_universal(made, model, lambda model: SCORES, tmp_path / "run")
    last = losses(model)
    assert last["title to SID"] < 0.5 * first["title to SID"]
    assert last["SID to title"] < 0.7 * first["SID to title"]
    after = model.state_dict()
    for name, weight in before.items():
        rows = slice(ROWS) if "embed_tokens" in name or "lm_head" in name else slice(None)
        assert torch.equal(after[name][rows], weight[rows]), name


def test_a_run_that_stops_among_titles_goes_on_with_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with_words(tmp_path / "base")
    made = phase(folder, epochs=3)
    undisturbed, losses = weights_after(folder, tmp_path / "whole", made)
    plain, steps = CodeLoss.forward, 0

    def stopped(self: CodeLoss, batch: SequenceBatch | TitleBatch) -> Tensor:
        nonlocal steps
        steps += isinstance(batch, TitleBatch)
        if steps == 4:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(CodeLoss, "forward", stopped)
        with pytest.raises(KeyboardInterrupt):
            weights_after(folder, tmp_path / "stopped", made)
    resumed, same_losses = weights_after(folder, tmp_path / "stopped", made)
    assert losses == same_losses
    assert all(torch.equal(weight, resumed[name]) for name, weight in undisturbed.items())


def dataset(*titles: object) -> Dataset:
    none = np.zeros(0, dtype=np.int32)
    fields = tuple({} if title is None else {"title": title} for title in titles)
    ids = tuple(map(str, range(len(titles))))
    return Dataset((DomainData("books", ids, fields, none, none, none.astype(np.int64)),), (), "digest")


def test_what_could_align_nothing_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    write_backbone(tmp_path / "bare")
    with pytest.raises(ConfigError, match=r"has no tokenizer files.*put its tokenizer\.json beside the weights"):
        check_text_alignment(ALIGNMENT, find_pretrained(str(tmp_path / "bare")), 3, dataset("red boat"))
    found = find_pretrained(str(folder_with_words(tmp_path / "words")))
    check_text_alignment(TextAlignmentConfig(max_title_tokens=124), found, 3, dataset(None, "red boat"))
    with pytest.raises(ConfigError, match="reads 128 tokens, a title of 125 and its SID are 129; set a smaller"):
        check_text_alignment(TextAlignmentConfig(max_title_tokens=125), found, 3, dataset("red boat"))
    with pytest.raises(DataError, match=r"no item has a title; name one in items\.jsonl"):
        check_text_alignment(ALIGNMENT, found, 3, dataset(None, " "))
    untitled = create_catalog([CatalogItem("books", "a", (0, 0, 0))], VOCABULARY.codebook_sizes)
    with pytest.raises(DataError, match="the tokenizer reads no item's title"):
        catalog_titles(untitled, ("books",), load_text_tokenizer(found), 4)
    with pytest.raises(StageError, match="needs the titles of the catalog"):
        replace(phase(tmp_path / "words"), titles=None).batches_with_titles(64)


def test_other_words_are_another_tokenizer_and_no_other_backbone(tmp_path: Path) -> None:
    folder = folder_with_words(tmp_path)
    before = find_pretrained(str(folder))
    write_tokenizer(folder, {"[UNK]": 0, "red": 2, "blue": 1})
    after = find_pretrained(str(folder))
    assert before.tokenizer != after.tokenizer
    assert before.digest == after.digest
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == after.rows


def test_a_run_learns_titles_from_its_config_and_other_words_make_it_learn_anew(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backbone(tmp_path / "base", initializer_range=0.1)
    document = tiny.config_of(tiny_data, tmp_path / "bundle", tiny_encoder)
    document["language_model"] |= {
        "backbone": str(tmp_path / "base"),
        "experts": {"count": 0},
        "domain": None,
        "loss": "children",
        "text_alignment": {"share": 0.3, "max_title_tokens": 2},
    }
    document["language_model"]["universal"]["epochs"] = 1
    config = load_config(tiny.write_config(tmp_path / "config.yaml", document))
    with pytest.raises(ConfigError, match="has no tokenizer files"):
        train(config, lambda sentence: None)
    assert not (tmp_path / "bundle.work").exists()

    seen: list[TitleBatch] = []
    plain = CodeLoss.forward

    def watched(self: CodeLoss, batch: SequenceBatch | TitleBatch) -> Tensor:
        assert self.siblings is not None
        seen.extend([batch] if isinstance(batch, TitleBatch) else [])
        return plain(self, batch)

    monkeypatch.setattr(CodeLoss, "forward", watched)
    for words in (["[UNK]", *tiny.COLOURS, *tiny.THINGS], ["[UNK]", *tiny.THINGS, *tiny.COLOURS]):
        write_tokenizer(tmp_path / "base", {word: number for number, word in enumerate(words)})
        seen.clear()
        train(config, lambda sentence: None)
        assert {batch.task for batch in seen} == {"title to SID", "SID to title"}
        assert {int(length) for batch in seen for length in batch.title_length_B} == {2}, "colour and thing"
        seen.clear()
        train(config, lambda sentence: None)
        assert not seen


def test_settings_that_cannot_be_are_refused_with_a_sentence() -> None:
    optimizer = OptimizerConfig(epochs=1, learning_rate=0.1)
    with pytest.raises(ConfigError, match="text_alignment: scratch:tiny has no tokenizer that reads titles"):
        LanguageModelConfig(universal=optimizer, domain=None, text_alignment=TextAlignmentConfig())
    with pytest.raises(ConfigError, match=r"share is 1\.0; set 0 or a share below 1"):
        TextAlignmentConfig(share=1.0)
    with pytest.raises(ConfigError, match="max_title_tokens is 0; set a value above 0"):
        TextAlignmentConfig(max_title_tokens=0)
