"""What a process does that changes a live catalog and says what it was acknowledged: run by tests, and killed.

Its bundle is the stand-in of the service's tests with room for a million items. What it says is one acknowledged change
each: ("+", id, sid) registered, ("~", id, title) patched, ("-", id, None) deleted.
"""

import hashlib
from collections.abc import Mapping, Sequence
from io import StringIO
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt

from service.catalog.live import LiveCatalog, NewItem, Patch
from service.catalog.store import SqlStore
from service.logs import make_logger
from sidera.catalog import CatalogItem, create_catalog
from tests.service.fakes import FakeModel

SIZES = (64, 256, 64)
DOMAIN = "drama"


Acknowledgement = tuple[str, str, tuple[int, ...] | str | None]


class WideModel(FakeModel):
    """A stand-in with many leaves, in which many texts want the same leaf."""

    def __init__(self) -> None:
        super().__init__()
        self._catalog = create_catalog([CatalogItem(DOMAIN, "bundle", (0, 0, 0), "Bundle")], SIZES)

    def vectors(self, items: Sequence[Mapping[str, object]]) -> npt.NDArray[np.float32]:
        digests = [hashlib.sha256(str(item["title"]).encode()).digest() for item in items]
        return np.array([list(digest[:3]) for digest in digests], dtype=np.float32)

    def place(
        self, vectors_ND: npt.NDArray[np.float32], domain: str, taken_NL: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        taken = {tuple(sid) for sid in taken_NL.tolist()}
        sids, moved = [], []
        for vector_D in vectors_ND:
            nearest = place = int(vector_D[0]) % 4
            while (sid := (place // (256 * 64), place // 64 % 256, place % 64)) in taken:
                place += 1
            taken.add(sid)
            sids.append(sid)
            moved.append(place != nearest)
        return np.array(sids, dtype=np.int32), np.array(moved)


def start(database: str) -> tuple[LiveCatalog, SqlStore]:
    """A live catalog on a database."""
    model, store = WideModel(), SqlStore(database)
    live = LiveCatalog(
        model,
        store,
        lambda snapshot, vectors, anew: model.stage(snapshot.catalog, vectors, anew=anew),
        max_domains=9,
        log=make_logger("error", StringIO()),
    )
    live.restore()
    return live, store


def write(database: str, name: str, last: int, told: "Connection[Acknowledgement, None]") -> None:
    """Change items ``name-0``, ``name-1``, ... up to ``last``, or until the process is killed."""
    live, store = start(database)
    for number in range(last):
        item_id = f"{name}-{number}"
        [placement] = live.register(DOMAIN, [NewItem(item_id, {"title": item_id})])
        told.send(("+", item_id, placement.sid))
        if number % 3 == 1:
            live.patch(DOMAIN, item_id, Patch({"title": "patched"}))
            told.send(("~", item_id, "patched"))
        if number % 3 == 2:
            live.delete(DOMAIN, f"{name}-{number - 2}")
            told.send(("-", f"{name}-{number - 2}", None))
    store.close()
    told.close()
