"""What of an item is text, and what is refused."""

import pytest

from sidera.errors import EmbeddingError
from sidera.item_text import item_text, item_texts


def test_the_text_of_an_item_is_title_brand_categories_description_then_other_fields_alphabetically() -> None:
    fields = {
        "year": 1995,
        "description": "Toys  come\nalive",
        "genres": ["Animation", "Comedy"],
        "item_id": "17",
        "categories": ["Films", "Family"],
        "title": "Toy Story",
        "brand": "Pixar",
        "rating": 4.5,
    }
    assert item_text(fields) == (
        "Toy Story. Pixar. Films, Family. Toys come alive. genres: Animation, Comedy. rating: 4.5. year: 1995"
    )


def test_null_and_blank_fields_are_no_text() -> None:
    assert item_text({"title": "Ball", "brand": None, "description": "  ", "categories": [], "colour": ""}) == "Ball"
    assert item_text({"item_id": "1", "title": " "}) == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"title": 7}, "field 'title' holds int; expected text"),
        ({"categories": "Toys"}, "field 'categories' holds str; expected a list of texts"),
        ({"categories": ["Toys", 1]}, "field 'categories' holds list; expected a list of texts"),
        ({"size": {"w": 1}}, "field 'size' holds dict; expected text, a number or a list of texts"),
        ({"new": True}, "field 'new' holds bool"),
        ({"price": float("nan")}, "field 'price' is nan; numbers must be finite"),
    ],
)
def test_a_field_of_a_kind_without_text_is_refused_by_name(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(EmbeddingError, match=reason):
        item_text(fields)


def test_a_whole_number_of_any_length_is_text() -> None:
    assert item_text({"serial": 10**400}) == f"serial: 1{'0' * 400}"


def test_an_item_without_text_passes_only_where_that_is_asked_for() -> None:
    assert item_texts([{"title": "Ball"}, {"title": " "}], blank=True) == ["Ball", ""]
    with pytest.raises(EmbeddingError, match="item 'b2': field 'title' holds int"):
        item_texts([{}, {"title": 5}], ["a1", "b2"], blank=True)


def test_an_item_without_text_is_refused_by_its_id() -> None:
    with pytest.raises(EmbeddingError, match="item 'b2' has no text"):
        item_texts([{"title": "Ball"}, {"title": " "}], ["a1", "b2"])
    with pytest.raises(EmbeddingError, match="item 'c3' has no text"):
        item_texts([{"item_id": "c3"}])
    with pytest.raises(EmbeddingError, match="item in row 0 has no text"):
        item_texts([{}])
    with pytest.raises(EmbeddingError, match="item 'b2': field 'title' holds int"):
        item_texts([{"title": 5}], ["b2"])
    with pytest.raises(EmbeddingError, match="1 items came with 2 item ids"):
        item_texts([{"title": "Ball"}], ["a", "b"])
