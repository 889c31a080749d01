"""Words that stand out among the items of a code."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from sidera.explain.code_words import WordCounts, count_words, count_words_by_group, standing_out, words_of
from sidera.explain.code_words import _log_likelihood_ratio as surprise


def test_words_are_lower_case_letters_and_digits_of_any_script_from_the_title_and_lists_of_texts() -> None:
    fields = {"categories": ["Home & Garden", "Lämp_en"], "genres": ("Film-Noir",), "brand": "Lux", "year": 1990}
    assert words_of("Красная ЛАМПА 42 x", fields) == {
        *("красная", "лампа", "42"),
        *("home", "garden", "lämp", "en", "film", "noir"),
    }
    assert words_of(None, {}) == frozenset()
    assert words_of(7, {"sizes": [1, None, "big"]}) == {"big"}


def test_scripts_that_set_no_spaces_give_every_two_neighbouring_characters() -> None:
    assert words_of("電気ケトル・USB3 茶", {}) == {"電気", "気ケ", "ケト", "トル", "usb3", "茶"}
    assert words_of("红色台灯LED", {"标签": ["台灯"]}) == {"红色", "色台", "台灯", "led"}
    assert words_of("น้ำ", {}) == {"น้", "้ำ"}
    assert words_of("빨간 램프", {}) == {"빨간", "램프"}, "Korean sets spaces"


def test_what_items_of_an_unspaced_language_share_stands_out() -> None:
    lamps = [words_of(f"{colour}台灯", {}) for colour in ("红色", "蓝色", "绿色", "黄色")]
    boats = [words_of(f"{colour}小船", {}) for colour in ("红色", "蓝色", "绿色", "黄色")]
    assert standing_out(count_words(lamps), count_words([*lamps, *boats])) == ["台灯", "色台"]


def test_items_are_counted_once_a_word_and_groups_add_up_to_all() -> None:
    words = [{"red", "lamp"}, {"blue", "lamp"}, {"red", "boat"}]
    by_group = count_words_by_group(words, ["a", "b", "a"])
    assert by_group["a"] == WordCounts(2, by_group["a"].items_with)
    assert by_group["a"].items_with == {"red": 2, "lamp": 1, "boat": 1}
    assert WordCounts.total(by_group.values()) == count_words(words)


@pytest.mark.parametrize("table", [(20, 100, 5, 5000), (3, 3, 10, 997), (7, 10, 0, 90)])
def test_surprise_is_the_log_likelihood_ratio_of_the_table(table: tuple[int, int, int, int]) -> None:
    count, items, outside, others = table
    observed = np.array([[count, items - count], [outside, others - outside]])
    expected = chi2_contingency(observed, correction=False, lambda_="log-likelihood").statistic
    assert surprise(count, items, count + outside, items + others) == pytest.approx(expected)


def test_the_words_of_a_group_stand_out_and_common_words_never_do() -> None:
    inside = [{"the", "lamp", f"only{item}"} for item in range(6)]
    outside = [{"the", "boat", "lamp" if item < 2 else "oar"} for item in range(60)]
    everywhere = count_words([*inside, *outside])
    assert standing_out(count_words(inside), everywhere) == ["lamp"]
    assert standing_out(everywhere, everywhere) == []


def test_a_word_of_all_items_and_nobody_else_comes_before_one_that_others_have_too() -> None:
    inside = [{"lamp", "red"} for _ in range(9)]
    everywhere = count_words([*inside, *({"red"} for _ in range(9)), *({"boat"} for _ in range(90))])
    assert standing_out(count_words(inside), everywhere) == ["lamp", "red"]
    assert standing_out(count_words(inside), everywhere, most=1) == ["lamp"]


def test_a_lone_item_is_described_by_its_rarest_words_and_equal_ones_come_in_alphabetical_order() -> None:
    everywhere = count_words([{"zebra", "apple", "the"}, *({"the"} for _ in range(50))])
    assert standing_out(count_words([{"zebra", "apple", "the"}]), everywhere) == ["apple", "zebra"]
