"""Which token stands for what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidera.errors import BackboneError
from sidera.model.vocabulary import DOMAIN_ROWS, Vocabulary


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6).map(tuple),
    base=st.integers(0, 50_000),
    rows=st.lists(st.integers(0, DOMAIN_ROWS - 1), unique=True),
)
def test_every_token_stands_for_one_thing_and_lies_behind_the_base(
    sizes: tuple[int, ...], base: int, rows: list[int]
) -> None:
    vocabulary = Vocabulary(sizes, {f"domain{row}": row for row in rows}, base)
    codes = [vocabulary.first_code(level) + code for level, size in enumerate(sizes) for code in range(size)]
    domains = [vocabulary.domain_token(domain) for domain in vocabulary.domains]
    tokens = [vocabulary.pad, vocabulary.any_domain, *domains, *codes]
    assert len(set(tokens)) == len(tokens)
    assert min(tokens) == base
    assert max(tokens) == vocabulary.size - 1
    assert vocabulary.size == base + 2 + DOMAIN_ROWS + sum(sizes)


def test_an_item_is_its_domain_and_its_codes() -> None:
    vocabulary = Vocabulary((4, 8, 2), {"books": 5}, base=100)
    first = 100 + 2 + DOMAIN_ROWS
    assert vocabulary.item_tokens("books", (3, 0, 1)) == [100 + 2 + 5, first + 3, first + 4, first + 4 + 8 + 1]
    assert vocabulary.tokens_per_item == 4


def test_a_domain_that_training_never_saw_is_any_domain() -> None:
    vocabulary = Vocabulary((4, 8), {"books": 5})
    assert vocabulary.domain_token("songs") == vocabulary.any_domain
    assert vocabulary.item_tokens("songs", (1, 2))[0] == vocabulary.any_domain


@pytest.mark.parametrize(
    "domains", [{"a": 0, "b": 0}, {"a": -1}, {"a": DOMAIN_ROWS}, {str(row): row for row in range(DOMAIN_ROWS + 1)}]
)
def test_domains_that_do_not_fit_the_reserved_rows_are_refused(domains: dict[str, int]) -> None:
    with pytest.raises(BackboneError, match=r"reserved rows 0\.\.31"):
        Vocabulary((4,), domains)
