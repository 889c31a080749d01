"""What requests and answers of the views of the catalog look like: search, codes, evaluation users."""

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from service.schemas import Answer, Domain, Request, Sid, is_absent

MAX_SEARCH_CHARS = 200
MAX_FOUND = 50


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


class EvaluationUser(Answer):
    """A user that training held back an item of."""

    domain: str = Field(description="the target domain")
    history: list[NamedItem] = Field(description="oldest first")
    target: NamedItem = Field(description="what the user took next, which training did not see")


class EvaluationUsersAnswer(Answer):
    """Users that came with the bundle; none where it has none."""

    users: list[EvaluationUser]
