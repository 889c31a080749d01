"""A domain joins a bundle: what learns, what stays, what is refused, and what is kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from sidera.bundle import Bundle, open_bundle, verify_bundle
from sidera.bundle_writing import write_bundle
from sidera.catalog import Catalog
from sidera.cli import main
from sidera.errors import DomainFullError, EmbeddingError
from sidera.items.memory_router import FEATURES, MemoryRouter
from sidera.items.neighbours import Neighbours, Shares, load_neighbours
from sidera.loading import load_bundle
from sidera.manifest import DomainEntry
from sidera.recommender import Query
from tests import tiny
from training.add_domain import Added, add_domain
from training.bundle_evaluation import evaluate_bundle
from training.errors import ConfigError, DataError
from training.neighbour_stage import Weights

WEIGHTS = "backbone/model.safetensors"
REWRITTEN = {"manifest.json", WEIGHTS, "samples/requests.json", "report/metrics.json"}


@pytest.fixture(scope="module")
def data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the tiny bundle, and ``plays``, in which users of it act at times of their own."""
    folder = tmp_path_factory.mktemp("later") / "data"
    shutil.copytree(tiny_data, folder)
    shutil.copytree(tiny.write_data(folder.parent / "plays", {"plays": 24}, users=30) / "plays", folder / "plays")
    return folder


@pytest.fixture(scope="module")
def added(tiny_bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Added, list[str]]:
    """The bundle with ``plays``, what was returned, and what was said. Read only."""
    out = tmp_path_factory.mktemp("added") / "bundle"
    said: list[str] = []
    return out, add_domain(tiny_bundle, data, "plays", out, said.append, "cpu", 1), said


def catalog_of(bundle: Bundle) -> Catalog:
    return Catalog.load(bundle.folder("catalog"), bundle.manifest.domains, bundle.manifest.codebook_sizes)


def numbers_of(catalog: Catalog, domain: str) -> dict[str, int]:
    return {catalog.name(number)[0]: number for number in catalog.index(domain).number_of_leaf.tolist()}


def test_all_weights_but_the_new_tokens_row_and_the_new_adapter_are_bit_for_bit_those_of_before(
    tiny_bundle: Path, added: tuple[Path, Added, list[str]]
) -> None:
    old, new = open_bundle(tiny_bundle).manifest, open_bundle(added[0]).manifest
    assert verify_bundle(added[0]) == []
    same = [name for name in old.files if name not in REWRITTEN and not name.startswith("catalog/")]
    assert {name: new.files.get(name) for name in same} == {name: old.files[name] for name in same}
    assert {"adapters/domain-films/adapter_model.safetensors", "backbone/config.json"} <= set(same)
    before, after = load_file(tiny_bundle / WEIGHTS), load_file(added[0] / WEIGHTS)
    assert before.keys() == after.keys()
    different = [name for name in before if not np.array_equal(before[name], after[name])]
    assert different == ["model.embed_tokens.weight"]
    (name,) = different
    assert np.flatnonzero((before[name] != after[name]).any(axis=1)).tolist() == [2 + new.domains["plays"].token]
    assert new.domains["plays"] == DomainEntry(3, "adapters/domain-plays")
    assert set(new.files) - set(old.files) >= {"adapters/domain-plays/adapter_model.safetensors"}


def test_sids_vectors_lists_and_shares_of_the_known_domains_stay(
    tiny_bundle: Path, added: tuple[Path, Added, list[str]]
) -> None:
    bundles = open_bundle(tiny_bundle), open_bundle(added[0])
    catalogs = [catalog_of(bundle) for bundle in bundles]
    vectors = [load_file(bundle.path("catalog/vectors.safetensors"))["vectors"] for bundle in bundles]
    lists = [load_neighbours(bundle.path("catalog/neighbours.safetensors")) for bundle in bundles]
    for domain in tiny.DOMAINS:
        old, new = (numbers_of(catalog, domain) for catalog in catalogs)
        assert old.keys() == new.keys()
        new_of_old = {old[item_id]: new[item_id] for item_id in old}
        for item_id, number in old.items():
            assert catalogs[1].item(new[item_id]) == catalogs[0].item(number)
            assert np.array_equal(vectors[1][new[item_id]], vectors[0][number])
            assert lists[1].popularity[new[item_id]] == lists[0].popularity[number]
            for before, after in (
                (lists[0].transitions.of(number), lists[1].transitions.of(new[item_id])),
                (lists[0].similar.of(number), lists[1].similar.of(new[item_id])),
            ):
                assert [new_of_old[listed] for listed in before[0].tolist()] == after[0].tolist()
                assert np.array_equal(before[1], after[1])
        assert lists[1].shares[domain] == lists[0].shares[domain]
        number = next(iter(old.values()))
        found_S, mass_S = lists[0].readers[domain].read([number])
        said = dict(zip([new_of_old[found] for found in found_S.tolist()], mass_S.tolist(), strict=True))
        found_S, mass_S = lists[1].readers[domain].read([new_of_old[number]])
        assert dict(zip(found_S.tolist(), mass_S.tolist(), strict=True)) == pytest.approx(said)
        assert lists[1].readers[domain].share == lists[0].readers[domain].share
    assert (lists[1].unseen, lists[1].reading) == (lists[0].unseen, lists[0].reading)


def test_the_new_domain_has_lists_and_shares_of_its_own(added: tuple[Path, Added, list[str]]) -> None:
    bundle = open_bundle(added[0])
    catalog, lists = catalog_of(bundle), load_neighbours(bundle.path("catalog/neighbours.safetensors"))
    own = numbers_of(catalog, "plays")
    followed, _ = lists.transitions.of(own["plays-4"])
    assert own["plays-6"] in followed.tolist(), "every user takes the next item but one"
    alike, _ = lists.similar.of(own["plays-4"])
    assert set(alike.tolist()) <= set(own.values())
    assert lists.popularity[list(own.values())].sum() == pytest.approx(1)
    shares = lists.shares["plays"]
    assert shares.transitions + shares.similar > shares.popularity
    assert sorted(own.values()) == lists.readers["plays"].number_I.tolist()
    assert shares != lists.unseen


def test_the_bundle_has_the_shares_the_reader_and_the_router_that_were_found_best_beside_those_of_before(
    tiny_bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_F, width = np.ones(len(FEATURES), np.float32), (2, len(FEATURES))
    outer_GH = np.ones((4, 2), np.float32)
    router = MemoryRouter(one_F, one_F, np.ones(width, np.float32), one_F[:2].copy(), outer_GH, one_F[:4].copy(), 1.25)

    def found(run: Any, recommender: Any, listed: Neighbours, index: int) -> Weights:
        return Weights(Shares(0.5, 0.25), replace(listed.readers["plays"], share=0.375), router)

    monkeypatch.setattr("training.add_domain.weights_in", found)
    add_domain(tiny_bundle, data, "plays", tmp_path / "bundle", lambda said: None, "cpu", 1)
    before, after = (
        load_neighbours(open_bundle(bundle).path("catalog/neighbours.safetensors"))
        for bundle in (tiny_bundle, tmp_path / "bundle")
    )
    assert after.shares == {**before.shares, "plays": Shares(0.5, 0.25)}
    assert after.readers["plays"].share == 0.375
    assert after.routers.keys() == {*before.routers, "plays"}
    assert after.routers["plays"].bound == 1.25


def test_the_report_says_what_a_second_evaluation_of_the_bundle_says(
    tiny_bundle: Path, data: Path, added: tuple[Path, Added, list[str]]
) -> None:
    out, made, _ = added
    assert list(made.report["domains"]) == ["plays"]
    assert made.report["domains"]["plays"]["targets"] == 30
    evaluated = evaluate_bundle(out, data, "cpu")
    assert evaluated.notes == (), "the bundle knows these data"
    assert evaluated.report["domains"]["plays"]["rankers"] == made.report["domains"]["plays"]["rankers"]
    manifest = open_bundle(out).manifest
    old = open_bundle(tiny_bundle).manifest
    assert manifest.metrics == {
        **old.metrics,
        "domains": {**old.metrics["domains"], "plays": made.report["domains"]["plays"]},
    }
    assert json.loads((out / "report" / "metrics.json").read_text()) == manifest.metrics


def test_the_lineage_names_the_bundle_and_the_data_that_the_domain_came_from(
    tiny_bundle: Path, added: tuple[Path, Added, list[str]]
) -> None:
    old, new = open_bundle(tiny_bundle).manifest, open_bundle(added[0]).manifest
    (about,) = new.lineage["added"]
    assert (about["domain"], about["bundle"]) == ("plays", old.bundle_version)
    assert about["data"] == new.lineage["data"] != old.lineage["data"]
    assert new.config == old.config


def test_the_new_bundle_serves_all_domains_and_warms_up_with_the_new_one(
    added: tuple[Path, Added, list[str]],
) -> None:
    loaded = load_bundle(added[0], "cpu")
    assert {body["domain"] for body in loaded.samples} == {*tiny.DOMAINS, "plays"}
    history = (("films", "films-3"), ("plays", "plays-4"))
    for domain in (*tiny.DOMAINS, "plays"):
        (answer,) = loaded.recommender.recommend([Query(domain, history)])
        assert len(answer.items) == 10
        assert answer.missing == ()


def test_a_domain_without_the_others_data_joins_too_and_a_second_one_behind_it(
    added: tuple[Path, Added, list[str]], tmp_path: Path
) -> None:
    data = tiny.write_data(tmp_path / "data", {"songs": 16, "unknown": 8}, users=12)
    said: list[str] = []
    again = add_domain(added[0], data, "songs", tmp_path / "bundle", said.append, "cpu", 1)
    assert said[0] == "left out, since the bundle does not hold them: unknown"
    assert [about["domain"] for about in again.manifest.lineage["added"]] == ["plays", "songs"]
    assert {name: entry.token for name, entry in again.manifest.domains.items()} == {
        **{name: row for row, name in enumerate(sorted(tiny.DOMAINS))},
        "plays": 3,
        "songs": 4,
    }
    assert again.manifest.lineage["data"] == added[1].manifest.lineage["data"]


def test_a_second_start_keeps_all_and_a_lost_bundle_is_written_again_from_the_stages(
    tiny_bundle: Path, data: Path, added: tuple[Path, Added, list[str]], tmp_path: Path
) -> None:
    out, made, _ = added
    work = out.with_name("bundle.work")
    said: list[str] = []
    assert add_domain(tiny_bundle, data, "plays", out, said.append, "cpu", 1) == made
    assert said == [f"everything kept: neither bundle nor data have changed since {out} was written"]
    shutil.copytree(work, tmp_path / "bundle.work")
    said.clear()
    again = add_domain(tiny_bundle, data, "plays", tmp_path / "bundle", said.append, "cpu", 1)
    assert [sentence for sentence in said if "kept" in sentence] == [
        "SIDs: kept by the bundle's tokenizer, rqvae",
        "adapter plays: kept, with its token's row",
    ]
    assert again.manifest.files == made.manifest.files


def test_a_run_that_was_stopped_between_training_and_its_end_goes_on_to_the_same_bundle(
    tiny_bundle: Path,
    data: Path,
    added: tuple[Path, Added, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*told: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("training.add_domain.save_universal", stopped)
        with pytest.raises(KeyboardInterrupt):
            add_domain(tiny_bundle, data, "plays", tmp_path / "bundle", lambda said: None, "cpu", 1)
    assert (tmp_path / "bundle.work" / "adapter" / "training" / "checkpoint.pt").exists()
    again = add_domain(tiny_bundle, data, "plays", tmp_path / "bundle", lambda said: None, "cpu", 1)
    assert again.manifest.files == added[1].manifest.files


def test_the_command_prints_the_report_of_the_new_domain_and_errors_in_one_sentence(
    tiny_bundle: Path, data: Path, added: tuple[Path, Added, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["add-domain", str(tiny_bundle), "--data", str(data), "--out", str(added[0]), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--domain", "plays"])
    assert ended.value.code == 0
    told = capsys.readouterr()
    assert told.out.startswith("everything kept: neither bundle nor data have changed since")
    assert "plays (30)" in told.out
    assert told.err == ""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--domain", "films"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"Error: {tiny_bundle}: the bundle has the domain 'films' already; give another --domain, or train a bundle "
        "anew\n"
    )


def test_items_without_text_get_vectors_from_the_events_of_the_domain(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    data = tiny.write_data(tmp_path / "data", {"plays": 12}, users=12)
    rows = [{"item_id": f"plays-{item}"} | ({"title": "blue lamp"} if item % 3 else {}) for item in range(12)]
    (data / "plays" / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(tiny_data / "films", data / "films")
    added = add_domain(tiny_bundle, data, "plays", tmp_path / "bundle", lambda said: None, "cpu", 1)
    assert added.report["domains"]["plays"]["targets"] == 12


def changed(bundle: Path, out: Path, **changes: Any) -> Path:
    """A copy of a bundle with another manifest."""
    manifest = open_bundle(bundle).manifest
    details = replace(manifest, **changes)

    def fill(folder: Path) -> None:
        for name in manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, folder / name)

    write_bundle(out, fill=fill, details=details)
    return out


def refused(bundle: Path, data: Path, name: str, out: Path) -> None:
    add_domain(bundle, data, name, out, lambda said: None, "cpu", 1)


def test_wrong_input_is_refused_before_anything_is_trained(tiny_bundle: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "bundle"
    with pytest.raises(ConfigError, match="the bundle has the domain 'films' already; give another --domain"):
        refused(tiny_bundle, data, "films", out)
    with pytest.raises(DataError, match="there is no domain 'music'; choose among books, films, games, plays"):
        refused(tiny_bundle, data, "music", out)
    with pytest.raises(ConfigError, match=r"is the bundle that the domain joins; choose another place"):
        refused(tiny_bundle, data, "plays", tiny_bundle)

    shutil.copytree(data / "plays", tmp_path / "empty" / "plays")
    (tmp_path / "empty" / "plays" / "interactions.csv").unlink()
    with pytest.raises(DataError, match=r"there is no interactions.csv or .*; put one of them there"):
        refused(tiny_bundle, tmp_path / "empty", "plays", out)
    events = "user_id,item_id,timestamp\nuser-1,plays-1,1600000000\nuser-1,plays-2,1600000001\n"
    (tmp_path / "empty" / "plays" / "interactions.csv").write_text(events)
    with pytest.raises(DataError, match="no user has 3 events in 'plays', so nothing can be learned; add events"):
        refused(tiny_bundle, tmp_path / "empty", "plays", out)

    entries = open_bundle(tiny_bundle).manifest.domains
    full = {**entries, **{f"d{row}": DomainEntry(row) for row in range(3, 32)}}
    with pytest.raises(ConfigError, match="all 32 token rows are taken, so 'plays' cannot learn one; register"):
        refused(changed(tiny_bundle, tmp_path / "full", domains=full), data, "plays", out)

    shutil.copytree(data, tmp_path / "more")
    with (tmp_path / "more" / "films" / "items.jsonl").open("a") as file:
        file.write('{"item_id": "new-1", "title": "blue boat"}\n')
    with pytest.raises(DataError, match="1 items of 'films' are not in the bundle, 'new-1' the first of them; remove"):
        refused(tiny_bundle, tmp_path / "more", "plays", out)

    many = tiny.write_data(tmp_path / "many", {"plays": 60}, users=12)
    rows = [{"item_id": f"plays-{item}", "title": "blue boat"} for item in range(600)]
    (many / "plays" / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DomainFullError, match=r"domain 'plays' would hold 600 items, but codebook sizes \[8, 8, 8\]"):
        refused(tiny_bundle, many, "plays", out)
    assert not (out.parent / "bundle.work" / "vectors").exists()
    assert not (out.parent / "bundle.work" / "adapter").exists()


def test_another_encoder_than_the_bundles_is_refused(tiny_bundle: Path, data: Path, tmp_path: Path) -> None:
    embedder = tiny_bundle / "embedder" / "config.json"
    other = json.loads(embedder.read_text()) | {"digest": "0" * 64}
    copy = changed(tiny_bundle, tmp_path / "copy")
    (tmp_path / "embedder.json").write_text(json.dumps(other))
    manifest = open_bundle(copy).manifest

    def fill(folder: Path) -> None:
        for name in manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(
                tmp_path / "embedder.json" if name == "embedder/config.json" else copy / name, folder / name
            )

    write_bundle(tmp_path / "other", fill=fill, details=manifest)
    with pytest.raises(EmbeddingError, match="but the vectors come from 000000000000; install the same encoder"):
        refused(tmp_path / "other", data, "plays", tmp_path / "bundle")
    assert not (tmp_path / "bundle.work" / "vectors").exists()
