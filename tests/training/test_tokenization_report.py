"""The report of a fitted tokenizer as JSON and as one page."""

import base64
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.tokenization import tokenize
from training.tokenization_report import write_report

SETTINGS = {"method": "rqkmeans", "codebook_sizes": [8, 8, 8]}
EVIL = '<script>alert("a")</script>'


def vectors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    basis = random.normal(size=(3, 10))
    return {
        name: (random.normal(size=(items, 3)) @ basis).astype(np.float32) for name, items in (("films", 90), ("one", 1))
    }


def fields() -> dict[str, list[dict[str, Any]]]:
    sides = ["left" if vector[0] < 0 else "right" for vector in vectors()["films"]]
    films: list[dict[str, Any]] = [
        {"item_id": f"f{n}", "title": f"{EVIL} {n}", "categories": ["Film", f"{side} & more"]}
        for n, side in enumerate(sides)
    ]
    return {"films": films, "one": [{"item_id": EVIL}]}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("report")
    cf = {
        name: np.random.default_rng(1).normal(size=(len(rows), 4)).astype(np.float32)
        for name, rows in vectors().items()
    }
    return tokenize(vectors(), SETTINGS, folder, cf, fields()).report


class Page(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(report: Mapping[str, Any], folder: Path) -> Page:
    write_report(report, folder)
    page = Page((folder / "tokenization.html").read_text())
    assert page.open == []
    return page


def test_titles_and_ids_are_text_in_the_page_whatever_they_hold(report: Mapping[str, Any], tmp_path: Path) -> None:
    page = page_of(report, tmp_path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert f"{EVIL} 1" in page.words
    assert f"films: {EVIL}" in page.words


def test_the_page_needs_no_other_file(report: Mapping[str, Any], tmp_path: Path) -> None:
    page = page_of(report, tmp_path)
    content = (tmp_path / "tokenization.html").read_text()
    assert "http" not in re.sub(r"base64,[^\"]*", "", content)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    for picture in pictures:
        assert picture["alt"]
        source = str(picture["src"])
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert len(pictures) == 6, "collisions, errors, use, entropy, dependence, map"
    assert not {"src", "href"} & {key for tag, attributes in page.tags if tag != "img" for key in attributes}
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_the_same_report_is_written_in_the_same_bytes(report: Mapping[str, Any], tmp_path: Path) -> None:
    again = tokenize(vectors(), SETTINGS, tmp_path / "again", None, fields()).report
    assert again["maps"] == report["maps"]
    assert again["domains"]["films"]["nearest_items"] == report["domains"]["films"]["nearest_items"]
    for folder in ("a", "b"):
        write_report(report, tmp_path / folder)
    for name in ("tokenization.html", "tokenization.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_page_shows_the_figures_of_the_json(report: Mapping[str, Any], tmp_path: Path) -> None:
    words = page_of(report, tmp_path).words
    assert json.loads((tmp_path / "tokenization.json").read_text()) == report
    films = report["domains"]["films"]
    for shown in (
        f"{films['relative_reconstruction_error']['held_out']:.3f}",
        f"{films['quantisation_error']['all']:.3f}",
        f"{report['levels'][2]['perplexity']:.1f}",
        f"{films['levels'][0]['entropy_bits']:.2f}",
        f"{report['dependence']['domains']['films']['cka']:.3f}",
        f"{films['category_agreement']['first_two_codes']['chance']:.3f}",
        f"{100 * films['codes_shared_with_cf_neighbours']['all']['chance'][0]:.1f} %",
        " / ".join(map(str, films["moved_per_level"])),
    ):
        assert shown in words
    found = [code["words"] for code in films["first_codes"]]
    assert {word for own in found for word in own} >= {"left", "right"}
    assert all(", ".join(own) in words for own in found)


def test_the_report_without_titles_leaves_out_what_only_titles_tell(tmp_path: Path) -> None:
    plain = tokenize(vectors(), SETTINGS, tmp_path).report
    assert not {"first_codes", "nearest_items", "category_agreement"} & set(plain["domains"]["films"])
    words = page_of(plain, tmp_path).words
    assert "Collisions" in words
    assert "What first codes mean" not in words


@pytest.mark.parametrize("titles", [True, False])
def test_a_lone_item_has_a_report(titles: bool, tmp_path: Path) -> None:
    one = {"one": vectors()["one"]}
    made = tokenize(one, SETTINGS, tmp_path, None, {"one": fields()["one"]} if titles else None).report
    assert made["relative_reconstruction_error"] == {"all": None, "held_out": None}
    assert made["domains"]["one"]["relative_reconstruction_error"]["all"] is None
    assert "No domain has enough items" in page_of(made, tmp_path).words


def test_pooled_figures_weigh_domains_by_their_items(tmp_path: Path) -> None:
    twins = vectors() | {"twins": np.repeat(vectors()["one"], 30, axis=0)}
    made = tokenize(twins, SETTINGS, tmp_path).report
    domains = made["domains"]
    assert made["items"] == 121
    assert made["identical_vectors"] == domains["twins"]["identical_vectors"] == 29
    different = sum(round(own["items"] * (1 - own["collision_rate_before"])) for own in domains.values())
    assert made["collision_rate_before"] == pytest.approx(1 - different / 121)
    assert made["collision_rate_before_distinct_vectors"] == pytest.approx(1 - different / (121 - 29))
    assert made["collision_rate_after"] == 0
    assert sum(made["moved_per_level"]) == sum(sum(own["moved_per_level"]) for own in domains.values())
    spent = sum(own["items"] * own["extra_quantisation_error"] for own in domains.values())
    assert made["extra_quantisation_error"] == pytest.approx(spent / 121)


@pytest.mark.parametrize("method", ["gencdr", "unitok"])
def test_methods_with_a_router_show_its_load_and_gencdr_what_the_domain_changes(method: str, tmp_path: Path) -> None:
    small = {"hidden_sizes": [8], "latent_dim": 4, "epochs": 2, "warm_up_epochs": 1, "batch_size": 64}
    made = tokenize(vectors(), {**SETTINGS, **small, "method": method}, tmp_path, None, fields()).report
    loads = made["domains"]["films"]["routes"]
    for shares in loads.values():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert list(made["maps"]) == (["before", "after"] if method == "gencdr" else ["after"])
    page = page_of(made, tmp_path)
    assert "Load of the router" in page.words
    assert all(route in page.words for route in loads["mean_share"])
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 7
