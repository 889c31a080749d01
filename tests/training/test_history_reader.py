"""The reader of whole histories: what it learns of, what is kept of it, and that what serves is what has learned.

The world: every user goes round the items in steps of one.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import training.history_reader as module
from sidera.items.history_reader import HistoryReader
from training.history_reader import AGES, PATIENCE, fit_reader, reader_ndcg
from training.split import Events, Part, Target, targets

ITEMS = 40
TEXT_DIM = 16

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def world(users: int = 200) -> Events:
    """Six events a user; the last two are validation and test."""
    rng = np.random.default_rng(0)
    item_E = ((rng.integers(ITEMS, size=users)[:, None] + np.arange(6)) % ITEMS).ravel()
    part_E = np.tile([Part.TRAIN] * 4 + [Part.VALIDATION, Part.TEST], users)
    count = len(item_E)
    return Events(
        user_E=np.repeat(np.arange(users, dtype=np.int32), 6),
        domain_E=np.zeros(count, dtype=np.int32),
        item_E=item_E.astype(np.int32),
        time_E=np.arange(count, dtype=np.int64) + 10**9,
        part_E=part_E.astype(np.int8),
        real_time_E=np.ones(count, dtype=bool),
        row_E=np.arange(count, dtype=np.int32),
    )


def vectors(items: int = ITEMS) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(items, TEXT_DIM)).astype(np.float32)


def fitted(events: Events, numbers: np.ndarray, seed: int = 0, passes: int = 1, device: str = "cpu") -> HistoryReader:
    judged = targets(events, Part.VALIDATION)
    made = fit_reader(events, 0, vectors(), numbers, judged, 16, passes, seed, "films", device)
    assert made is not None
    return made


def network(items: int = ITEMS, width: int = 8) -> module._Network:
    """Of random weights, gains of norms and biases too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = module._Network(vectors(items), width)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=no_gpu)])
def test_a_fitted_reader_knows_what_comes_next(device: str) -> None:
    events, numbers = world(users=600), np.arange(ITEMS)[::-1] * 3
    reader = fitted(events, numbers.copy(), passes=6, device=device)
    asked = targets(events, Part.TEST)
    assert reader_ndcg(reader, numbers, asked).mean() > 0.9
    found_S, mass_S = reader.read([int(numbers[4]), int(numbers[5])])
    assert found_S[mass_S.argmax()] in (numbers[6], numbers[5])


def test_what_serves_says_what_the_network_said() -> None:
    learned = network().eval()
    numbers = np.random.default_rng(2).permutation(ITEMS) * 3
    reader = learned.export(numbers)
    assert reader.number_I.tolist() == sorted(numbers.tolist())
    histories = [[5], [1, 2, 3], list(range(AGES)), [7, 7]]
    before_BA = torch.full((len(histories), AGES), ITEMS)
    for row, history in enumerate(histories):
        before_BA[row, : len(history)] = torch.tensor(history[::-1])
    with torch.no_grad():
        score_BI = learned.histories(before_BA) @ learned.vectors(torch.arange(ITEMS)).T + learned.bias_I
    for history, chance_I in zip(histories, torch.softmax(score_BI, dim=1).numpy(), strict=True):
        found_S, mass_S = reader.read(numbers[history].tolist())
        said = dict(zip(found_S.tolist(), mass_S.tolist(), strict=True))
        assert [said[number] for number in numbers.tolist()] == pytest.approx(chance_I.tolist(), rel=1e-4)


def test_what_serves_stays_as_it_is_while_the_network_learns_on() -> None:
    learned = network()
    reader = learned.export(np.arange(ITEMS))
    before = {name: value.copy() for name, value in vars(reader).items() if isinstance(value, np.ndarray)}
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter.add_(1.0)
    for name, value in before.items():
        assert np.array_equal(getattr(reader, name), value), name


def test_the_figure_that_selects_is_that_of_what_is_read_without_the_history() -> None:
    events, numbers = world(), np.arange(ITEMS)
    reader = fitted(events, numbers)
    asked = targets(events, Part.TEST)[:50]
    for target, figure in zip(asked, reader_ndcg(reader, numbers, asked), strict=True):
        history = [item for _, item in target.history]
        found_S, mass_S = reader.read(history)
        mass_S = np.where(np.isin(found_S, history), 0, mass_S)
        rank = int((mass_S > mass_S[found_S == target.item]).sum())
        assert figure == pytest.approx(1 / np.log2(rank + 2) if rank < 10 else 0)


def test_scores_that_are_no_numbers_are_no_hits() -> None:
    reader = network().export(np.arange(ITEMS))
    broken = replace(reader, output_ID=np.full_like(reader.output_ID, np.nan))
    assert reader_ndcg(broken, np.arange(ITEMS), targets(world(), Part.TEST)[:5]).tolist() == [0] * 5


def test_the_same_seed_gives_the_same_reader_and_another_one_another() -> None:
    events, numbers = world(), np.arange(ITEMS)
    one, two, other = (fitted(events, numbers, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.input_ID, two.input_ID)
    assert np.array_equal(one.output_ID, two.output_ID)
    assert np.array_equal(one.outer_DH, two.outer_DH)
    assert not np.array_equal(one.input_ID, other.input_ID)


def test_a_fit_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    fitted(world(users=20), np.arange(ITEMS))
    assert torch.rand(2).tolist() == expected


def test_events_of_later_parts_change_nothing_and_those_held_out_for_routers_are_learned_as_the_others() -> None:
    events, numbers = world(), np.arange(ITEMS)
    part_E = events.part_E.copy()
    part_E[3::6] = Part.ROUTER
    held_out = replace(events, part_E=part_E)
    later, held = events.item_E.copy(), events.item_E.copy()
    later[np.isin(part_E, (Part.VALIDATION, Part.TEST))] = 0
    held[part_E == Part.ROUTER] = 0
    judged = targets(events, Part.VALIDATION)[:1]
    plain, same, other, another = (
        fit_reader(own, 0, vectors(), numbers, judged, 8, 1, 0, "films")
        for own in (events, held_out, replace(held_out, item_E=later), replace(held_out, item_E=held))
    )
    assert plain is not None
    assert same is not None
    assert other is not None
    assert another is not None
    assert np.array_equal(plain.output_ID, same.output_ID)
    assert np.array_equal(plain.output_ID, other.output_ID)
    assert not np.array_equal(plain.output_ID, another.output_ID)


def test_targets_are_told_by_the_items_of_their_user_and_domain_before_them_newest_first() -> None:
    domain_E = np.array([0, 1, 0, 0, 0, 0])
    events = Events(
        user_E=np.array([1, 1, 1, 1, 2, 2], dtype=np.int32),
        domain_E=domain_E.astype(np.int32),
        item_E=np.array([4, 9, 5, 6, 7, 8], dtype=np.int32),
        time_E=np.arange(6, dtype=np.int64),
        part_E=np.array([Part.TRAIN] * 3 + [Part.ROUTER] + [Part.TRAIN] * 2, dtype=np.int8),
        real_time_E=np.ones(6, dtype=bool),
        row_E=np.arange(6, dtype=np.int32),
    )
    told = module._sequences(events, 0, ITEMS)
    assert told.target_T.tolist() == [5, 6, 8]
    assert [[item for item in row if item != ITEMS] for row in told.before_TA.tolist()] == [[4], [5, 4], [7]]
    assert told.before_TA.shape == (3, AGES)
    assert told.before_TA[1, 2:].tolist() == [ITEMS] * (AGES - 2)


def test_without_sequences_or_without_targets_that_select_there_is_no_reader() -> None:
    events, numbers = world(), np.arange(ITEMS)
    assert fit_reader(events, 0, vectors(), numbers, [], 8, 1, 0, "films") is None
    nothing = replace(events, part_E=np.full_like(events.part_E, Part.VALIDATION))
    assert fit_reader(nothing, 0, vectors(), numbers, targets(events, Part.TEST), 8, 1, 0, "films") is None


@pytest.mark.parametrize(
    ("figures", "passes", "best", "done"),
    [
        ([0.5, 0.6, 0.6, 0.55, 0.1, 0.9], 20, 1, 2 + PATIENCE),
        ([0.5, 0.4, 0.3, 0.7, 0.6, 0.6], 6, 3, 6),
        ([0.0, 0.0], 2, 0, 2),
    ],
)
def test_the_best_pass_is_kept_and_three_that_are_no_better_end_the_fit(
    monkeypatch: pytest.MonkeyPatch, figures: list[float], passes: int, best: int, done: int
) -> None:
    judged: list[HistoryReader] = []

    def scripted(reader: HistoryReader, numbers: np.ndarray, asked: list[Target]) -> np.ndarray:
        judged.append(reader)
        return np.array([figures[len(judged) - 1]])

    monkeypatch.setattr(module, "reader_ndcg", scripted)
    kept = fitted(world(users=20), np.arange(ITEMS), passes=passes)
    assert len(judged) == done
    assert kept is judged[best]
    assert len({one.output_ID.tobytes() for one in judged}) == done, "every pass learns"


def test_different_items_are_asked_for_once_and_corrected_by_how_often_they_were_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_NEGATIVES", 30)
    learned_T = torch.tensor([0] * 15 + [1] * 3 + [2])
    weight_I = torch.tensor([16.0, 4.0, 2.0, 1.0, 1.0]) ** 0.75
    expected_I = 30 * weight_I / weight_I.sum()
    drawer = module._Negatives(learned_T, 5)
    target_B = torch.tensor([4, 0, 4])
    torch.manual_seed(0)
    drawn_SI = torch.zeros(2000, 5)
    for sample_I in drawn_SI:
        row_U, added_U, place_B = drawer.drawn(target_B)
        assert row_U.tolist() == sorted(set(row_U.tolist()))
        assert row_U[place_B].tolist() == [4, 0, 4]
        drawn_U = added_U.exp() * expected_I[row_U]
        assert drawn_U.tolist() == pytest.approx(drawn_U.round().tolist(), abs=1e-4)
        assert float(drawn_U.sum()) == pytest.approx(30)
        sample_I[row_U] = drawn_U
    assert drawn_SI.mean(dim=0).tolist() == pytest.approx(expected_I.tolist(), rel=0.1)
    # An item that is a target and was not drawn weighs nothing for the others.
    assert (drawn_SI[:, 4] == 0).any()


def full_loss(learned: module._Network, before_BA: Tensor, target_B: Tensor) -> Tensor:
    """The softmax over all items, every other item as it is."""
    items = torch.arange(len(learned.bias_I))
    score_BI = learned.histories(before_BA) @ learned.vectors(items).T + learned.bias_I
    return cross_entropy(score_BI, target_B)


def test_with_many_negatives_the_loss_and_its_gradient_are_those_of_the_softmax_over_all_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_NEGATIVES", 1_000_000)
    learned = network(items=6).eval()
    before_BA = torch.full((4, AGES), 6)
    before_BA[:, 0] = torch.tensor([0, 1, 2, 3])
    target_B = torch.tensor([1, 2, 2, 0])
    torch.manual_seed(0)
    loss = module._loss(learned, before_BA, target_B, module._Negatives(torch.tensor([0, 0, 0, 5]), 6))
    expected = full_loss(learned, before_BA, target_B)
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    (gradient_I,) = torch.autograd.grad(loss, learned.bias_I)
    (expected_I,) = torch.autograd.grad(expected, learned.bias_I)
    assert gradient_I.tolist() == pytest.approx(expected_I.tolist(), abs=0.01)


def test_a_target_that_is_all_that_was_drawn_leaves_the_gradient_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEGATIVES", 1)
    learned = network(items=3)
    drawer = module._Negatives(torch.zeros(10**6, dtype=torch.int64), 3)
    before_BA = torch.full((2, AGES), 3)
    before_BA[:, 0] = 1
    torch.manual_seed(0)
    loss = module._loss(learned, before_BA, torch.tensor([0, 2]), drawer)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in learned.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_items_are_known_by_their_texts_where_events_say_nothing() -> None:
    """Items of even number follow any item; two texts tell which are even."""
    rng = np.random.default_rng(0)
    text_IV = np.where(np.arange(ITEMS)[:, None] % 2, [1.0, 0.0], [0.0, 1.0]).astype(np.float32)
    events = world(users=400)
    # Items 30 and above are in no train event.
    item_E = (2 * rng.integers(15, size=len(events.item_E))).astype(np.int32)
    events = replace(events, item_E=item_E)
    reader = fit_reader(events, 0, text_IV, np.arange(ITEMS), targets(events, Part.VALIDATION), 8, 4, 0, "films")
    assert reader is not None
    found_S, mass_S = reader.read([2, 8])
    mass_I = dict(zip(found_S.tolist(), mass_S.tolist(), strict=True))
    cold_even = [mass_I.get(item, 0.0) for item in range(30, ITEMS, 2)]
    cold_odd = [mass_I.get(item, 0.0) for item in range(31, ITEMS, 2)]
    assert min(cold_even) > max(cold_odd)
