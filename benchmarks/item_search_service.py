"""A service whose catalog holds a given number of made-up items, and the time of its ``POST /search``.

Its bundle is a small trained one in which the catalog is another: a search reads items alone.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.catalog_synthetic import made_up_items, made_up_sids
from benchmarks.processes import Client, ServiceProcessError
from benchmarks.service_process import Served, serving
from benchmarks.service_subject import DOMAIN, Size, make_bundle
from sidera.bundle import Bundle, verified_bundle
from sidera.bundle_writing import write_bundle
from sidera.items.stored_catalog import build_catalog
from sidera.manifest import BundleDetails

_SMALL = Size(items=200, users=40, backbone="scratch:tiny", codes=64)
_ANEW = "samples/requests.json"
"""Requests that the service warms up with; they name items that are gone."""
_INDEX_SECONDS = 300.0


@dataclass(frozen=True)
class Searched:
    """What a service did.

    Attributes:
        first_seconds: from the first search until it was answered; until the index is made, the answer is 503.
        took_ms: of each search. Shape: float64[searches].
        empty: searches that found nothing.
    """

    first_seconds: float
    took_ms: npt.NDArray[np.float64]
    empty: int


def searched(titles: pa.Array, texts: Sequence[str], most: int, say: Callable[[str], None]) -> Searched:
    """Serve items of these titles and search for the texts, one after another on one connection.

    Args:
        most: items that a search returns at most.

    Raises:
        ServiceProcessError: the service did not start, or refused a search.
    """
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        say("a small bundle is trained")
        small = verified_bundle(make_bundle(home / "small", _SMALL, lambda _: None))
        say(f"its catalog is made: {len(titles):,} items")
        write_large_bundle(home / "large", small, titles)
        with serving({"bundle": home / "large", "database": home / "items.db"}) as served:
            first = _index_made(served)
            say(f"the service made its index within {first:.1f} s")
            client = Client(served.port)
            took, empty = [], 0
            for text in texts:
                body = json.dumps({"text": text, "num_results": most}).encode()
                begun = time.perf_counter()
                answer = client.post("/search", body)
                took.append((time.perf_counter() - begun) * 1000)
                empty += not json.loads(answer)["items"]
            client.close()
    return Searched(first, np.array(took), empty)


def write_large_bundle(path: Path, bundle: Bundle, titles: pa.Array) -> None:
    """The bundle with one item for each title in place of its own ones, without their vectors and memory."""
    before = bundle.manifest
    details = BundleDetails(
        created=before.created,
        config=before.config,
        lineage=before.lineage,
        metrics=before.metrics,
        codebook_sizes=before.codebook_sizes,
        domains=before.domains,
        parts={**before.parts, "neighbours": None},
    )

    def fill(folder: Path) -> None:
        for file in before.files:
            if not file.startswith("catalog/"):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path(file), folder / file)
        (folder / _ANEW).write_text("[]")
        items = replace(made_up_items(len(titles)), titles=titles)
        sids_NL = made_up_sids(len(titles), before.codebook_sizes)
        (folder / "catalog").mkdir()
        build_catalog({DOMAIN: (items, sids_NL)}, before.codebook_sizes).save(folder / "catalog")

    write_bundle(path, fill=fill, details=details)


def _index_made(served: Served) -> float:
    begun = time.perf_counter()
    while (passed := time.perf_counter() - begun) < _INDEX_SECONDS:
        status, answer = served.ask("POST", "/search", {"text": "ba"})
        if status == 200:
            return time.perf_counter() - begun
        if status != 503:
            raise ServiceProcessError(f"POST /search was answered with {status}: {str(answer)[:500]}")
        time.sleep(0.1)
    raise ServiceProcessError(f"the index of words was not made within {passed:.0f} s; search fewer items (--items)")
