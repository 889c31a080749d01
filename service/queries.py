"""A request in the recommender's terms, and what the recommender refuses in the request's."""

from pydantic import ValidationError

from service.errors import DomainNotFoundError, InvalidRequestError, RequestError, StartError
from service.events.desk import UserHistory
from service.recommend_schemas import RecommendRequest
from service.schemas import field_path, first_problem
from sidera.decoding.diversity import Diversity
from sidera.decoding.sampling import Sampling
from sidera.errors import FilterError, SideraError, UnknownDomainError
from sidera.items.conditions import conditions_of
from sidera.recommender import Query


def query_of(request: RecommendRequest, user: UserHistory | None = None) -> Query:
    """A request in the recommender's terms.

    Args:
        user: what is stored of the user that the request names; items that the user disliked never come back.

    Raises:
        InvalidRequestError: a filter is none; it names the field.
    """
    try:
        conditions = conditions_of(request.filters)
    except FilterError as error:
        raise request_error(error) from error
    history = tuple((entry.domain or request.domain, entry.item_id) for entry in request.history)
    disliked = {item_id for domain, item_id in (user.disliked if user else ()) if domain == request.domain}
    diversity, sampling = request.diversity, request.sampling
    return Query(
        domain=request.domain,
        history=history if user is None else user.items,
        num_results=request.num_results,
        exclude=frozenset(request.exclude) | disliked,
        exclude_history=request.exclude_history,
        beam_width=request.beam_width,
        conditions=conditions,
        only=None if request.allow is None else frozenset(request.allow),
        diversity=None if diversity is None else Diversity(diversity.max_per_prefix, diversity.prefix_length),
        sampling=None if sampling is None else Sampling(sampling.seed, sampling.temperature),
        explain=request.explain,
    )


def request_error(error: SideraError) -> RequestError:
    """What a client is told when its request was checked and refused."""
    if isinstance(error, UnknownDomainError):
        return DomainNotFoundError(str(error), field="domain")
    if isinstance(error, FilterError):
        return InvalidRequestError(str(error), field=field_path(["filters", error.field]))
    # Of what a check refuses, the schema lets nothing else through.
    return InvalidRequestError(str(error), field="diversity.prefix_length")


def sample_query(row: int, body: object) -> Query:
    """A warm-up request of a bundle.

    Raises:
        StartError: it does not fit the schema.
    """
    try:
        return query_of(RecommendRequest.model_validate(body))
    except ValidationError as error:
        field, message = first_problem(error)
        raise StartError(f"samples/requests.json of the bundle, row {row}: {field}: {message}") from error
