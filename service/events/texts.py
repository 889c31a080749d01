"""How many events travel as a few texts: into a statement, and out of one.

What comes out is a JSON array a column, which is half the work of an array a row for PostgreSQL. It takes events in the
same way; SQLite has no table of several arrays side by side, so it takes one JSON array of rows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.events.rows import Event, StoredEvent

COLUMNS = ", ".join(StoredEvent._fields)
_GIVEN = Event._fields


class Texts:
    """The parts of statements that differ between the databases, and their parameters.

    Attributes:
        rows: given events as a table ``given``: the columns of :class:`service.events.rows.Event`, and ``place``, from
            1 on in their order.
        joined: the columns of found events, as :func:`events_in` reads them.
        in_users: whether a row is of one of the users that are given.
    """

    def __init__(self, is_postgres: bool) -> None:
        self._is_postgres = is_postgres
        if is_postgres:
            arrays = ", ".join(f"json_array_elements_text(CAST(:{name} AS json))" for name in _GIVEN)
            taken = f"ROWS FROM ({arrays}) WITH ORDINALITY AS every ({', '.join(_GIVEN)}, place)"
            values = ", ".join(_GIVEN[:-1])
            self.rows = f"(SELECT {values}, CAST(happened_us AS BIGINT) AS happened_us, place FROM {taken}) AS given"  # noqa: S608
            self.in_users = "user_id = ANY(CAST(:users AS text[]))"
        else:
            values = ", ".join(f"value->>{place} AS {name}" for place, name in enumerate(_GIVEN))
            self.rows = f"(SELECT {values}, key + 1 AS place FROM json_each(:rows)) AS given"  # noqa: S608
            self.in_users = "user_id IN (SELECT value FROM json_each(:users))"
        array = "json_agg" if is_postgres else "json_group_array"
        self.joined = ", ".join(f"CAST({array}({name}) AS TEXT)" for name in StoredEvent._fields)

    def given(self, events: Sequence[Event]) -> Mapping[str, str]:
        """The parameters of :attr:`rows`."""
        if not self._is_postgres:
            return {"rows": json.dumps(events, ensure_ascii=False)}
        columns = zip(*events, strict=True)
        return {name: json.dumps(column, ensure_ascii=False) for name, column in zip(_GIVEN, columns, strict=True)}

    def users(self, users: Sequence[str]) -> dict[str, Any]:
        """The parameter of :attr:`in_users`; however many they are, it stays the same statement."""
        return {"users": list(users) if self._is_postgres else json.dumps(list(users), ensure_ascii=False)}


def events_in(joined: Sequence[str | None]) -> Iterator[StoredEvent]:
    """The events of a row of :attr:`Texts.joined`; PostgreSQL gives no text where it finds none."""
    return map(StoredEvent._make, zip(*(json.loads(text or "[]") for text in joined), strict=True))
