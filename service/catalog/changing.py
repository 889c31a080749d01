"""What a request to change items means for a state of the catalog: the rows to write, and the vectors that they need.

Nothing is stored or swapped here; asked again of a newer state, the answer is made again, and no text is encoded twice.

Shapes: D item vector dim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from service.catalog.placing import NewItem, Placement, Placer, Vectors
from service.catalog.rows import Changes, ItemVector, StoredItem
from service.catalog.state import State, all_fields, row_of, sid_under
from service.errors import DomainLimitError, ItemNotFoundError
from sidera.catalog import Catalog
from sidera.item_text import item_text


@dataclass(frozen=True)
class Plan:
    """What to write, nothing if ``changes`` has no items; and the vectors of items that join."""

    changes: Changes = field(default_factory=Changes)
    joining: Vectors = field(default_factory=dict)


@dataclass(frozen=True)
class Patch:
    """Changes of one item.

    Attributes:
        fields: each replaces the one of its name; None removes it.
        hidden: a hidden item keeps its part in every score and never comes back; None changes nothing.
        retokenize: the item gets the free SID that is nearest to its text; without it, an item keeps its SID.
        check: refuses fields, by raising; called with all that the item would have.
    """

    fields: Mapping[str, object] = field(default_factory=dict)
    hidden: bool | None = None
    retokenize: bool = False
    check: Callable[[Mapping[str, object]], None] = lambda fields: None


class TextVectors:
    """The vectors of texts, each made once."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._made: dict[str, npt.NDArray[np.float32]] = {}

    def of(self, items: Sequence[NewItem]) -> list[npt.NDArray[np.float32]]:
        """The vector of each item: float32[D]."""
        texts = [item_text(item.fields) for item in items]
        lacking = {text: item for text, item in zip(texts, items, strict=True) if text not in self._made}
        self._made |= zip(lacking, self._placer.vectors(list(lacking.values())), strict=True)
        return [self._made[text] for text in texts]


class Planner:
    """Plans changes on one bundle. ``base`` is its catalog as it is."""

    def __init__(self, base: Catalog, placer: Placer, max_domains: int) -> None:
        self._base = base
        self._placer = placer
        self._max_domains = max_domains

    def placements(self, state: State, domain: str, items: Sequence[NewItem], vectors: TextVectors) -> list[Placement]:
        """Where items are, or would be; new ones are placed one after another."""
        known = [self._known(state, domain, item.item_id) for item in items]
        new = [item for item, placement in zip(items, known, strict=True) if placement is None]
        placed = iter(self._placer.place(domain, vectors.of(new), state))
        return [next(placed) if placement is None else placement for placement in known]

    def to_encode(self, state: State, domain: str, items: Sequence[NewItem]) -> list[NewItem]:
        """Those that are not in the catalog with the same text."""
        return [item for item in items if self._has_other_text(state, domain, item)]

    def registration(
        self, state: State, domain: str, items: Sequence[NewItem], vectors: TextVectors
    ) -> tuple[list[Placement], Plan]:
        """Items join, or get other fields.

        Raises:
            DomainLimitError: the domain would be new, and there are as many as allowed.
        """
        if domain not in state.catalog.domains and len(state.catalog.domains) >= self._max_domains:
            raise DomainLimitError(
                f"domain {domain!r} would be new, and at most {self._max_domains} are allowed; "
                "use a known one, or raise SIDERA_MAX_DOMAINS"
            )
        placements = self.placements(state, domain, items, vectors)
        rows, given, joining = list[StoredItem](), list[StoredItem](), list[NewItem]()
        for item, placement in zip(items, placements, strict=True):
            number = state.catalog.find(domain, item.item_id)
            if number is not None:
                if all_fields(state.catalog.item(number)) != dict(item.fields):
                    rows.append(replace(row_of(self._base, state, domain, number), fields=item.fields))
                continue
            if placement.sid is None:
                continue
            joining.append(item)
            deleted = state.deleted.get((domain, item.item_id))
            row = deleted or StoredItem(domain, item.item_id, None)
            row = replace(row, fields=item.fields, deleted=False)
            if deleted is None or sid_under(self._base, deleted) is None:
                row = replace(row, sid=placement.sid, moved=placement.moved, retokenized=False)
                given.append(row)
            rows.append(row)
        written = {row.item_id for row in rows}
        encoded = [item for item in self.to_encode(state, domain, items) if item.item_id in written]
        made = _by_key(domain, encoded, vectors)
        changes = Changes(rows, {key: self._placer.stored(made[key]) for key in made}, given)
        answers = [replace(placement, registered=placement.sid is not None) for placement in placements]
        return answers, Plan(changes, _by_key(domain, joining, vectors))

    def merged(self, state: State, domain: str, item_id: str, patch: Patch) -> NewItem:
        """An item as it would be after a patch.

        Raises:
            ItemNotFoundError: the catalog does not hold the item.
        """
        fields = all_fields(state.catalog.item(self.number(state, domain, item_id))) | dict(patch.fields)
        item = NewItem(item_id, {name: value for name, value in fields.items() if value is not None})
        patch.check(item.fields)
        return item

    def patching(
        self, state: State, domain: str, item_id: str, patch: Patch, vectors: TextVectors
    ) -> tuple[Placement, Plan]:
        """An item gets other fields, is hidden or shown, or gets another SID.

        Raises:
            ItemNotFoundError: the catalog does not hold the item.
        """
        item = self.merged(state, domain, item_id, patch)
        number = self.number(state, domain, item_id)
        sid = state.catalog.sid(domain, number)
        before = row = row_of(self._base, state, domain, number)
        if all_fields(state.catalog.item(number)) != item.fields:
            row = replace(row, fields=item.fields)
        if patch.hidden is not None:
            row = replace(row, hidden=patch.hidden)
        made: dict[tuple[str, str], ItemVector | None] = {}
        if patch.retokenize or self._has_other_text(state, domain, item):
            made = {row.key: self._placer.stored(vectors.of([item])[0])}
        given, reserved = list[StoredItem](), list[StoredItem]()
        if patch.retokenize:
            [placed] = self._placer.place(domain, vectors.of([item]), state, without=sid)
            if placed.sid not in (None, sid):
                row = replace(row, sid=placed.sid, moved=placed.moved, retokenized=True)
                given, reserved = [row], [replace(row, sid=sid)] if before.sid is None else []
        if row == before:
            return Placement(sid, row.moved, registered=True), Plan()
        joining = _by_key(domain, [item], vectors) if given else {}
        placement = Placement(row.sid or sid, row.moved, registered=True)
        return placement, Plan(Changes([row], made, given, reserved), joining)

    def deletion(self, state: State, domain: str, item_id: str) -> Plan:
        """An item goes; one that is gone already stays so.

        Raises:
            ItemNotFoundError: the catalog does not hold the item, and never did.
        """
        key = domain, item_id
        if key in state.deleted:
            return Plan()
        if key in state.left_out:
            return Plan(Changes([StoredItem(domain, item_id, None, deleted=True)], {key: None}))
        number = self.number(state, domain, item_id)
        row = replace(row_of(self._base, state, domain, number), fields=None, hidden=False, deleted=True)
        reserved = [replace(row, sid=state.catalog.sid(domain, number))] if row.sid is None else []
        return Plan(Changes([row], {key: None}, reserved=reserved))

    def _known(self, state: State, domain: str, item_id: str) -> Placement | None:
        """Where an item of the catalog is, or where a deleted one comes back to."""
        key = domain, item_id
        number = state.catalog.find(*key)
        if number is not None:
            return Placement(state.catalog.sid(domain, number), key in state.moved, registered=True)
        deleted = state.deleted.get(key)
        sid = None if deleted is None else sid_under(self._base, deleted)
        return None if deleted is None or sid is None else Placement(sid, deleted.moved, registered=False)

    def number(self, state: State, domain: str, item_id: str) -> int:
        """The number of an item.

        Raises:
            ItemNotFoundError: the catalog does not hold it.
        """
        number = state.catalog.find(domain, item_id)
        if number is None:
            raise ItemNotFoundError(f"there is no item {item_id[:80]!r} in domain {domain[:80]!r}", field="item_id")
        return number

    def _has_other_text(self, state: State, domain: str, item: NewItem) -> bool:
        number = state.catalog.find(domain, item.item_id)
        return number is None or item_text(all_fields(state.catalog.item(number))) != item_text(item.fields)


def _by_key(
    domain: str, items: Sequence[NewItem], vectors: TextVectors
) -> dict[tuple[str, str], npt.NDArray[np.float32]]:
    return {(domain, item.item_id): vector_D for item, vector_D in zip(items, vectors.of(items), strict=True)}
