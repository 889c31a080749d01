"""What is in use of the catalog, and how rows of the database lead from one state to the next.

Every change goes the same way, whether it was asked for here, committed by another process, or found at the start: rows
say what became of items, :func:`step` says what that is in terms of the snapshot. The bundle's own SIDs win: a stored
item that the bundle meanwhile holds keeps only its fields, unless it was retokenized, and one whose leaf the bundle
meanwhile took is homeless until it gets another one.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from service.catalog.rows import Key, Sid, StoredCatalog, StoredItem
from sidera.catalog import Catalog, CatalogItem


@dataclass(frozen=True)
class State:
    """A snapshot in use, and what the database says beyond it.

    Attributes:
        catalog: the snapshot.
        stored_version: the version of the database that it was made from.
        moved: live items that did not get their nearest leaf.
        deleted: the rows of deleted items; an item that comes back has its SID again.
        retired: per domain, SIDs that items once had, or have under another bundle.
        left_out: live items that found no free leaf under this bundle.
        numbering: another one whenever everything was read anew, so that items may have other numbers.
    """

    catalog: Catalog
    stored_version: int = 0
    moved: frozenset[Key] = frozenset()
    deleted: Mapping[Key, StoredItem] = field(default_factory=dict)
    retired: Mapping[str, frozenset[Sid]] = field(default_factory=dict)
    left_out: frozenset[Key] = frozenset()
    numbering: int = 0

    @property
    def numbered(self) -> "Numbered":
        """The snapshot with its numbering."""
        return Numbered(self.catalog, self.numbering)

    def taken(self, domain: str) -> Iterator[Sid]:
        """The SIDs of a domain, past ones included, that the bundle does not give."""
        yield from (item.sid for item in self.catalog.later_items(domain).values())
        yield from (row.sid for row in self.deleted.values() if row.domain == domain and row.sid is not None)
        yield from self.retired.get(domain, ())


class Numbered(NamedTuple):
    """A snapshot, and which numbering its items have: in two snapshots of one numbering, a number is of one item."""

    catalog: Catalog
    numbering: int


@dataclass
class Step:
    """What rows change in a snapshot, in the order in which it is done."""

    rows: dict[Key, StoredItem] = field(default_factory=dict)
    removed: list[Key] = field(default_factory=list)
    items: list[CatalogItem] = field(default_factory=list)
    joined: set[Key] = field(default_factory=set)
    homeless: list[StoredItem] = field(default_factory=list)
    left_out: set[Key] = field(default_factory=set)
    retired: dict[str, set[Sid]] = field(default_factory=dict)

    def retire(self, domain: str, sids: Iterable[Sid]) -> None:
        """These SIDs are nobody's from now on."""
        self.retired.setdefault(domain, set()).update(sids)

    def sids(self, domain: str) -> Iterator[Sid]:
        """The SIDs of a domain that the step gives or retires."""
        yield from (item.sid for item in self.items if item.domain == domain)
        yield from self.retired.get(domain, ())


def step(base: Catalog, state: State, stored: StoredCatalog) -> Step:
    """What rows change. Items without a leaf are in ``homeless``; :func:`settle` gives them theirs.

    Args:
        base: the bundle's catalog as it is.
    """
    found = Step({row.key: row for row in stored.items})
    for domain, sids in stored.retired.items():
        found.retire(domain, sids)
    for row in stored.items:
        number = state.catalog.find(*row.key)
        sid = None if row.deleted else sid_under(base, row)
        now = None if number is None else state.catalog.sid(row.domain, number)
        if now is not None and now != sid:
            found.removed.append(row.key)
            found.retire(row.domain, [now])
        if row.sid is not None and row.sid != sid and not row.deleted:
            found.retire(row.domain, [row.sid])
        if row.deleted or (row.fields is None and base.find(*row.key) is None):
            continue
        if sid is None:
            found.homeless.append(row)
            continue
        if now != sid:
            found.joined.add(row.key)
        if now != sid or not _is_known(state.catalog, number, row):
            found.items.append(_catalog_item(base, row, sid))
    return found


def settle(found: Step, row: StoredItem) -> None:
    """A homeless item got the SID that its row has now, or none."""
    found.rows[row.key] = row
    if row.sid is None:
        found.left_out.add(row.key)
        return
    found.joined.add(row.key)
    found.items.append(_live_item(row, row.sid))


def following(base: Catalog, state: State, found: Step, version: int, stored_version: int) -> State:
    """The state after a step; none of its items is homeless any more."""
    touched = set(found.rows)
    gone = found.left_out | {key for key, row in found.rows.items() if row.deleted or _is_of_no_bundle(base, row)}
    there = [row for key, row in found.rows.items() if key not in gone]
    catalog = state.catalog.with_changes(
        version,
        removed=found.removed,
        items=found.items,
        hidden=[row.key for row in there if row.hidden],
        shown=[row.key for row in there if not row.hidden],
    )
    deleted = {key: row for key, row in state.deleted.items() if key not in touched}
    deleted |= {key: row for key, row in found.rows.items() if row.deleted}
    moved = {row.key for row in there if row.moved and _has_sid(catalog, row)}
    retired = dict(state.retired)
    for domain, sids in found.retired.items():
        retired[domain] = retired.get(domain, frozenset()) | sids
    return State(
        catalog,
        stored_version,
        (state.moved - touched) | moved,
        deleted,
        retired,
        (state.left_out - touched) | found.left_out,
        state.numbering,
    )


def sid_under(base: Catalog, row: StoredItem) -> Sid | None:
    """The SID that a stored item has under a bundle, or had until it was deleted; None: it needs one."""
    number = base.find(*row.key)
    holder = None if row.sid is None else base.holder(row.domain, row.sid)
    is_free = row.sid is not None and (holder is None or holder == number)
    if number is not None and not (row.retokenized and is_free):
        return base.sid(row.domain, number)
    return row.sid if is_free else None


def row_of(base: Catalog, state: State, domain: str, number: int) -> StoredItem:
    """What the database has to say of an item of the snapshot that it may know nothing of yet."""
    item = state.catalog.item(number)
    fields: dict[str, object] | None = all_fields(item)
    base_number = base.find(domain, item.item_id)
    sid: Sid | None = item.sid
    if base_number is not None:
        fields = None if all_fields(base.item(base_number)) == fields else fields
        sid = None if base.sid(domain, base_number) == sid else sid
    return StoredItem(
        domain,
        item.item_id,
        fields,
        sid,
        moved=(domain, item.item_id) in state.moved,
        retokenized=base_number is not None and sid is not None,
        hidden=state.catalog.is_hidden(number),
    )


def all_fields(item: CatalogItem) -> dict[str, object]:
    """The fields of an item, its title among them; neither its id nor what is null."""
    fields = {"title": item.title, **item.fields}
    return {name: value for name, value in fields.items() if name != "item_id" and value is not None}


def _is_known(catalog: Catalog, number: int | None, row: StoredItem) -> bool:
    """Whether an item of a snapshot has the fields of its row already, or needs none of it."""
    return row.fields is None or (number is not None and all_fields(catalog.item(number)) == row.fields)


def _has_sid(catalog: Catalog, row: StoredItem) -> bool:
    """Whether an item has the SID of its row in a snapshot."""
    number = catalog.find(*row.key)
    return number is not None and catalog.sid(row.domain, number) == row.sid


def _is_of_no_bundle(base: Catalog, row: StoredItem) -> bool:
    return row.fields is None and base.find(*row.key) is None


def _catalog_item(base: Catalog, row: StoredItem, sid: Sid) -> CatalogItem:
    if row.fields is not None:
        return _live_item(row, sid)
    number = base.find(*row.key)
    assert number is not None
    item = base.item(number)
    return CatalogItem(row.domain, row.item_id, sid, item.title, item.fields)


def _live_item(row: StoredItem, sid: Sid) -> CatalogItem:
    fields = row.fields or {}
    title = fields.get("title")
    rest = {name: value for name, value in fields.items() if name != "title"}
    return CatalogItem(row.domain, row.item_id, sid, str(title) if title is not None else None, rest)
