"""The baseline: its softmax, what it may see, its resuming, and that it learns what there is to learn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

import benchmarks.sasrec
from benchmarks.sasrec import OwnDomain, main, own_domain, train_baseline
from benchmarks.sasrec_model import FullCrossEntropy, SasRec, SasRecConfig
from benchmarks.sasrec_training import Fit, batches_of, fit, windows_of
from training.data import read_dataset
from training.split import Part, split_events, targets

SMALL = SasRecConfig(width=16, layers=1, dropout=0.0, max_length=8, learning_rate=0.01, batch_tokens=128, epochs=3)


@pytest.fixture(scope="module")
def films(tiny_data: Path) -> OwnDomain:
    dataset = read_dataset(tiny_data, ["books", "films"])
    return own_domain(dataset, split_events(dataset), 1)


def said(sentence: str) -> None:
    assert "\n" not in sentence


def test_the_softmax_and_its_gradients_are_those_of_pytorch() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(150, 8, generator=generator, requires_grad=True)
    table_ID = torch.randn(40, 8, generator=generator, requires_grad=True)
    target_N = torch.randint(40, (150,), generator=generator)
    plain = torch.nn.functional.cross_entropy(hidden_ND @ table_ID.T, target_N) * 3
    expected = torch.autograd.grad(plain, (hidden_ND, table_ID))
    ours = FullCrossEntropy.apply(hidden_ND, table_ID, target_N) * 3  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(plain.item(), abs=1e-5)
    for mine, theirs in zip(torch.autograd.grad(ours, (hidden_ND, table_ID)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_every_item_but_a_users_first_is_a_target_once() -> None:
    sequences = [np.arange(length, dtype=np.int32) for length in (1, 2, 5, 6, 11)]
    windows = windows_of(sequences, 5)
    assert max(len(window) for window in windows) == 6
    found = sorted(item for window in windows for item in window[1:].tolist())
    assert found == sorted(item for sequence in sequences for item in sequence[1:].tolist())


def test_an_epochs_batches_hold_every_window_once_and_no_more_positions_than_fit() -> None:
    windows = [np.full(2 + number % 7, number, dtype=np.int32) for number in range(50)]
    epochs = [list(batches_of(windows, 24, np.random.default_rng(epoch))) for epoch in (0, 0, 1)]
    for batches in epochs:
        assert sorted(int(window[0]) for batch in batches for window in batch) == list(range(50))
        assert all(len(batch) * max(len(window) - 1 for window in batch) <= 24 for batch in batches)
    told = [[[int(window[0]) for window in batch] for batch in batches] for batches in epochs]
    assert told[0] == told[1] != told[2]


def test_a_position_sees_neither_later_items_nor_padding() -> None:
    model = SasRec(20, replace(SMALL, layers=2)).eval()
    items = torch.tensor([[3, 7, 1, 9], [3, 7, 2, 20], [3, 7, 20, 20]])
    hidden_BTD = model(items)
    for row in (1, 2):
        torch.testing.assert_close(hidden_BTD[row, :2], hidden_BTD[0, :2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model(items[2:, :2]), hidden_BTD[2:, :2], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(hidden_BTD[1, 2], hidden_BTD[0, 2])


def test_the_best_items_are_those_of_the_whole_ranking_without_the_history() -> None:
    model = SasRec(20, SMALL).eval()
    histories = [[1, 5, 3], list(range(15)), []]
    top_NK = model.top(histories, 10, "test")
    for history, top in zip(histories, top_NK.tolist(), strict=True):
        newest = torch.tensor([history[-SMALL.max_length :] or [20]])
        scores = (model(newest)[0, -1] @ model.item.weight[:20].T).tolist()
        best = sorted(set(range(20)) - set(history), key=lambda item: -scores[item])[:10]
        assert top == best + [-1] * (10 - len(best))


def test_training_sees_no_validation_and_no_test_event_and_targets_are_those_of_the_evaluation(
    films: OwnDomain, tiny_data: Path
) -> None:
    dataset = read_dataset(tiny_data, ["books", "films"])
    events = split_events(dataset)
    for part, own in ((Part.VALIDATION, films.validation), (Part.TEST, films.test)):
        asked = [target for target in targets(events, part) if target.domain == 1]
        assert [(target.user, target.item) for target in own] == [(target.user, target.item) for target in asked]
        for mine, theirs in zip(own, asked, strict=True):
            assert mine.history == tuple(pair for pair in theirs.history if pair[0] == 1)
    train = [sequence.tolist() for sequence in films.train]
    assert train == [[item for _, item in target.history] for target in films.validation]


def test_a_training_that_was_cut_off_goes_on_with_the_same_losses(films: OwnDomain, tmp_path: Path) -> None:
    def trained(folder: Path, epochs: int, fails_at: int | None = None) -> Fit:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = SasRec(len(films.item_ids), replace(SMALL, dropout=0.3))
        asked: list[int] = []

        def validate() -> float:
            asked.append(0)
            if len(asked) == fails_at:
                raise KeyboardInterrupt
            return float(model.item.weight.detach().std())

        config = replace(SMALL, dropout=0.3, epochs=epochs)
        return fit(model, config, films.train, validate, folder, seconds=1e9)

    whole = trained(tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", 3, fails_at=2)
    again = trained(tmp_path / "cut", 3)
    assert (again.losses, again.scores) == (whole.losses, whole.scores)


def test_when_the_time_is_over_the_epoch_ends_the_training_and_more_time_goes_on_with_it(
    films: OwnDomain, tmp_path: Path
) -> None:
    short = train_baseline(films, tmp_path, SMALL, (("dropout", (0.2,)),), 0.0, said)
    assert [len(one.scores) for one in short.fits] == [1]
    assert not short.fits[0].converged
    longer = train_baseline(films, tmp_path, SMALL, (("dropout", (0.2,)),), 1e9, said)
    assert [len(one.scores) for one in longer.fits] == [3, 3]
    assert longer.fits[0].losses[0] == short.fits[0].losses[0]
    kept = train_baseline(films, tmp_path, SMALL, (("dropout", (0.2,)),), 1e9, said)
    assert kept.fits == longer.fits
    assert np.array_equal(kept.top_NK, longer.top_NK)


def test_validation_chooses_and_the_next_setting_is_tried_on_what_it_chose(
    films: OwnDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liked = {(0.0, 16): 0.2, (0.2, 16): 0.4, (0.4, 16): 0.3, (0.2, 32): 0.1}

    def fake(model: SasRec, config: SasRecConfig, *rest: object) -> Fit:
        return Fit(config, (1.0,), (liked[config.dropout, config.width],), 0, 1.0, True)

    monkeypatch.setattr(benchmarks.sasrec, "fit", fake)
    made = train_baseline(films, tmp_path, SMALL, (("dropout", (0.2, 0.4)), ("width", (32,))), 1e9, said)
    assert [(one.config.dropout, one.config.width) for one in made.fits] == list(liked)
    assert made.fits[made.chosen].config == replace(SMALL, dropout=0.2)


def test_it_learns_what_comes_next(films: OwnDomain, tmp_path: Path) -> None:
    config = replace(SMALL, width=32, epochs=30, patience=30)
    made = train_baseline(films, tmp_path, config, (), 1e9, said)
    assert made.metrics["targets"] == len(films.test)
    assert made.metrics["ndcg@10"] > 0.8


def test_the_program_writes_its_figures_and_refuses_in_one_sentence(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    out = tmp_path / "sasrec.json"
    main(tiny_data, "books,films", out, minutes=1.0, tune=True, threads=1, work=None, quick=True)
    document = json.loads(out.read_text())
    assert {
        f"sasrec_{figure}_{name}" for figure in ("recall10", "ndcg10", "minutes") for name in ("books", "films")
    } <= (set(document["figures"]))
    fits = document["domains"]["films"]["fits"]
    assert [one["config"]["dropout"] for one in fits] == [0.5, 0.3, 0.7]
    assert document["figures"]["bigram_recall10_films"]["value"] > 0.5
    with pytest.raises(typer.Exit):
        main(tiny_data, "music", out, minutes=1.0, tune=True, threads=1, work=None, quick=True)
    assert "there is no domain 'music'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="width 16 is no multiple of heads 3; choose one that is"):
        SasRecConfig(width=16, heads=3)
