"""What an SID means in words, from the catalog of a bundle alone."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidera.bundle import open_bundle
from sidera.bundle_writing import write_bundle
from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.cli import app
from sidera.errors import BundleError, CatalogError, UnknownDomainError
from sidera.explain.explanation import _CANDIDATES, PrefixMeaning, _similar_ids, explain_item
from sidera.manifest import BundleDetails, DomainEntry
from tests import tiny


def titled(lamp: int) -> str:
    return f"Red lamp {lamp}" if lamp < 3 else f"Lamp {lamp}"


def shop() -> list[CatalogItem]:
    """Lamps at code 1 (red ones at 1 0), boats at code 2; every lamp is a light."""
    lamps = [CatalogItem("shop", f"lamp-{n}", (1, n // 3, n % 3), titled(n), {"tags": ["Light"]}) for n in range(9)]
    return [*lamps, *(CatalogItem("shop", f"boat-{n}", (2, n // 3, n % 3), f"Boat {n}") for n in range(9))]


def bundle_of(folder: Path, items: Sequence[CatalogItem]) -> Path:
    def fill(inside: Path) -> None:
        (inside / "catalog").mkdir()
        create_catalog(items, (3, 3, 3)).save(inside / "catalog")
        (inside / "catalog" / "vectors.safetensors").write_bytes(bytes(8))

    names = dict.fromkeys(item.domain for item in items)
    domains = {name: DomainEntry(token=row) for row, name in enumerate(names)}
    details = BundleDetails("2026-03-01T12:00:00+00:00", {}, {}, {}, (3, 3, 3), domains, {})
    write_bundle(folder / "bundle", fill=fill, details=details)
    return folder / "bundle"


def explain(bundle: Path, *arguments: str) -> str:
    """What ``sidera tokenizer explain`` prints, on a terminal of 200 columns."""
    asked = CliRunner().invoke(
        app, ["tokenizer", "explain", *arguments, "--bundle", str(bundle)], env={"COLUMNS": "200"}
    )
    assert asked.exit_code == 0, asked.output
    return asked.output


def test_every_prefix_says_how_many_share_it_and_which_words_stand_out(tmp_path: Path) -> None:
    found = explain_item(open_bundle(bundle_of(tmp_path, shop())), "lamp-1")
    assert (found.domain, found.title, found.sid, found.domain_items) == ("shop", "Red lamp 1", (1, 0, 1), 18)
    assert found.prefixes == (
        PrefixMeaning((1,), 9, ("lamp", "light", "red"), ("Red lamp 0", "Lamp 4", "Lamp 8")),
        PrefixMeaning((1, 0), 3, ("red", "lamp", "light"), ("Red lamp 0", "Red lamp 2")),
        PrefixMeaning((1, 0, 1), 1, ("red",), ()),
    )


def test_items_without_title_are_shown_by_id(tmp_path: Path) -> None:
    items = [CatalogItem("shop", f"item-{n}", (0, 0, n)) for n in range(2)]
    found = explain_item(open_bundle(bundle_of(tmp_path, items)), "item-0")
    assert found.title is None
    assert found.prefixes[0] == PrefixMeaning((0,), 2, (), ("item-1",))


def test_an_id_of_several_domains_needs_the_domain(tmp_path: Path) -> None:
    items = [*shop(), CatalogItem("films", "lamp-1", (0, 0, 0), "The Lamp")]
    bundle = open_bundle(bundle_of(tmp_path, items))
    with pytest.raises(CatalogError, match="'lamp-1' is in several domains; choose one with --domain: films, shop"):
        explain_item(bundle, "lamp-1")
    assert explain_item(bundle, "lamp-1", "films").title == "The Lamp"
    assert explain_item(bundle, "lamp-2").domain == "shop"
    with pytest.raises(UnknownDomainError, match="no domain 'music'"):
        explain_item(bundle, "lamp-1", "music")


def test_an_unknown_item_is_refused_with_similar_ids_and_titles(tmp_path: Path) -> None:
    bundle = open_bundle(bundle_of(tmp_path, shop()))
    with pytest.raises(CatalogError, match=r"no item 'lamp_4' in the bundle; close to it: 'lamp-4'"):
        explain_item(bundle, "lamp_4")
    with pytest.raises(CatalogError, match=r"no item 'red LAMP 2' in domain 'shop'; close to it: 'lamp-2'"):
        explain_item(bundle, "red LAMP 2", "shop")
    for nothing in ("xyz", ""):
        with pytest.raises(CatalogError, match=r"give an item_id as in items\.jsonl"):
            explain_item(bundle, nothing)


@pytest.mark.parametrize("typo", ["lamp-12", "lmap-1", "lam-1", "Lamp-1", "lamp1", "klamp-1", "xamp-1"])
def test_a_mistyped_id_is_recognised_wherever_the_slip_is(tmp_path: Path, typo: str) -> None:
    with pytest.raises(CatalogError, match=r"close to it: .*'lamp-1'"):
        explain_item(open_bundle(bundle_of(tmp_path, shop())), typo)


def test_looking_for_similar_ids_reads_a_bounded_number_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [(a, b, c) for a in range(16) for b in range(16) for c in range(16)]
    items = [CatalogItem("shop", f"item-{n:05d}-new", sid) for n, sid in enumerate(numbers)]
    create_catalog(items, (16, 16, 16)).save(tmp_path)
    catalog = Catalog.load(tmp_path, ["shop"], (16, 16, 16))
    read: list[str] = []
    ids_from = Catalog.ids_from

    def counted(self: Catalog, domain: str, beginning: str) -> Iterator[str]:
        for item_id in ids_from(self, domain, beginning):
            read.append(item_id)
            yield item_id

    monkeypatch.setattr(Catalog, "ids_from", counted)
    monkeypatch.setattr(Catalog, "name", None)
    similar = _similar_ids(catalog, "item-02049+nw", ["shop"])
    assert similar[0] == "item-02049-new"
    assert len(read) <= _CANDIDATES < len(items)


@pytest.mark.parametrize("strange", ["\udcff", "lamp\0-1", "l" * 10_000, " "])
def test_an_id_that_no_catalog_can_hold_is_an_unknown_item(tmp_path: Path, strange: str) -> None:
    with pytest.raises(CatalogError, match=r"there is no item .* in the bundle; "):
        explain_item(open_bundle(bundle_of(tmp_path, shop())), strange)


def test_a_title_is_found_in_the_domains_asked_for_only(tmp_path: Path) -> None:
    items = [*shop(), CatalogItem("films", "f", (0, 0, 0), "Красная ЛАМПА, boat 7")]
    bundle = open_bundle(bundle_of(tmp_path, items))
    with pytest.raises(CatalogError, match=r"in domain 'films'; close to it: 'f'$"):
        explain_item(bundle, "лампа", "films")
    with pytest.raises(CatalogError, match=r"in domain 'shop'; close to it: 'boat-7'$"):
        explain_item(bundle, "oat 7", "shop")


def test_a_changed_file_of_the_catalog_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle_of(tmp_path, shop())
    file = path / "catalog" / "items.arrow"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(Catalog, "load", None)
    with pytest.raises(BundleError, match=r"items\.arrow was changed"):
        explain_item(open_bundle(path), "lamp-1")


def test_only_the_catalog_s_items_are_read(tmp_path: Path) -> None:
    path = bundle_of(tmp_path, shop())
    (path / "catalog" / "vectors.safetensors").write_bytes(b"8 others")
    assert explain_item(open_bundle(path), "lamp-1").sid == (1, 0, 1)


def test_the_command_explains_an_item_of_a_trained_bundle(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    catalog = Catalog.load(tiny_bundle / "catalog", manifest.domains, manifest.codebook_sizes)
    number = catalog.find("films", "films-11")
    assert number is not None
    sid = catalog.sid("films", number)
    printed = explain(tiny_bundle, "films-11")
    assert f"films films-11: {tiny.title('films', 11)}" in printed
    assert f"SID {' '.join(map(str, sid))}, one of 40 items of films" in printed
    rows = [line.split("  ")[0].strip() for line in printed.splitlines()[5:] if line.strip()]
    assert rows == [" ".join(map(str, sid[:length])) for length in (1, 2, 3)]
    assert "none: this item alone" in printed


def test_the_command_prints_titles_as_they_are_and_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    items = [
        CatalogItem("shop", "a", (0, 0, 0), "[red]Lamp[/red] \x1b[31m"),
        CatalogItem("shop", "b", (0, 0, 1), "Boat\x07\nrow", json.loads('{"tags": []}')),
    ]
    printed = explain(bundle_of(tmp_path, items), "a", "--domain", "shop")
    assert "shop a: [red]Lamp[/red]  [31m" in printed
    assert "Boat  row" in printed
    assert "\x1b" not in printed
