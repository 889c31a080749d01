"""What the database keeps of items, in Python's terms, and the interface of whatever keeps it.

An item is kept with its text and vector; its SID is a row of its own per tokenizer, so a bundle with another tokenizer
places the same items anew, and going back to the first one finds its rows again. A catalog version counts the changes.
Knows nothing of bundles, tries or encoders.

Shapes: D item vector dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.catalog.database import Database

Sid = tuple[int, ...]
Key = tuple[str, str]
"""Domain and item id."""


@dataclass(frozen=True)
class StoredItem:
    """What is known of an item beyond the bundle.

    Attributes:
        fields: its title and all other fields; None: as the bundle has them, or deleted.
        sid: the one that it was given under one tokenizer; None: none, or that of the bundle.
        moved: that is not its nearest leaf.
        retokenized: it was asked for in place of the SID that the item had, so it wins over that of any bundle.
        hidden: it must not come back.
        deleted: it is gone, also from any bundle that holds it.
    """

    domain: str
    item_id: str
    fields: Mapping[str, object] | None
    sid: Sid | None = None
    moved: bool = False
    retokenized: bool = False
    hidden: bool = False
    deleted: bool = False

    @property
    def key(self) -> Key:
        return self.domain, self.item_id


@dataclass(frozen=True)
class ItemVector:
    """float32[D] and the digest of the encoder that made it."""

    encoder: str
    vector_D: npt.NDArray[np.float32]


@dataclass(frozen=True)
class StoredCatalog:
    """What changed since a version, or all.

    Attributes:
        version: of the catalog now; 0 before the first change.
        items: in the order of their registration.
        retired: per domain, SIDs that an item once had under the tokenizer, and has no more.
    """

    version: int
    items: tuple[StoredItem, ...]
    retired: Mapping[str, Sequence[Sid]] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """What one change writes.

    Attributes:
        items: their fields and flags, added or replaced.
        vectors: of stored items; None forgets one. Whoever is not named keeps what is there.
        given: items, each with the SID that it has from now on; another one that it had is retired.
        reserved: items, each with a SID that is not its own any more, and must not become another's.
    """

    items: Sequence[StoredItem] = ()
    vectors: Mapping[Key, ItemVector | None] = field(default_factory=dict)
    given: Sequence[StoredItem] = ()
    reserved: Sequence[StoredItem] = ()


class CatalogStore(ABC):
    """Where changes of the catalog survive. All methods may be called from any thread.

    All of them raise :class:`service.errors.StoreUnavailableError` when the database does not answer.
    """

    @property
    @abstractmethod
    def database(self) -> Database:
        """Where it is kept, beside the events."""

    @abstractmethod
    def version(self) -> int:
        """The version of the catalog now."""

    @abstractmethod
    def load(self, tokenizer: str, since: int = -1) -> StoredCatalog:
        """What changed after a version, with the SIDs under the tokenizer of this digest."""

    @abstractmethod
    def vectors(self, keys: Sequence[Key]) -> dict[Key, ItemVector]:
        """The vectors of those items that have one."""

    @abstractmethod
    def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
        """Write a change as a whole; it has survived a crash once this returns.

        Args:
            tokenizer: digest of the tokenizer of the SIDs.
            expected_version: the catalog version that the change was made from.
            version: the catalog version after it.

        Raises:
            StaleCatalogError: the store holds another version than expected, or a SID is taken; nothing was written.
        """

    @abstractmethod
    def turn(self) -> AbstractContextManager[None]:
        """While it lasts, others who wait for their turn wait: whoever is slower than the others gets to change too."""

    @abstractmethod
    def note(self, name: str) -> str | None:
        """A short text that is kept by name; None where there is none."""

    @abstractmethod
    def write_note(self, name: str, text: str) -> None:
        """Keep a text in place of the one that was there."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""
