"""Which types of events there are, and what each counts, is one setting."""

import pytest
from pydantic import ValidationError

from service.events.kinds import read_kinds
from tests.service.fakes import settings


def test_a_list_of_types_and_weights_is_read() -> None:
    assert read_kinds("view=1, watched-70.pct = 2.5,skip=-0.5,shown=0") == {
        "view": 1.0,
        "watched-70.pct": 2.5,
        "skip": -0.5,
        "shown": 0.0,
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no kind of event with its weight"),
        ("view", "'view' is no kind of event"),
        ("view=1;skip=2", "is no kind"),
        ("view=much", "the weight of 'view' is no number"),
        ("view=nan", "is not from -10 to 10"),
        ("view=11", "is not from -10 to 10"),
    ],
)
def test_a_list_that_is_none_is_refused_in_a_sentence_when_the_service_starts(text: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        settings(event_weights=text)
