"""What a query takes, and whether it can be answered, before anything is computed.

Both may be asked by any thread, also while another one searches.
"""

from dataclasses import dataclass

from sidera.errors import SearchError
from sidera.queries import Query
from sidera.recommender import Recommender


@dataclass(frozen=True)
class Work:
    """The tokens that the language model reads for a query, at most.

    Attributes:
        prompt_tokens: of its history; in a batch all prompts are padded to the longest.
        search_tokens: one a beam and level behind the first, and what an explanation reads.
    """

    prompt_tokens: int
    search_tokens: int


def work_of(recommender: Recommender, query: Query) -> Work:
    """What a query takes; items of its history that the catalog does not hold are counted too."""
    levels = recommender.model.vocabulary.num_levels
    read = min(len(query.history), recommender.max_history)
    prompt = read * (1 + levels) + 1
    search = max(query.beam_width or recommender.beam_width, query.num_results) * (levels - 1)
    if query.explain:
        search += query.num_results * (prompt + levels) + read * (prompt + query.num_results * (levels - 1))
    return Work(prompt, search)


def check_query(recommender: Recommender, query: Query) -> None:
    """Refuse what cannot be answered; and build what its filters need, which takes seconds for a field's first one.

    Raises:
        UnknownDomainError: the catalog does not hold the domain.
        FilterError: no item of the domain has a condition's field, or it holds no such values.
        SearchError: fewer than one item or beam is asked for, or a prefix longer than SIDs are.
    """
    recommender.catalog.index(query.domain)
    if query.num_results < 1 or (query.beam_width is not None and query.beam_width < 1):
        raise SearchError("num_results and beam_width must be at least 1")
    if query.diversity is not None:
        query.diversity.check(recommender.model.vocabulary.num_levels)
    if query.conditions:
        recommender.item_filter.allowed(query.domain, query.conditions)
