"""What requests and answers of the views of the catalog look like: search, codes, fields, near items, map, users."""

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from service.schemas import Answer, Domain, Request, Sid, is_absent

MAX_SEARCH_CHARS = 200
MAX_FOUND = 50
MAX_NEAR_SIDS = 16
MAX_NEAR = 10


class SearchRequest(Request):
    """Asks for items by the words of their titles."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "star w", "domain": "drama"}]})

    text: Annotated[str, StringConstraints(max_length=MAX_SEARCH_CHARS)] = Field(
        description="words of a title, the last one as far as it is typed, or an item id"
    )
    domain: Domain | None = Field(None, description="the domain to search; all of them if left out")
    num_results: int = Field(10, ge=1, le=MAX_FOUND, description="how many items to return at most")


class NamedItem(Answer):
    """An item and what to show for it."""

    domain: str
    item_id: str
    title: str | None = Field(None, exclude_if=is_absent)


class FoundItemAnswer(NamedItem):
    """An item that was found."""

    sid: Sid
    hidden: bool = Field(description="whether it is kept from being recommended")


class SearchAnswer(Answer):
    """The items that were found, the best first."""

    items: list[FoundItemAnswer]
    catalog_version: int


class CodesRequest(Request):
    """Asks for a node of a domain's trie of semantic IDs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"domain": "drama", "prefix": [17, 203]}]})

    domain: Domain
    prefix: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(
        default=[], max_length=64, description="the codes that lead to the node, fewer than a semantic ID has"
    )


class ExampleAnswer(Answer):
    """An item below a code."""

    item_id: str
    title: str | None = Field(None, exclude_if=is_absent)


class CodeAnswer(Answer):
    """One code behind the prefix, and what lies below it."""

    code: int
    items: int
    words: list[str] = Field(description="those that stand out among its items, against the domain")
    examples: list[ExampleAnswer] = Field(description="a few of its items")


class CodesAnswer(Answer):
    """A node of a domain's trie."""

    domain: str
    prefix: list[int]
    items: int = Field(description="items whose semantic IDs begin with the prefix")
    codes: list[CodeAnswer] = Field(description="in the order of the codes")
    catalog_version: int


class FieldsRequest(Request):
    """Asks which fields a domain's items have."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"domain": "drama"}]})

    domain: Domain


class FieldValueAnswer(Answer):
    """A value of a field."""

    value: str | bool | int | float
    items: int = Field(description="items of the sample that have it")


class FieldAnswer(Answer):
    """A field that requests can filter by."""

    name: str
    items: int = Field(description="items of the sample that have it")
    values: list[FieldValueAnswer] = Field(description="the most frequent short values, at most 20")
    min: float | None = Field(None, exclude_if=is_absent, description="the smallest number")
    max: float | None = Field(None, exclude_if=is_absent, description="the largest number")


class FieldsAnswer(Answer):
    """What a sample of a domain's items has, the fields that most of them have first; at most 32."""

    domain: str
    sampled_items: int
    fields: list[FieldAnswer]
    catalog_version: int


class NearRequest(Request):
    """Asks for the items near semantic IDs, which no item needs to have."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sids": [[17, 203, 4, 88]], "num_results": 3}]})

    sids: list[Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1, max_length=64)]] = Field(
        min_length=1, max_length=MAX_NEAR_SIDS, description="one code a level each"
    )
    num_results: int = Field(3, ge=1, le=MAX_NEAR, description="items for each, at most")
    except_domain: Domain | None = Field(None, description="a domain whose items do not come back")


class NearItemAnswer(NamedItem):
    """An item near a semantic ID."""

    sid: Sid
    similarity: float = Field(description="cosine of what the codes of the two stand for, at most 1")
    shared_codes: int = Field(description="codes that the two begin with alike")


class NearAnswer(Answer):
    """The near items of each semantic ID, in the order of the request; the nearest first."""

    results: list[list[NearItemAnswer]]
    catalog_version: int


class MappedItem(NamedItem):
    """An item of the map."""

    sid: Sid
    x: float
    y: float


class MapAnswer(Answer):
    """A sample of the items where their codes lie, on the two axes that show most of their differences."""

    items: list[MappedItem] = Field(description="about 2000 at most; x and y from -1 to 1")
    catalog_items: int = Field(description="items of the catalog, which these were taken from")
    variance: list[float] = Field(description="the share of all differences that each axis shows")
    catalog_version: int


class EvaluationUser(Answer):
    """A user that training held back an item of."""

    domain: str = Field(description="the target domain")
    history: list[NamedItem] = Field(description="oldest first")
    target: NamedItem = Field(description="what the user took next, which training did not see")


class EvaluationUsersAnswer(Answer):
    """Users that came with the bundle; none where it has none."""

    users: list[EvaluationUser]
