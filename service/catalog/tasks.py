"""What the engine of the live catalog is asked to do: one task a request."""

from dataclasses import dataclass
from typing import Protocol

from service.catalog.live import LiveCatalog, NewItem, Patch, Placement


@dataclass(frozen=True)
class Tokenized:
    """One placement an item, and the version of the catalog after it."""

    placements: tuple[Placement, ...]
    catalog_version: int


class CatalogTask(Protocol):
    """A task of the engine."""

    def run(self, catalog: LiveCatalog) -> Tokenized:
        """Do it; a change is stored and in use once this returns."""


@dataclass(frozen=True)
class TokenizeTask:
    """Items of one domain to place, or to register."""

    domain: str
    items: tuple[NewItem, ...]
    register: bool

    def run(self, catalog: LiveCatalog) -> Tokenized:
        method = catalog.register if self.register else catalog.place
        placements = tuple(method(self.domain, self.items))
        return Tokenized(placements, catalog.catalog.version)


@dataclass(frozen=True)
class PatchTask:
    """An item to change."""

    domain: str
    item_id: str
    patch: Patch

    def run(self, catalog: LiveCatalog) -> Tokenized:
        placement = catalog.patch(self.domain, self.item_id, self.patch)
        return Tokenized((placement,), catalog.catalog.version)


@dataclass(frozen=True)
class DeleteTask:
    """An item to delete."""

    domain: str
    item_id: str

    def run(self, catalog: LiveCatalog) -> Tokenized:
        catalog.delete(self.domain, self.item_id)
        return Tokenized((), catalog.catalog.version)
