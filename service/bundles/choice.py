"""Which version serves, kept where it survives a restart: in the database of registered items.

The store of bundles may be read-only, and a pod's own disk is gone with the pod; the database is writable wherever
items can be registered, and all replicas share it. So a replica that starts takes the version that was chosen last.
"""

import json
from dataclasses import asdict, dataclass

from service.catalog.rows import CatalogStore
from service.errors import StoreError

_KEY = "serving_bundle"


@dataclass(frozen=True)
class Choice:
    """The version that serves.

    Attributes:
        name: its folder in the store.
        previous: the folders that served before, the latest first.
        horizon: watching takes only bundles made after this, in seconds since 1970; so what an operator went back
            from is not taken again.
    """

    name: str
    previous: tuple[str, ...]
    horizon: float


def read_choice(notes: CatalogStore) -> Choice | None:
    """The choice that was kept last.

    Raises:
        StoreError: it cannot be read.
    """
    text = notes.note(_KEY)
    if text is None:
        return None
    try:
        kept = json.loads(text)
        return Choice(str(kept["name"]), tuple(map(str, kept["previous"])), float(kept["horizon"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the note {_KEY!r} of the database is damaged; delete its row from service_notes") from error


def write_choice(notes: CatalogStore, choice: Choice) -> None:
    """Keep a choice."""
    notes.write_note(_KEY, json.dumps(asdict(choice)))
