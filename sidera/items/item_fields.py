"""Which fields a domain's items have, and what stands in them: what requests can filter by, told from a sample.

The sample is spread over the domain's trie, so that a domain of millions is told as quickly as one of thousands; what
few items have may be missing from it. Filters look at all items, whatever is told here.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidera.catalog import Catalog
from sidera.items.trie_nodes import spread

SAMPLED_ITEMS = 2048
"""Items of a domain that are looked at."""
MOST_FIELDS = 32
MOST_VALUES = 20
LONGEST_VALUE = 80
"""Characters; longer texts are for reading, not for choosing."""

FieldValue = str | bool | int | float


@dataclass(frozen=True)
class FieldSummary:
    """One field.

    Attributes:
        items: how many of the sample have it.
        values: the most frequent short values with how many items have each, the most frequent first; of lists, what
            stands in them.
        least: the smallest number; None where there are no numbers.
        most: the largest one.
    """

    name: str
    items: int
    values: tuple[tuple[FieldValue, int], ...]
    least: float | None
    most: float | None


@dataclass(frozen=True)
class DomainFields:
    """The fields of a domain, those that most items have first, and how many items were looked at."""

    sampled: int
    fields: tuple[FieldSummary, ...]


def domain_fields(catalog: Catalog, domain: str) -> DomainFields:
    """The fields of a sample of a domain's items.

    Raises:
        UnknownDomainError: the catalog does not hold the domain.
    """
    index = catalog.index(domain)
    sample = index.numbers_of(spread(0, index.num_leaves, SAMPLED_ITEMS))
    seen: dict[str, _Seen] = {}
    for item in _fields_of(catalog, domain, sample):
        for name, held in item.items():
            if held is not None:
                seen.setdefault(name, _Seen()).add(held)
    told = sorted(seen.items(), key=lambda pair: (-pair[1].items, pair[0]))[:MOST_FIELDS]
    return DomainFields(len(sample), tuple(own.summary(name) for name, own in told))


@dataclass
class _Seen:
    """What was seen of one field; true and false are counted apart from 1 and 0, which they are equal to."""

    items: int = 0
    values: Counter[tuple[bool, FieldValue]] = field(default_factory=Counter)
    numbers: list[float] = field(default_factory=list)

    def add(self, held: object) -> None:
        """One more item's."""
        self.items += 1
        different = set[tuple[bool, FieldValue]]()
        for value in held if isinstance(held, list | tuple) else (held,):
            if isinstance(value, bool):
                different.add((True, value))
            elif isinstance(value, int | float) and math.isfinite(value):
                different.add((False, value))
                self.numbers.append(value)
            elif isinstance(value, str) and len(value) <= LONGEST_VALUE:
                different.add((False, value))
        self.values.update(different)

    def summary(self, name: str) -> FieldSummary:
        """What is told of it."""
        order = sorted(self.values.items(), key=lambda pair: (-pair[1], str(pair[0][1])))[:MOST_VALUES]
        values = tuple((value, items) for (_, value), items in order)
        least, most = min(self.numbers, default=None), max(self.numbers, default=None)
        return FieldSummary(name, self.items, values, least, most)


def _fields_of(catalog: Catalog, domain: str, numbers_X: npt.NDArray[np.int64]) -> Sequence[Mapping[str, object]]:
    """The fields of some items."""
    later, numbers = catalog.later_items(domain), numbers_X.tolist()
    stored = pa.array([number for number in numbers if number not in later], pa.int64())
    texts = pc.take(catalog.bundle_items["fields"], stored).to_pylist()
    return [*map(json.loads, texts), *(later[number].fields for number in numbers if number in later)]
