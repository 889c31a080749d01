"""What the benchmark of item search serves; what it measures is never asserted here."""

import random
from pathlib import Path

import numpy as np

from benchmarks.item_search import made_up_titles, typed_texts
from benchmarks.item_search_service import write_large_bundle
from benchmarks.service_subject import DOMAIN
from sidera.bundle import verified_bundle
from sidera.bundle_writing import write_bundle
from sidera.catalog import Catalog
from sidera.manifest import BundleDetails, DomainEntry

SIZES = (16, 16, 16)


def test_the_bundle_holds_an_item_for_each_title_and_all_else_of_the_small_one(tmp_path: Path) -> None:
    old = {"catalog/old": "old", "backbone/config.json": "{}", "samples/requests.json": '[{"domain": "shop"}]'}

    def fill(folder: Path) -> None:
        for name, text in old.items():
            (folder / name).parent.mkdir()
            (folder / name).write_text(text)

    parts = {"neighbours": "catalog/neighbours.safetensors", "language_model": {"beam_width": 5}}
    domains = {DOMAIN: DomainEntry(token=0)}
    write_bundle(
        tmp_path / "small",
        fill=fill,
        details=BundleDetails("2026-01-01T00:00:00+00:00", {}, {}, {}, SIZES, domains, parts),
    )
    titles = made_up_titles(200, 50, np.random.default_rng(0))
    write_large_bundle(tmp_path / "large", verified_bundle(tmp_path / "small"), titles)
    large = verified_bundle(tmp_path / "large")
    assert large.manifest.parts == parts | {"neighbours": None}
    assert "catalog/old" not in large.manifest.files
    assert large.path("backbone/config.json").read_text() == "{}"
    assert large.path("samples/requests.json").read_text() == "[]"
    catalog = Catalog.load(large.folder("catalog"), [DOMAIN], SIZES)
    served = catalog.columns(DOMAIN)[1].titles
    assert served is not None
    assert sorted(served.to_pylist()) == sorted(titles.to_pylist())


def test_typed_texts_end_with_beginnings_of_words_but_for_a_wrong_letter_in_some() -> None:
    titles = made_up_titles(500, 200, np.random.default_rng(0))
    texts = typed_texts(titles, 20, random.Random(0))
    words = {word for title in titles.to_pylist() for word in title.split()}
    beginnings = [text for text in texts if any(word.startswith(text.split()[-1]) for word in words)]
    assert len(texts) == 20
    assert 14 <= len(beginnings) < 20
