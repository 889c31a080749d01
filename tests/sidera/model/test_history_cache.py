"""Histories that go on from kept ones against the same histories read anew; what is kept, and what has to go."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidera.language_model import LanguageModel
from sidera.model.history_cache import HistoryCache, Part
from tests.sidera.worlds import SIZES, VOCABULARY, adapted_model, random_backbone, write_adapter

DOMAINS = ("films", "books", "songs")
ITEMS = [(domain, (code, code % 4, code % 6)) for domain in DOMAINS for code in range(5)]
UNIVERSAL = Part(False, None)
Asked = tuple[str, tuple[int, ...]]
"""A domain, and the places in ``ITEMS`` of a history."""


def upper_model(folder: Path, layers: int = 3) -> LanguageModel:
    """A model of which adapters touch the last layers only."""
    backbone = random_backbone(num_hidden_layers=layers)
    upper = [f"{layer}.self_attn.{name}" for layer in range(1, layers) for name in ("q_proj", "v_proj")]
    adapters = {
        domain: write_adapter(folder / domain, backbone, seed, targets=upper)
        for seed, domain in enumerate(("films", "books"), 1)
    }
    return LanguageModel(backbone, VOCABULARY, adapters, {"films": 0.3, "books": 0.8})


@pytest.fixture(scope="module", params=["adapters", "upper adapters", "no adapters"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("adapters")
    if request.param == "no adapters":
        return LanguageModel(random_backbone(), VOCABULARY)
    return adapted_model(folder) if request.param == "adapters" else upper_model(folder)


def ask(model: LanguageModel, batch: Sequence[Asked]) -> list[Tensor]:
    """Hidden states behind the prompts of a batch, and behind two runs of tokens after them."""
    prompts = [model.prompt([ITEMS[place] for place in places], domain) for domain, places in batch]
    tokens_BP = torch.full((len(batch), max(map(len, prompts))), VOCABULARY.pad)
    for row, prompt in enumerate(prompts):
        tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
    lengths_B = torch.tensor([len(prompt) for prompt in prompts])
    mixture = model.mixture([domain for domain, _ in batch])
    found, history = model.prefill(tokens_BP, lengths_B, mixture.adapters_B, mixture.num_distributions)
    answers = [found]
    for depth in range(2):
        tokens_BT = torch.tensor([[VOCABULARY.first_code(depth), VOCABULARY.first_code(depth) + 1]] * len(batch))
        visible = torch.eye(2, dtype=torch.bool).repeat(1, depth + 1).expand(len(batch), -1, -1)
        answers.append(model.extend(history, tokens_BT, torch.full_like(tokens_BT, depth), visible))
    return answers


def watched_passes(model: LanguageModel) -> list[tuple[int, ...]]:
    """Rows and tokens of every pass from now on."""
    passes = list[tuple[int, ...]]()
    model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return passes


def assert_as_read_anew(model: LanguageModel, batches: Sequence[Sequence[Asked]], max_bytes: int) -> HistoryCache:
    """Every answer of a cache of this size equals that without one."""
    model.keep_histories(0)
    anew = [ask(model, batch) for batch in batches]
    model.keep_histories(max_bytes)
    cache = model.history_cache
    assert cache is not None
    for batch, expected in zip(batches, anew, strict=True):
        for found, right in zip(ask(model, batch), expected, strict=True):
            torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
        assert cache.num_bytes <= max_bytes
    model.keep_histories(0)
    return cache


HISTORIES = st.lists(st.integers(0, len(ITEMS) - 1), max_size=6).map(tuple)


@st.composite
def growing(draw: st.DrawFn) -> list[list[Asked]]:
    """Batches of users whose histories grow, some of which begin alike."""
    users = draw(st.lists(HISTORIES, min_size=1, max_size=3))
    batches = []
    for _ in range(draw(st.integers(1, 5))):
        batch = list[Asked]()
        for _ in range(draw(st.integers(1, 3))):
            user = draw(st.integers(0, len(users) - 1))
            users[user] = (*users[user], *draw(st.lists(st.integers(0, 2), max_size=2)))[:12]
            batch.append((draw(st.sampled_from(DOMAINS)), users[user]))
        batches.append(batch)
    return batches


@settings(deadline=None, max_examples=25)
@given(batches=growing(), max_bytes=st.sampled_from([1, 5_000, 20_000, 10**8]))
def test_a_history_that_goes_on_from_a_kept_one_gives_what_reading_it_anew_gives(
    model: LanguageModel, batches: list[list[Asked]], max_bytes: int
) -> None:
    assert_as_read_anew(model, batches, max_bytes)


def test_a_batch_may_mix_returning_and_new_users_of_all_lengths(model: LanguageModel) -> None:
    users = [(0, 1, 2, 3), (5, 6), (0, 1, 9), tuple(range(12)), ()]
    first = [("films", places) for places in users]
    second = [("films", (*users[0], 4)), ("books", tuple(range(3, 15))), ("films", users[3]), ("songs", ())]
    third = [("films", (*users[1], 7)), ("films", (3, 3)), ("books", (0, 1, 8)), ("films", (*users[3], 12, 13))]
    cache = assert_as_read_anew(model, [first, second, third], 10**8)
    assert cache.hits >= 4


def test_requests_of_which_much_is_known_are_read_apart_from_the_others(tmp_path: Path) -> None:
    model = adapted_model(tmp_path, gammas={"films": 0.5})
    passes = watched_passes(model)
    long = tuple(range(14))
    model.keep_histories(10**8)
    ask(model, [("films", (*long, 1)), ("films", (1, *long))])
    assert passes[0] == (4, 61)
    passes.clear()
    grown = [
        ("films", (*long, 1, 2)),
        ("films", tuple(reversed(long))),
        ("films", (1, *long, 2)),
        ("films", (8, *long)),
    ]
    ask(model, grown)
    assert passes == [(4, 5), (4, 61), *[(8, 2)] * 2]
    assert_as_read_anew(model, [[("films", (*long, 1)), ("films", (1, *long))], grown], 10**8)


def test_only_what_is_new_is_read_whatever_domain_is_asked_for() -> None:
    model = LanguageModel(random_backbone(), VOCABULARY)
    model.keep_histories(10**8)
    passes = watched_passes(model)
    for domain, places in [("films", (0, 1, 2)), ("books", (0, 1, 2, 3)), ("songs", (0, 1)), ("films", (1, 0))]:
        passes.clear()
        ask(model, [(domain, places)])
        expected = {"films": len(places) * 4 + 1, "books": 5, "songs": 1}[domain]
        assert [length for _, length in passes] == [expected, 2, 2]
    cache = model.history_cache
    assert cache is not None
    assert (cache.hits, cache.misses, cache.reused_items, cache.evictions) == (2, 2, 5, 0)


def test_another_domains_adapter_does_not_go_on_from_keys_that_this_one_made(tmp_path: Path) -> None:
    model = adapted_model(tmp_path, gammas={"films": 0.5, "books": 0.5})
    model.keep_histories(10**8)
    cache = model.history_cache
    assert cache is not None
    ask(model, [("films", (0, 1))])
    ask(model, [("books", (0, 1))])
    assert (cache.hits, cache.misses) == (0, 2)
    ask(model, [("songs", (0, 1))])
    ask(model, [("books", (0, 1))])
    assert (cache.hits, cache.misses) == (2, 2)


def test_an_empty_history_counts_neither_way() -> None:
    model = LanguageModel(random_backbone(), VOCABULARY)
    model.keep_histories(10**6)
    ask(model, [("films", ()), ("books", ())])
    cache = model.history_cache
    assert cache is not None
    assert (cache.hits, cache.misses, cache.num_bytes) == (0, 0, 0)


def item(number: int) -> tuple[int, ...]:
    return (number,) * 4


def kept(numbers: Sequence[int]) -> Tensor:
    """What is kept of each item: 4 tokens of 8 numbers, all of them the item's."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None].expand(-1, 4, 8)


def node_bytes() -> int:
    cache = HistoryCache(10**6)
    cache.add(UNIVERSAL, [item(1)], kept([1]))
    return cache.num_bytes


def known(cache: HistoryCache, numbers: Sequence[int], part: Part = UNIVERSAL) -> list[float]:
    (found,) = cache.find([part], [item(number) for number in numbers])
    return [float(tokens[0, 0]) for tokens in found]


def put(cache: HistoryCache, numbers: Sequence[int], part: Part = UNIVERSAL) -> None:
    cache.add(part, [item(number) for number in numbers], kept(numbers))


def test_the_longest_beginning_that_is_kept_is_found() -> None:
    cache = HistoryCache(10**6)
    put(cache, [1, 2, 3])
    assert known(cache, [1, 2, 3, 4]) == [1, 2, 3]
    assert known(cache, [1, 2, 9]) == [1, 2]
    assert known(cache, [2, 3]) == []
    assert known(cache, [1, 2, 3], Part(False, 0)) == []
    assert (cache.hits, cache.misses, cache.reused_items) == (2, 2, 5)


def test_a_beginning_must_be_kept_of_every_part() -> None:
    cache = HistoryCache(10**6)
    put(cache, [1, 2, 3])
    put(cache, [1, 2], Part(False, 0))
    found = cache.find([UNIVERSAL, Part(False, 0)], [item(1), item(2), item(3)])
    assert [len(tokens) for tokens in found] == [2, 2]


def test_what_begins_alike_is_kept_once() -> None:
    cache = HistoryCache(10**6)
    put(cache, [1, 2, 3])
    put(cache, [1, 2, 4])
    put(cache, [1, 2, 4])
    assert cache.num_bytes == 4 * node_bytes()
    assert known(cache, [1, 2, 4]) == [1, 2, 4]


def test_what_was_not_used_for_longest_goes_first_and_from_its_end() -> None:
    cache = HistoryCache(5 * node_bytes())
    put(cache, [1, 2, 3])
    put(cache, [4, 5])
    assert known(cache, [1, 2]) == [1, 2]
    put(cache, [6])
    assert (known(cache, [1, 2, 3]), known(cache, [4, 5]), known(cache, [6])) == ([1, 2], [4, 5], [6])
    put(cache, [7, 8])
    assert (known(cache, [1, 2]), known(cache, [7, 8]), known(cache, [6]), cache.evictions) == ([], [7, 8], [6], 3)


def test_a_history_longer_than_the_cache_is_kept_as_far_as_it_fits() -> None:
    cache = HistoryCache(2 * node_bytes())
    put(cache, [1, 2, 3, 4])
    assert known(cache, [1, 2, 3, 4]) == [1, 2]


def test_items_behind_one_that_had_to_go_are_not_kept() -> None:
    cache = HistoryCache(2 * node_bytes())
    put(cache, [1, 2])
    put(cache, [7, 8])
    cache.add(UNIVERSAL, [item(1), item(2), item(3)], kept([3]))
    assert (known(cache, [1, 2, 3]), cache.num_bytes) == ([], 2 * node_bytes())


def test_what_is_kept_holds_on_to_no_tensor_of_the_pass() -> None:
    cache = HistoryCache(10**6)
    whole = kept([1, 2, 3]).contiguous()
    cache.add(UNIVERSAL, [item(1), item(2), item(3)], whole)
    whole.zero_()
    (found,) = cache.find([UNIVERSAL], [item(1), item(2), item(3)])
    assert [float(tokens.sum()) for tokens in found] == [32, 64, 96]
    assert [tokens.untyped_storage().nbytes() for tokens in found] == [4 * 8 * 4] * 3


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_cache_without_room_is_refused(max_bytes: int) -> None:
    with pytest.raises(ValueError, match="keeps nothing; leave it out"):
        HistoryCache(max_bytes)


def test_these_worlds_have_items_of_four_tokens() -> None:
    assert len(SIZES) + 1 == VOCABULARY.tokens_per_item == 4
